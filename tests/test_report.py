import shutil

import numpy as np
import pytest

from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.report import lesion_contrast, report, write_report
from tests.conftest import ANY_MASK, run_bundle


def test_contrast_is_inside_minus_ring():
    image, mask = np.full((40, 40), 0.1), np.zeros((40, 40), bool)
    mask[15:25, 15:25] = True
    image[mask] = 0.6
    image[:5] = 5.0  # far away: not in the ring
    image[14, 15:25] = 9.0  # touches the lesion: its blurred edge is no surrounding
    assert lesion_contrast(image, mask) == pytest.approx(0.5)
    assert lesion_contrast(-image, mask) == pytest.approx(-0.5)


def test_report_of_a_finished_demo(trained, scrambled, phantom_dataset, tmp_path):
    shutil.copytree(phantom_dataset, tmp_path / "dataset")
    shutil.copytree(phantom_dataset.parent / "phantom", tmp_path / "phantom")
    metrics = {  # losses every 50 iterations, validations every 60: each leaves the other's cells empty
        "guider": "iteration,loss,validation_loss\n50,0.5,\n60,,0.75\n100,0.25,\n120,,0.625\n",
        "generator": "iteration,loss,validation_loss\n50,0.5,\n100,0.125,\n",  # no fold held out
    }
    for role in ("guider", "generator"):
        shutil.copytree(trained / role, tmp_path / role)
        (tmp_path / role / "metrics.csv").write_text(metrics[role])
    ids = {"num_pairs": 3, "num_inference_steps": 3, "min_accepted": 0, "device": "cpu", **ANY_MASK}
    checkpoints = {f"{role}_ckpt": scrambled / role for role in ("guider", "generator")}
    ids |= {"output_dir": tmp_path / "pairs"}
    result = run_bundle("infer_pairs", "configs/infer_pairs.yaml", **checkpoints, **ids)
    assert result.returncode == 0, result.stderr
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<td>accepted pairs</td><td>3</td>" in text
    guider, generator = text.split("The guider makes")[1].split("The conditional generator makes")
    assert "<td>last loss</td><td>0.2500</td>" in guider
    assert "<td>last validation loss</td><td>0.6250</td>" in guider
    assert "<td>last loss</td><td>0.1250</td>" in generator
    assert "validation" not in generator.split("<h2>")[0]
    assert f"<td>phantom slices</td><td>{len(read_datalist(phantom_dataset)['training'])}</td>" in text
    assert text.count("data:image/png;base64,") == 3
    assert "not patients" in text
    datalist = tmp_path / "dataset/datalist.json"
    datalist.write_text(datalist.read_text().replace('"origin": "phantom"', '"origin": "real"', 1))
    with pytest.raises(PigError, match="no phantom's"):  # it would say of a patient that it is none
        report(run=str(tmp_path))
