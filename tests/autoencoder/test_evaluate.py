"""evaluate_autoencoder.yaml: figures of an autoencoder whose mistakes are known."""

import csv
import json
import weakref

import numpy as np
import pytest
from PIL import Image
from torch.nn import functional as F

from pig_monai.autoencoder import evaluate as evaluate_module
from pig_monai.autoencoder.evaluate import AutoencoderEvaluation
from pig_monai.autoencoder.quality import dice_of, lesion_crops
from pig_monai.checkpoint import save_weights
from pig_monai.data.folder import fingerprint, read_slice
from pig_monai.errors import PigError
from tests.autoencoder.known import meta, network
from tests.conftest import last_line, run_bundle
from tests.evaluation.known import BUNDLE, SIZE, make_dataset, write_segmenter

EVALUATED = ["same", "shifted", "two", "free", "unknown", "unannotated"]
CONFIG = "configs/evaluate_autoencoder.yaml"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("known") / "dataset")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """Weights that predict what is brighter than 0."""
    return write_segmenter(tmp_path_factory.mktemp("copier"), gain=4.0, offset=0.0)


def weights(folder, dataset, fold=0, **more):
    net = network()
    described = meta(net, [0.0] * 3, [1.0] * 3) | {"image_size": SIZE, "fold": fold, "data": fingerprint(dataset)}
    save_weights(folder / "model_autoencoder.pt", net.state_dict(), described | more)
    return folder / "model_autoencoder.pt"


class Forgetful:
    """Latents that are 2 × 2 patches; it dims slices by 0.1 and loses what is bright in columns 16 to 35."""

    def __init__(self, described):
        self.meta, self.sha256, self.factor, self.channels = described, "a" * 64, 2, 4

    def encode(self, slices):
        return F.pixel_unshuffle(slices, 2)

    def decode(self, latents):
        slices = F.pixel_shuffle(latents, 2) - 0.1
        slices[:, :, 16:36][slices[:, :, 16:36] > 0] = -0.5
        return slices.clamp(-1, 1)


def evaluate(known, segmenter, folder, made_by=Forgetful, **more):
    given = {
        "segmenter_ckpt": segmenter and str(segmenter),
        "fold": None,
        "output_dir": folder / "out",
        "amp": False,
    }
    evaluation = AutoencoderEvaluation(BUNDLE, known.folder, weights(folder, known.folder), **given | more)
    described = evaluation.autoencoder.meta
    evaluation.__dict__["autoencoder"] = made_by(described)
    evaluation.run()
    return folder / "out"


@pytest.fixture(scope="module")
def evaluated(known, segmenter, tmp_path_factory):
    return evaluate(known, segmenter, tmp_path_factory.mktemp("evaluated"))


def truth(known, name):
    return read_slice(known.folder / f"images/{name}.nii.gz").astype(np.float64)


def made(known, name):
    x = truth(known, name) - 0.1
    x[16:36][x[16:36] > 0] = -0.5
    return np.clip(x, -1, 1)


