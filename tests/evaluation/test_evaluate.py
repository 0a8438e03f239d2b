"""evaluate.yaml: figures of predictions that are known."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pig_monai.data.folder import fingerprint, read_label
from pig_monai.data.patients import digest
from pig_monai.errors import PigError
from pig_monai.files import sha256
from tests.conftest import last_line, run_bundle
from tests.evaluation.known import BUNDLE, SIZE, SPACING, Known, boxes, evaluate, write_segmenter
from tests.metrics.test_segmentation import brute_hd95


def read_csv(file: Path) -> dict[str, dict[str, str]]:
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {row["name"] + row.get("lesion", ""): row for row in rows}


EVALUATED = ["same", "shifted", "two", "free", "unknown"]


@pytest.fixture(scope="module")
def evaluated(known, copier, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    evaluate(known, folder, copier, save_predictions=True)
    return folder


def test_the_slices_rows_hold_the_figures_of_the_known_predictions(known, evaluated):
    rows = read_csv(evaluated / "metrics.csv")
    assert list(rows) == EVALUATED
    for name in ("same", "shifted", "two", "unknown"):
        t, p = (masks[name].astype(np.float64).ravel() for masks in (known.truths, known.spots))
        row = {
            key: float(value or "nan")
            for key, value in rows[name].items()
            if key not in ("name", "patient", "view")
        }
        expected = {
            "truth_px": t.sum(),
            "predicted_px": p.sum(),
            "dice": 2 * t @ p / (t.sum() + p.sum()),
            "iou": t @ p / np.maximum(t, p).sum(),
            "precision": t @ p / p.sum(),
            "recall": t @ p / t.sum(),
            "hd95_px": brute_hd95(known.truths[name], known.spots[name], (1, 1)),
            "hd95_mm": math.nan
            if name == "unknown"
            else brute_hd95(known.truths[name], known.spots[name], tuple(SPACING)),
        }
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, abs=1e-6, nan_ok=True), (name, key)
    assert (rows["same"]["patient"], rows["same"]["view"], rows["same"]["fold"]) == ("a", "lcc", "0")


def test_a_slice_without_a_lesion_counts_in_false_positives_only(evaluated):
    row = read_csv(evaluated / "metrics.csv")["free"]
    assert [row[key] for key in ("dice", "iou", "precision", "recall", "hd95_mm", "hd95_px")] == [""] * 6
    assert (row["lesions"], row["findings"], row["false_positives"]) == ("0", "2", "2")


def test_the_lesions_rows_say_which_was_hit(evaluated):
    rows = read_csv(evaluated / "lesions.csv")
    assert list(rows) == ["same0", "shifted0", "two0", "two1", "unknown0"]
    assert [row["hit"] for row in rows.values()] == ["1", "1", "1", "0", "1"]
    assert float(rows["two0"]["iou"]) == pytest.approx(36 / 48)
    assert (rows["two0"]["area_px"], float(rows["two0"]["area_mm2"])) == ("48", pytest.approx(48 * 0.125))
    assert rows["unknown0"]["area_mm2"] == ""


def test_the_summary_is_the_mean_of_the_rows(evaluated):
    rows = read_csv(evaluated / "metrics.csv")
    summary = json.loads((evaluated / "summary.json").read_text())
    found = summary["measures"]
    for key in ("dice", "iou", "precision", "recall", "hd95_mm", "hd95_px"):
        values = {name: float(row[key]) for name, row in rows.items() if row[key]}
        assert found[key]["mean"] == pytest.approx(np.mean(list(values.values())), abs=1e-9)
        assert found[key]["sd"] == pytest.approx(np.std(list(values.values()), ddof=1), abs=1e-9)
        assert found[key]["n"] == len(values) == (3 if key == "hd95_mm" else 4)
    dice = {name: float(row["dice"]) for name, row in rows.items() if row["dice"]}
    by_patient = [(dice["same"] + dice["shifted"]) / 2, dice["two"], dice["unknown"]]
    assert found["dice"]["patient_mean"] == pytest.approx(np.mean(by_patient))
    assert found["lesions_hit"]["mean"] == pytest.approx(4 / 5)
    assert found["false_positives"]["mean"] == pytest.approx((0 + 0 + 1 + 2 + 0) / 5)
    assert (found["patients_hit"]["mean"], found["patients_hit"]["n"]) == (1, 3)
    assert (found["clean_slices"]["mean"], found["clean_slices"]["n"]) == (0, 1)


def test_the_summary_counts_what_was_left_out_and_says_what_to_beware_of(evaluated):
    summary = json.loads((evaluated / "summary.json").read_text())
    counts = {
        "slices": 5, "slices_with_lesion": 4, "patients": 3, "patients_with_lesion": 3, "lesions": 5,
        "empty_predictions_on_lesions": 0, "slices_without_spacing": 1, "labelled_by_boxes": 1,
        "phantom_slices": 0, "networks_of_untraced_pairs": 0, "left_out": {"unannotated": 1, "synthetic": 0},
    }  # fmt: skip
    assert summary["counts"] == counts
    notes = " ".join(summary["notes"])
    for words in ("3 patients with a lesion are too few", "1 slices are labelled by ellipses", "1 slices have no"):
        assert words in notes


def test_monais_own_metrics_agree(evaluated):
    summary = json.loads((evaluated / "summary.json").read_text())
    for name in ("dice", "iou", "recall"):
        assert summary["monai"][name] == pytest.approx(summary["measures"][name]["mean"], abs=1e-6)


def test_the_saved_predictions_are_the_masks_that_were_measured(known, evaluated):
    assert sorted(path.name for path in (evaluated / "predictions").iterdir()) == [
        f"{n}.nii.gz" for n in sorted(EVALUATED)
    ]
    for name in EVALUATED:
        np.testing.assert_array_equal(read_label(evaluated / f"predictions/{name}.nii.gz"), known.spots[name])


def test_table_and_page_show_the_summarys_figures(evaluated):
    mean = json.loads((evaluated / "summary.json").read_text())["measures"]["dice"]["mean"]
    table, page = (evaluated / "table.md").read_text(), (evaluated / "report.html").read_text()
    assert f"{100 * mean:.1f} ±" in table
    assert f"{100 * mean:.1f} ±" in page
    assert "where predicted" not in table  # something was predicted on every lesion: the rows would say the same
    assert page.count("<img") == 2  # the worst slices, and the one without a lesion
    assert page.index("two, Dice") < page.index("shifted, Dice") < page.index("same, Dice")


def test_where_nothing_is_predicted_the_worst_values_count(known, tmp_path):
    blind = write_segmenter(tmp_path / "blind", gain=1.0, offset=-50.0)
    found = evaluate(known, tmp_path / "out", blind)
    measures = found["measures"]
    for key in ("dice", "iou", "precision", "recall", "lesions_hit", "patients_hit", "false_positives"):
        assert measures[key]["mean"] == 0, key
    assert measures["hd95_px"]["mean"] == pytest.approx(math.hypot(SIZE - 1, SIZE - 1))
    assert measures["hd95_mm"]["mean"] == pytest.approx(math.hypot(0.5 * (SIZE - 1), 0.25 * (SIZE - 1)))
    assert measures["precision_where_predicted"] == {**measures["precision_where_predicted"], "n": 0, "mean": None}
    assert measures["clean_slices"]["mean"] == 1
    assert found["counts"]["empty_predictions_on_lesions"] == 4
    assert any("nothing was predicted" in note for note in found["notes"])


def test_masks_come_back_to_where_the_crop_took_the_breast_from(tmp_path):
    """The network sees the breast alone, 32 x 32 of the slice's 64 x 64 pixels."""
    known = Known(tmp_path / "dataset")
    image = np.full((SIZE, SIZE), -1.0)
    image[0:32, 16:48] = -0.5
    image[8:24, 20:24] = -1  # fat
    image[boxes((12, 30, 7, 5))] = 1
    known.write("cropped", "a", 0, image, boxes((12, 30, 7, 5)))
    known.add("trained", "c", 1, boxes((10, 10, 8, 8)), (1.0, (10, 10, 8, 8)))
    known.finish()
    small = write_segmenter(tmp_path / "small", gain=4.0, offset=0.0, image_size=32)
    found = evaluate(known, tmp_path / "out", small, save_predictions=True)
    np.testing.assert_array_equal(read_label(tmp_path / "out/predictions/cropped.nii.gz"), known.spots["cropped"])
    assert found["measures"]["dice"]["mean"] == 1


