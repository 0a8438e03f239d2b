"""evaluate_pairs as a user meets it: what is written, what is found, and errors of one line."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pig_monai.data.folder import heldout_entries, read_datalist, read_label, read_slice, training_entries
from pig_monai.data.patients import digest
from pig_monai.errors import PigError
from pig_monai.pairs_evaluation import evaluate as evaluate_module
from pig_monai.pairs_evaluation.evaluate import PairsEvaluation
from pig_monai.pairs_evaluation.figures import COLUMNS
from pig_monai.pairs_evaluation.samples import read_pairs
from pig_monai.pictures import OUTLINE
from pig_monai.plan import duration
from tests.conftest import ANY_MASK, last_line, run_bundle
from tests.evaluation.known import BUNDLE
from tests.pairs_evaluation.known import Pair, evaluate_pairs, value, write_pairs
from tests.training.toy import Clock

CONFIG = "configs/evaluate_pairs.yaml"
WRITTEN = ("metrics.csv", "metrics.json", "report.html")


def read(entries: list[dict]) -> list[Pair]:
    return [(read_slice(entry["image"]), read_label(entry["label"])) for entry in entries]


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """Pairs of the bundle's phantom weights, whose generator held out nobody."""
    folder = tmp_path_factory.mktemp("generated") / "pairs"
    ids = {"num_pairs": 10, "num_inference_steps": 4, "device": "cpu", "batch_size": 10, **ANY_MASK}
    result = run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=folder, **ids)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def split(phantom_dataset, tmp_path_factory) -> tuple[Path, Path, Path]:
    """A dataset without fold 1, that fold's slices as pairs (real ones that nobody saw), and planted copies."""
    place = tmp_path_factory.mktemp("split")
    shutil.copytree(phantom_dataset, place / "dataset")
    datalist = json.loads((place / "dataset/datalist.json").read_text())
    datalist["training"] = [entry for entry in datalist["training"] if entry["fold"] != 1]
    (place / "dataset/datalist.json").write_text(json.dumps(datalist))
    unseen = write_pairs(place / "unseen", read(heldout_entries(phantom_dataset, 1)))
    rng = np.random.default_rng(0)
    copied = [
        (np.clip(0.95 * image + 0.05 * rng.standard_normal(image.shape), -1, 1), mask)
        for image, mask in read(training_entries(place / "dataset", 0)[:12:4])
    ]
    planted = write_pairs(place / "planted", [*read(heldout_entries(phantom_dataset, 1)), *copied])
    return place / "dataset", unseen, planted


