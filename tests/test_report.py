import shutil

import numpy as np
import pytest

from pig_monai.data.folder import read_datalist
from pig_monai.report import lesion_contrast, write_report
from tests.conftest import run_bundle


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
    for role in ("guider", "generator"):
        shutil.copytree(trained / role, tmp_path / role)
        (tmp_path / role / "losses.csv").write_text("iteration,loss\n50,0.5\n100,0.25\n")
    ids = {"num_pairs": 3, "num_inference_steps": 3, "min_accepted": 0, "device": "cpu"}
    checkpoints = {f"{role}_ckpt": scrambled / role for role in ("guider", "generator")}
    run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=tmp_path / "pairs", **checkpoints, **ids)
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<td>accepted pairs</td><td>3</td>" in text
    assert "<td>last loss</td><td>0.2500</td>" in text
    assert f"<td>phantom slices</td><td>{len(read_datalist(phantom_dataset)['training'])}</td>" in text
    assert text.count("data:image/png;base64,") == 3
    assert "not patients" in text