def test_an_ensemble_averages_probabilities(known, tmp_path):
    """Where they see 0.4, one network is sure of a mass and two deny it, where they see 1 all agree.

    The mean of the probabilities 0.999, 0.1 and 0.1 is no mass; the mean of their logits, 6.9, −2.2 and −2.2, and
    the largest one would be.
    """
    sure, denying = (6.9 / 0.4, 0.0), (17.0, -9.0)  # gain and offset
    paths = [write_segmenter(tmp_path / str(n), *line) for n, line in enumerate([sure, denying, denying])]
    one = evaluate(known, tmp_path / "one", paths[0], save_predictions=True)
    three = evaluate(known, tmp_path / "three", ckpts=[paths[0].parent, *paths[1:]], save_predictions=True)
    bright, dim = boxes((5, 5, 6, 6)), boxes((50, 50, 6, 6))
    alone = read_label(tmp_path / "one/predictions/two.nii.gz")
    together = read_label(tmp_path / "three/predictions/two.nii.gz")
    assert alone[bright].all()
    assert alone[dim].all()
    np.testing.assert_array_equal(together, bright)
    assert [weights["sha256"] for weights in three["weights"]] == [sha256(path) for path in paths]
    assert one["measures"]["false_positives"]["mean"] > three["measures"]["false_positives"]["mean"]