def psnr(one, other):
    return 10 * np.log10(4 / ((one - other) ** 2).mean())


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def rows(folder):
    with open(folder / "autoencoder.csv", newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def test_rows_hold_the_figures_of_the_known_mistakes(known, evaluated):
    found = rows(evaluated)
    assert list(found) == EVALUATED
    for name, row in found.items():
        x, y = truth(known, name), made(known, name)
        assert float(row["psnr"]) == pytest.approx(psnr(x, y), abs=1e-3)
        assert float(row["mae"]) == pytest.approx(np.abs(x - y).mean(), rel=1e-4)
        mask = known.truths.get(name, np.zeros((SIZE, SIZE), bool))
        crops = [psnr(x[box], y[box]) for box in lesion_crops(mask)]
        assert int(row["lesions"]) == len(crops)
        if not crops:
            assert row["lesion_psnr"] == row["dice_slice"] == row["dice_reconstruction"] == ""
            continue
        assert float(row["lesion_psnr"]) == pytest.approx(np.mean(crops), abs=1e-3)
        assert float(row["dice_slice"]) == pytest.approx(dice(mask, x > 0), abs=1e-6)
        assert float(row["dice_reconstruction"]) == pytest.approx(dice(mask, y > 0), abs=1e-6)


def test_the_summary_holds_means_and_paired_differences_over_patients(known, evaluated):
    summary = json.loads((evaluated / "autoencoder.json").read_text())
    found, measures = rows(evaluated), summary["measures"]
    for name in ("psnr", "ssim", "mae"):
        values = np.array([float(row[name]) for row in found.values()])
        assert measures[name]["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert measures[name]["sd"] == pytest.approx(values.std(ddof=1), rel=1e-6)
        assert (measures[name]["n"], measures[name]["patients"]) == (6, 3)
    assert measures["lesion_psnr"]["n"] == 5  # slice "two" has two of them
    annotated = [found[name] for name in ("same", "shifted", "two", "unknown")]
    apart = [float(row["dice_reconstruction"]) - float(row["dice_slice"]) for row in annotated]
    assert measures["dice_difference"]["mean"] == pytest.approx(np.mean(apart), rel=1e-6)
    by_patient = {"a": np.mean(apart[:2]), "b": apart[2], "d": apart[3]}
    assert min(by_patient.values()) <= measures["dice_difference"]["low"] <= np.mean(apart)
    assert np.mean(apart) <= measures["dice_difference"]["high"] <= max(by_patient.values())
    assert summary["counts"] == {"slices": 6, "patients": 3, "annotated": 5, "lesions": 5}
    patches = np.stack([truth(known, name) for name in EVALUATED])[:, 1::2, 0::2]  # channel 2 of four
    assert summary["latents"]["mean"][2] == pytest.approx(patches.mean(), abs=1e-6)
    assert summary["latents"]["std"][2] == pytest.approx(patches.std(), abs=1e-6)
    assert str(known.folder) not in (evaluated / "autoencoder.json").read_text()


def test_the_table_says_the_same_for_people(evaluated):
    table = (evaluated / "autoencoder.md").read_text()
    measures = json.loads((evaluated / "autoencoder.json").read_text())["measures"]
    line = next(line for line in table.splitlines() if line.startswith("| PSNR, dB"))
    assert f"| {measures['psnr']['mean']:.2f} ± {measures['psnr']['sd']:.2f} " in line
    assert "6 slices" in line
    error = next(line for line in table.splitlines() if line.startswith("| mean absolute error, %"))
    assert f"| {50 * measures['mae']['mean']:.2f} ± " in error  # of a range of 2
    difference = next(line for line in table.splitlines() if line.startswith("| difference of the two"))
    assert f"| {100 * measures['dice_difference']['mean']:.2f} ± " in difference


def test_the_picture_shows_slices_with_a_lesion(known, evaluated):
    picture = np.asarray(Image.open(evaluated / "autoencoder.png"))
    side = 3 * SIZE
    assert picture.shape == (3 * side + 8, 4 * side + 12, 3)
    first = picture[:side, :side]
    orange = (first == (255, 140, 0)).all(-1)
    assert orange.any()
    x, y = np.nonzero(orange)[1], np.nonzero(orange)[0]
    assert 3 * 9 <= x.min() <= x.max() < 3 * 19  # around the box from 10 to 18
    assert 3 * 9 <= y.min() <= y.max() < 3 * 19


def test_slices_are_forgotten_once_they_are_measured(known, segmenter, evaluated, tmp_path, monkeypatch):
    """The same figures, to the last byte, with one batch of one slice in memory instead of all."""
    alive, chunks, most = weakref.WeakSet(), [], []

    class Watched(Forgetful):
        def encode(self, slices):
            most.append(len(alive))
            alive.update([slices, latents := super().encode(slices)])
            return latents

    def counted(segmenter, images, *given):
        chunks.append(len(images))
        return dice_of(segmenter, images, *given)

    monkeypatch.setattr(evaluate_module, "CHUNK", 1)
    monkeypatch.setattr(evaluate_module, "dice_of", counted)
    out = evaluate(known, segmenter, tmp_path, batch_size=1, made_by=Watched)
    assert chunks == [1] * 10  # five annotated slices, and what was made of them
    assert max(most) <= 4  # of the slice at hand and the one before
    for name in ("autoencoder.csv", "autoencoder.json", "autoencoder.md", "autoencoder.png"):
        assert (out / name).read_bytes() == (evaluated / name).read_bytes()


def test_without_a_segmenter_there_is_no_dice_and_it_is_said(known, tmp_path, capsys):
    out = evaluate(known, None, tmp_path)
    summary = json.loads((out / "autoencoder.json").read_text())
    assert summary["measures"]["dice_difference"]["n"] == 0
    assert summary["segmenter"] is None
    assert "Dice" not in (out / "autoencoder.md").read_text()
    assert "without a segmenter nothing says whether lesions are still found" in capsys.readouterr().err


def test_the_command_evaluates_the_fold_that_was_held_out(known, segmenter, tmp_path):
    ids = {"dataset_dir": known.folder, "autoencoder_ckpt": weights(tmp_path, known.folder), "device": "cpu",
           "segmenter_ckpt": segmenter, "output_dir": tmp_path / "out", "amp": "false"}  # fmt: skip
    plan = run_bundle("evaluate_autoencoder", CONFIG, **ids, dry_run="true")
    assert plan.returncode == 0, plan.stderr
    assert not (tmp_path / "out").exists()
    assert "slices:      6 of fold 0" in plan.stdout
    assert "latents:     3 × 16 × 16" in plan.stdout
    result = run_bundle("evaluate_autoencoder", CONFIG, **ids)
    assert result.returncode == 0, result.stderr
    assert list(rows(tmp_path / "out")) == EVALUATED
    assert (tmp_path / "out/autoencoder.md").read_text() in result.stdout
    assert json.loads((tmp_path / "out/run.json").read_text())["workflow"] == "autoencoder evaluation"


def refused(known, folder, ckpt, segmenter=None, **more):
    given = {"fold": None, "output_dir": folder / "out", **more}
    with pytest.raises(PigError) as caught:
        AutoencoderEvaluation(BUNDLE, known.folder, ckpt, segmenter, **given).run()
    assert not (folder / "out").exists()
    return str(caught.value)


def test_slices_that_were_trained_on_are_refused(known, tmp_path):
    held_0, nothing_held = (weights(tmp_path / str(fold), known.folder, fold) for fold in (0, -1))
    assert "with fold 0 held out, and fold is 1; give --fold 0" in refused(known, tmp_path, held_0, fold=1)
    assert "with fold 0 held out, and fold is -1; give --fold 0" in refused(known, tmp_path, held_0, fold=-1)
    assert "with no fold held out, and fold is -1; evaluate it on other" in refused(known, tmp_path, nothing_held)
    elsewhere = weights(tmp_path / "other", known.folder, data="0" * 64)
    assert "was trained on another dataset" in refused(known, tmp_path, elsewhere)
    evaluation = AutoencoderEvaluation(BUNDLE, known.folder, elsewhere, None, -1, tmp_path / "out")
    assert [entry["fold"] for entry in evaluation.entries] == [0, 0, 0, 0, 0, 0, 1]  # all that are real


def test_a_segmenter_that_saw_the_fold_is_refused(known, tmp_path):
    ckpt = weights(tmp_path, known.folder)
    other = write_segmenter(tmp_path / "segmenter", 4.0, 0.0, fold=1, patients=["a"])
    assert "was trained with fold 1 held out, and fold is 0" in refused(known, tmp_path, ckpt, str(other))


def test_a_mistyped_path_ends_with_one_line(known, tmp_path):
    result = run_bundle(
        "evaluate_autoencoder", CONFIG, dataset_dir=known.folder, autoencoder_ckpt=tmp_path / "none.pt",
        output_dir=tmp_path / "out",
    )  # fmt: skip
    assert result.returncode == 1
    assert last_line(result) == (
        f"error: autoencoder_ckpt {tmp_path / 'none.pt'} does not exist; train one with train_autoencoder.yaml"
    )