@pytest.fixture(scope="module")
def evaluated(phantom_dataset, generated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    ids = {"dataset_dir": phantom_dataset, "pairs_dir": generated, "output_dir": folder, "device": "cpu"}
    result = run_bundle("evaluate_pairs", CONFIG, BUNDLE, segmenter_ckpt="models/model.pt", **ids)
    assert result.returncode == 0, result.stderr
    assert last_line(result) == f"evaluated: {folder / 'report.html'}"
    return folder


def test_the_command_writes_figures_with_their_numbers(evaluated, phantom_dataset):
    found = json.loads((evaluated / "metrics.json").read_text())
    training = len(training_entries(phantom_dataset, -1))
    assert found["counts"] == {"training": training, "generated": 10, "heldout": 0}
    assert (found["generator_fold"], found["image_size"]) == (-1, 64)
    with open(evaluated / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert [row["metric"] for row in rows] == [figure["metric"] for figure in found["figures"]]
    regions = {(row["features"], row["region"]) for row in rows if row["metric"] == "frechet"}
    assert regions == {(f, r) for f in ("segmenter", "texture") for r in ("slice", "lesion")} | {("shape", "mask")}
    for row, figure in zip(rows, found["figures"], strict=True):
        assert (float(row["value"]) if row["value"] else None) == figure["value"]
        if row["metric"] in ("frechet", "kernel", "coverage") and row["sample"] == "generated":
            assert (int(row["n_real"]), int(row["n_generated"])) == (training, 10)
            assert "uncertain" in row["note"]
    # four steps of sampling leave something to be desired, which the distances of unseen real slices do not
    assert value(found, "frechet", "texture", "slice") > 10
    assert 0 <= value(found, "pair_consistency", "segmenter", "mask") <= 1
    notes = " ".join(found["notes"])
    for words in ("no real slices are held out", "10 slices are few", "of a phantom"):
        assert words in notes


def test_without_held_out_slices_copies_are_measured_by_the_training_slices(evaluated):
    found = json.loads((evaluated / "metrics.json").read_text())
    for space in ("segmenter", "texture", "pixels"):
        metrics = {f["metric"] for f in found["figures"] if f["features"] == space and f["region"] == "slice"}
        assert {"suspected_copies", "distance_ratio_in_training"} <= metrics
        assert "nearest_in_training" not in metrics
    samples = {f["sample"] for f in found["figures"] if f["features"] == "texture"}
    assert samples <= {"generated", "generated_equal", "real_split"}


def test_the_page_is_whole_and_the_same_command_writes_the_same_bytes(evaluated, generated, phantom_dataset):
    page = (evaluated / "report.html").read_text()
    assert page.count("<img") == 2 + 8  # two contact sheets, the gallery
    assert page.count("<svg") == 7 + 1  # the masks' statistics, relative distances
    assert not re.search(r"(src|href)='(?!data:)", page)
    assert str(phantom_dataset) not in page + (evaluated / "metrics.json").read_text()
    before = {name: (evaluated / name).read_bytes() for name in WRITTEN}
    given = {"dataset_dir": phantom_dataset, "pairs_dir": generated, "output_dir": evaluated, "device": "cpu",
             "segmenter_ckpt": BUNDLE / "models"}  # fmt: skip
    again = run_bundle("run", CONFIG, BUNDLE, batch_size=12, **given)
    assert again.returncode == 0, again.stderr
    assert (evaluated / "metrics.csv").read_bytes() == before["metrics.csv"]
    other = run_bundle("evaluate_pairs", CONFIG, BUNDLE, seed=1, **given)
    assert other.returncode == 1
    assert last_line(other).startswith(f"error: {evaluated} holds a run with seed = 0, not 1; ")
    for name in WRITTEN:
        (evaluated / name).write_bytes(before[name])


def test_a_dry_run_writes_nothing(generated, phantom_dataset, tmp_path):
    given = {
        "dataset_dir": phantom_dataset,
        "pairs_dir": generated,
        "output_dir": tmp_path / "out",
        "device": "cpu",
    }
    planned = run_bundle("evaluate_pairs", CONFIG, dry_run="True", **given)
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"pairs: +10 at 64 pixels\n", planned.stdout)
    assert re.search(r"held out: +none\n", planned.stdout)
    assert not (tmp_path / "out").exists()


# --- what is found ----------------------------------------------------------------------------------------------


def test_real_slices_that_nobody_saw_are_as_near_as_held_out_ones_and_no_copies(split, tmp_path):
    dataset, unseen, _ = split
    found = evaluate_pairs(dataset, unseen, tmp_path / "out")
    assert found["generator_fold"] == 0
    assert found["suspected_copies"] == {"texture": [], "pixels": []}
    assert value(found, "nearest_in_training_p", "pixels", "slice") > 0.05
    assert value(found, "nearest_in_training_p", "outline", "mask") > 0.05
    for features, region in (("texture", "slice"), ("texture", "lesion"), ("shape", "mask")):
        n = {f["sample"]: f["n_generated"] for f in found["figures"]
             if (f["metric"], f["features"], f["region"]) == ("frechet", features, region)}  # fmt: skip
        assert n["heldout"] == n.get("generated_equal", n["generated"])
        figures = {f["sample"]: f for f in found["figures"]
                   if (f["metric"], f["features"], f["region"]) == ("frechet", features, region)}  # fmt: skip
        own, usual = figures.get("generated_equal", figures["generated"]), figures["real_split"]
        assert own["value"] < 1.2 * usual["high"]  # no farther than other patients


def test_planted_copies_are_named_and_shown(split, tmp_path):
    dataset, unseen, planted = split
    found = evaluate_pairs(dataset, planted, tmp_path / "out")
    first = len(read_datalist(unseen)["training"])
    entries = training_entries(dataset, 0)[:12:4]
    named = {copy["pair"]: copy["slice"] for copy in found["suspected_copies"]["pixels"]}
    assert set(named) == {f"synthetic-0-{first + i:06d}.nii.gz" for i in range(len(entries))}
    patients = {Path(entry["image"]).name: entry["patient"] for entry in training_entries(dataset, 0)}
    copied = [patients[named[f"synthetic-0-{first + i:06d}.nii.gz"]] for i in range(len(entries))]
    assert copied == [entry["patient"] for entry in entries]
    assert value(found, "suspected_copies", "pixels", "slice") == len(entries)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<figcaption>suspected copy") == len(entries)
    assert f"<td>{len(entries)} of {first + len(entries)}</td>" in page


def test_pairs_that_do_not_say_their_fold_count_as_trained_on_all(split, phantom_dataset, tmp_path):
    dataset, _, _ = split
    pairs = write_pairs(tmp_path / "pairs", read(heldout_entries(phantom_dataset, 1))[:10], fold=None)
    found = evaluate_pairs(dataset, pairs, tmp_path / "out", max_pairs=9)
    assert found["counts"]["heldout"] == 0
    assert found["left_out"] == {"without a mask": 0, "beyond max_pairs": 1}
    assert value(found, "frechet", "texture", "slice") is None  # nine are too few
    assert any("do not say which fold" in note for note in found["notes"])


def test_notes_tell_whom_the_generator_saw_or_that_it_is_not_known(split, phantom_dataset, tmp_path):
    dataset, _, _ = split
    slices = read(heldout_entries(phantom_dataset, 1))[:10]
    unknown = "the pairs do not say whom their generator saw"
    for name, fold in (("former", 0), ("former_of_all", -1)):
        found = evaluate_pairs(dataset, write_pairs(tmp_path / name, slices, fold), tmp_path / f"{name}_out")
        assert any(note.startswith(unknown) for note in found["notes"])
    everyone = {entry["patient"] for entry in training_entries(dataset, -1)}
    first = min(everyone)
    generator = {"data": "0" * 64, "patients": sorted(digest(patient) for patient in everyone - {first})}
    pairs = write_pairs(tmp_path / "pairs", slices, -1, generator)
    notes = evaluate_pairs(dataset, pairs, tmp_path / "out")["notes"]
    assert not any(note.startswith(unknown) for note in notes)
    grown = f"1 of the {len(everyone)} patients that count as trained on were not seen by the generator: "
    assert any(note.startswith(grown) for note in notes)


# --- slices without masks ---------------------------------------------------------------------------------------


def without_masks(pairs: Path, folder: Path, first: int = 0) -> Path:
    """Copy a pairs folder and strip its entries from the ``first`` on of their labels."""
    shutil.copytree(pairs, folder)
    datalist = json.loads((folder / "datalist.json").read_text())
    for entry in datalist["training"][first:]:
        (folder / entry.pop("label")).unlink()
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


@pytest.fixture(scope="module")
def maskless(split, tmp_path_factory) -> tuple[Path, Path]:
    """Two evaluations of the same slices, by the same segmenter: with their masks, and without."""
    dataset, _, planted = split
    place = tmp_path_factory.mktemp("maskless")
    slices = without_masks(planted, place / "slices")
    for name, folder in (("with", planted), ("without", slices)):
        evaluate_pairs(dataset, folder, place / name, segmenter_ckpt=BUNDLE / "models")
    return place / "with", place / "without"


def test_slices_without_masks_have_the_figures_of_slices_to_the_last_digit(maskless):
    """Also of held-out slices: the real ones are the same, and equally many."""
    pairs, slices = (list(csv.DictReader((folder / "metrics.csv").open(newline=""))) for folder in maskless)
    assert {row["region"] for row in slices} == {"slice"}
    assert {row["features"] for row in slices} == {"texture", "segmenter", "pixels"}
    assert {row["sample"] for row in slices} >= {"generated", "heldout", "real_split"}
    assert slices == [row for row in pairs if row["region"] == "slice"]
    with_masks, without = (json.loads((folder / "metrics.json").read_text()) for folder in maskless)
    for key in ("counts", "suspected_copies", "left_out", "generator_fold", "image_size"):
        assert without[key] == with_masks[key]
    assert len(without["suspected_copies"]["pixels"]) == 3
    for features in ("texture", "segmenter"):
        assert value(without, "frechet", features, "slice") > 0
    assert {space: one["regions"] for space, one in without["features"].items()} == {
        "texture": ["slice"], "segmenter": ["slice"], "pixels": ["slice"],
    }  # fmt: skip
    assert any(note.startswith("no generated slice has a mask: ") for note in without["notes"])
    assert not any(note.startswith("no generated slice has a mask") for note in with_masks["notes"])


def test_the_page_of_slices_without_masks_asks_nothing_about_masks(maskless):
    pairs, slices = ((folder / "report.html").read_text() for folder in maskless)
    asked = ("<h2>Masks</h2>", "Do the lesions?", "Are the masks", "Do mask and slice belong", "masks outlined")
    assert [words in pairs for words in asked] == [True] * len(asked)
    assert [words in slices for words in asked] == [False] * len(asked)
    assert "<h1>Generated slices without masks against real slices</h1>" in slices
    assert slices.count("<img") == pairs.count("<img") == 2 + 8
    assert slices.count("<svg") == 1  # relative distances
    for title, page, outlined in (("pairs", pairs, True), ("slices", slices, False)):
        found = [has_outlines(picture) for picture in re.findall(r"base64,([^']+)'", page)]
        assert found == [outlined] * len(found), title


def has_outlines(png: str) -> bool:
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
    return bool((shown == OUTLINE).all(axis=-1).any())


def test_a_dry_run_of_slices_without_masks_counts_them(split, tmp_path, capsys):
    dataset, unseen, _ = split
    slices = without_masks(unseen, tmp_path / "slices")
    PairsEvaluation(BUNDLE, dataset, slices, tmp_path / "out", str(BUNDLE / "models")).plan()
    printed = capsys.readouterr().out
    assert re.search(rf"slices without masks: +{len(read_datalist(unseen)['training'])} at 64 pixels\n", printed)
    assert re.search(r"features: +texture, segmenter, pixels\n", printed)
    assert re.search(r"consistency: +none\n", printed)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_the_segmenters_passes_over_pairs_and_reference(split, tmp_path, capsys, monkeypatch):
    dataset, unseen, _ = split
    clock = Clock(monkeypatch, evaluate_module)
    for name, seconds in (("measure", 1.0), ("segment_entries", 10.0)):
        monkeypatch.setattr(
            evaluate_module, name, lambda few, *given, each=seconds: clock.advance(each * len(few))
        )
    evaluation = PairsEvaluation(BUNDLE, dataset, unseen, tmp_path / "out", str(BUNDLE / "models"))
    evaluation.plan()
    pairs, reference = (len(entries) for entries in (evaluation.pairs.entries, evaluation.segmented[1].entries))
    once = len(training_entries(dataset, 0)) + len(heldout_entries(dataset, 0)) + pairs
    printed = capsys.readouterr().out
    assert f"about {duration(once * 1.0 + (pairs + reference) * 10.0)}\n" in printed
    assert f"{reference} real slices to compare, 10 s a slice\n" in printed


def test_where_some_have_masks_the_others_are_left_out(split, tmp_path):
    _, unseen, _ = split
    pairs = read_pairs(without_masks(unseen, tmp_path / "some", first=7), max_pairs=5)
    assert (len(pairs.entries), pairs.kind) == (5, "pairs")
    given = len(read_datalist(unseen)["training"])
    assert pairs.left_out == {"without a mask": given - 7, "beyond max_pairs": 2}


# --- what is refused --------------------------------------------------------------------------------------------


def test_real_slices_are_no_pairs(phantom_dataset, tmp_path):
    given = {"dataset_dir": phantom_dataset, "pairs_dir": phantom_dataset, "output_dir": tmp_path / "out"}
    result = run_bundle("evaluate_pairs", CONFIG, device="cpu", **given)
    assert result.returncode == 1
    assert last_line(result) == (
        f"error: {phantom_dataset}/datalist.json#training#0#origin is 'phantom'; "
        "pairs_dir must be a folder of generated pairs"
    )
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_pairs_of_several_folds_or_without_a_size_are_refused(split, tmp_path):
    dataset, unseen, _ = split
    shutil.copytree(unseen, tmp_path / "pairs")
    path = tmp_path / "pairs/datalist.json"
    datalist = json.loads(path.read_text())
    datalist["training"][3]["provenance"]["generator_fold"] = 2
    path.write_text(json.dumps(datalist))
    with pytest.raises(PigError, match=r"pairs/datalist\.json holds pairs of generators that held out different"):
        evaluate_pairs(dataset, tmp_path / "pairs", tmp_path / "out")
    del datalist["preprocessing"]["size"]
    path.write_text(json.dumps(datalist))
    with pytest.raises(PigError, match=r"pairs/datalist\.json#preprocessing#size is missing"):
        evaluate_pairs(dataset, tmp_path / "pairs", tmp_path / "out")


def test_a_fold_that_the_dataset_lacks_is_named(split, phantom_dataset, tmp_path):
    dataset, _, _ = split
    pairs = write_pairs(tmp_path / "pairs", read(heldout_entries(phantom_dataset, 1)), fold=7)
    with pytest.raises(PigError, match=r"dataset/datalist\.json has no fold 7"):
        evaluate_pairs(dataset, pairs, tmp_path / "out")


def test_what_needs_the_extra_says_so(split, tmp_path):
    if importlib.util.find_spec("torch_fidelity"):
        pytest.skip("torch-fidelity is installed")
    dataset, unseen, _ = split
    for name in ("inception_weights", "dinov2_weights"):
        with pytest.raises(PigError, match=rf"{name} needs torch-fidelity.*pip install 'pig-monai\[fid\]'"):
            evaluate_pairs(dataset, unseen, tmp_path / "out", **{name: tmp_path / "weights.pth"})
    assert not (tmp_path / "out").exists()