def test_figures_do_not_depend_on_the_batch(known, copier, evaluated, tmp_path):
    evaluate(known, tmp_path / "out", copier, batch_size=1)
    for name in ("metrics.csv", "lesions.csv", "table.md"):
        assert (tmp_path / "out" / name).read_bytes() == (evaluated / name).read_bytes()


def test_new_data_are_evaluated_whole(known, tmp_path):
    """Fold −1: all annotated slices of all patients but the generated ones."""
    stranger = write_segmenter(tmp_path / "stranger", gain=4.0, offset=0.0, fold=3, patients=["x", "y"])
    found = evaluate(known, tmp_path / "out", stranger, fold=-1)
    assert list(read_csv(tmp_path / "out/metrics.csv")) == [*EVALUATED, "trained"]
    assert found["counts"]["left_out"] == {"unannotated": 1, "synthetic": 1}


UNTRACED = "the weights do not say whom their pairs' generator saw: it may have seen these patients"


def trained_on_pairs(folder: Path, generator: dict[str, Any] | None, **more: Any) -> Path:
    said = {"pairs": 8, "pairs_folds": [0], "pairs_generators": {"g": generator}, **more}
    return write_segmenter(folder, gain=4.0, offset=0.0, **said)


def test_pairs_of_this_folds_generator_are_fine_also_after_the_dataset_has_grown(known, tmp_path):
    """The list of patients is enough: the fingerprint is that of the dataset before it had all its patients."""
    traced = trained_on_pairs(tmp_path / "run", {"data": "0" * 64, "patients": [digest("c"), digest("left")]})
    assert not any("pairs" in note for note in evaluate(known, tmp_path / "out", traced)["notes"])


@pytest.mark.parametrize("generator", [None, {"data": "0" * 64}, {"data": "0" * 64, "patients": None}])
def test_pairs_that_do_not_say_whom_their_generator_saw_are_noted(generator, known, tmp_path):
    untraced = trained_on_pairs(tmp_path / "run", generator)
    assert UNTRACED in evaluate(known, tmp_path / "out", untraced)["notes"]
    stranger = trained_on_pairs(tmp_path / "stranger", generator, patients=["x"])
    assert UNTRACED in evaluate(known, tmp_path / "all", stranger, fold=-1)["notes"]


@pytest.mark.parametrize("said", [{}, {"pairs_folds": [0]}])
def test_weights_of_former_versions_that_were_trained_on_pairs_are_noted(said, known, tmp_path):
    former = write_segmenter(tmp_path / "run", gain=4.0, offset=0.0, pairs=8, **said)
    assert UNTRACED in evaluate(known, tmp_path / "out", former)["notes"]


def test_a_generator_older_than_its_list_of_patients_is_known_by_its_very_dataset(known, tmp_path):
    older = {"data": fingerprint(known.folder)}
    of_fold = trained_on_pairs(tmp_path / "run", older)
    assert UNTRACED not in evaluate(known, tmp_path / "out", of_fold)["notes"]
    of_all = trained_on_pairs(tmp_path / "all", older, patients=["x"])
    with pytest.raises(
        PigError, match=r"trained on pairs whose generator was trained on .*datalist\.json, and fold is -1"
    ):
        evaluate(known, tmp_path / "none", of_all, fold=-1)


def test_fold_minus_one_refuses_pairs_whose_generator_saw_a_patient(known, tmp_path):
    stranger = trained_on_pairs(tmp_path / "run", {"data": "0" * 64, "patients": [digest("b")]}, patients=["x"])
    with pytest.raises(PigError, match=r"pairs whose generator saw 1 of the 4 patients of fold -1"):
        evaluate(known, tmp_path / "out", stranger, fold=-1)
    other = trained_on_pairs(tmp_path / "other", {"data": "0" * 64, "patients": [digest("y")]}, patients=["x"])
    assert UNTRACED not in evaluate(known, tmp_path / "all", other, fold=-1)["notes"]


# --- as a user types it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["evaluate", "run"])
def test_the_command_evaluates_again_in_its_own_folder_only(run_id, known, copier, evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "out")
    before = (tmp_path / "out/metrics.csv").read_bytes()
    given = {"dataset_dir": known.folder, "fold": 0, "output_dir": tmp_path / "out", "device": "cpu"}
    again = run_bundle(run_id, "configs/evaluate.yaml", ckpt=copier.parent, batch_size=5, **given)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out/metrics.csv").read_bytes() == before
    assert (tmp_path / "out/table.md").read_text() in again.stdout
    other = run_bundle(run_id, "configs/evaluate.yaml", ckpt=copier, seed=1, **given)
    assert other.returncode == 1
    assert last_line(other).startswith(f"error: {tmp_path / 'out'} holds a run with seed = 0, not 1; ")


def test_a_dry_run_writes_nothing_and_refusals_are_one_line(known, copier, tmp_path):
    given = {"dataset_dir": known.folder, "output_dir": tmp_path / "out", "device": "cpu", "dry_run": "True"}
    planned = run_bundle("evaluate", "configs/evaluate.yaml", BUNDLE, ckpt=copier, **given)
    assert planned.returncode == 0, planned.stderr
    assert "slices:      5 of fold 0" in planned.stdout
    assert "left out:    1 unannotated" in planned.stdout
    assert not (tmp_path / "out").exists()
    refused = run_bundle("evaluate", "configs/evaluate.yaml", ckpts=f"['{copier}','{tmp_path}/no.pt']", **given)
    assert refused.returncode == 1
    assert last_line(refused) == f"error: ckpt {tmp_path}/no.pt does not exist; train one with train.yaml"
    assert "Traceback" not in refused.stderr
