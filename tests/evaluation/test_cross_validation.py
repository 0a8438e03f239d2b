"""Cross-validation by its command: a training and an evaluation a fold, stopped and continued, and its table."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pig_monai.errors import PigError
from pig_monai.evaluation.cross_validation import CrossValidation, Fold
from pig_monai.evaluation.fold_table import FoldFigures, FoldTable
from pig_monai.evaluation.results import MEASURES
from tests.conftest import ROOT, last_line, run_bundle

CONFIG = "configs/cross_validate.yaml"
IDS = {"folds": "[0,3]", "image_size": 32, "batch_size": 8, "max_epochs": 2, "device": "cpu"}


def started(ids: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the command and go on."""
    config = ["--config_file", f"bundles/pig_dbt/{CONFIG}"]
    options = [text for name, value in ids.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "cross_validate", *config, *options]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def validated(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds, stopped after the first one's training and continued."""
    folder = tmp_path_factory.mktemp("folds") / "out"
    ids = {"dataset_dir": phantom_dataset, "output_dir": folder, **IDS}
    process = started(ids)
    end = time.monotonic() + 300
    while not (folder / "fold_0/model.json").is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.decode().strip().endswith("stopped; the same command continues")
    assert not (folder / "table.csv").exists()
    trained = (folder / "fold_0/model.pt").stat().st_mtime_ns
    result = run_bundle("cross_validate", CONFIG, **ids)
    assert result.returncode == 0, result.stderr
    assert (folder / "fold_0/model.pt").stat().st_mtime_ns == trained
    assert result.stdout.endswith((folder / "table.md").read_text())
    return folder


def test_the_table_is_that_of_the_folds_slices(validated, phantom_dataset):
    with open(validated / "table.csv", newline="") as stream:
        rows = {row["fold"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["0", "3", "mean", "sd"]
    entries = json.loads((phantom_dataset / "datalist.json").read_text())["training"]
    pooled, means = [], []
    for fold in (0, 3):
        with open(validated / f"fold_{fold}/evaluation/metrics.csv", newline="") as stream:
            slices = list(csv.DictReader(stream))
        own = [entry for entry in entries if entry["fold"] == fold]
        assert {row["patient"] for row in slices} == {entry["patient"] for entry in own}
        assert int(rows[str(fold)]["slices"]) == len(own)
        dice = [float(row["dice"]) for row in slices]
        assert float(rows[str(fold)]["dice"]) == pytest.approx(np.mean(dice), abs=1e-12)
        pooled += dice
        means.append(np.mean(dice))
        meta = json.loads((validated / f"fold_{fold}/model.json").read_text())
        assert meta["fold"] == fold
        assert not {entry["patient"] for entry in own} & set(meta["patients"])
    assert float(rows["mean"]["dice"]) == pytest.approx(np.mean(means), abs=1e-12)
    assert float(rows["sd"]["dice"]) == pytest.approx(np.std(means, ddof=1), abs=1e-12)
    summary = json.loads((validated / "summary.json").read_text())
    assert summary["all_slices"]["dice"]["mean"] == pytest.approx(np.mean(pooled), abs=1e-12)
    page = (validated / "report.html").read_text()
    assert all((validated / f"fold_{fold}/evaluation/report.html").is_file() for fold in (0, 3))
    assert all(f'href="fold_{fold}/evaluation/report.html"' in page for fold in (0, 3))


def test_the_page_says_that_the_slices_are_a_phantoms_and_what_the_folds_notes_say(validated, phantom_dataset):
    entries = json.loads((phantom_dataset / "datalist.json").read_text())["training"]
    slices = [entry for entry in entries if entry["fold"] in (0, 3)]
    patients = len({entry["patient"] for entry in slices})
    folds = [json.loads((validated / f"fold_{fold}/evaluation/summary.json").read_text()) for fold in (0, 3)]
    empty = sum(fold["counts"]["empty_predictions_on_lesions"] for fold in folds)
    expected = [
        f"{patients} patients with a lesion are too few for intervals to be trusted",
        f"{len(slices)} slices are of a phantom, drawn anatomy: they say nothing about real breasts",
        *([f"on {empty} slices with a lesion nothing was predicted"] if empty else []),
    ]
    summary, page = json.loads((validated / "summary.json").read_text()), (validated / "report.html").read_text()
    assert summary["notes"] == expected
    assert all(f"Note: {note}." in page for note in expected)
    assert summary["method"] == "phantom"
    assert "real +" not in page
    assert "(real)" not in page


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(validated, phantom_dataset):
    ids = {"dataset_dir": phantom_dataset, "output_dir": validated, **IDS}
    before = {path: path.stat().st_mtime_ns for path in validated.glob("fold_*/**/*")}
    assert run_bundle("cross_validate", CONFIG, **ids).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in validated.glob("fold_*/**/*")} == before
    other = run_bundle("cross_validate", CONFIG, **(ids | {"learning_rate": 0.5}))
    assert other.returncode == 1
    assert "holds a run with learning_rate = 0.001, not 0.5; " in last_line(other)
    for folds in ("[0,0]", "[5]", "[]"):
        wrong = run_bundle("cross_validate", CONFIG, **(ids | {"folds": folds}))
        assert wrong.returncode == 1
        assert "list folds of the dataset, each once: [0, 1, 2, 3, 4]" in last_line(wrong)


def test_a_dry_run_tells_what_is_left(validated, phantom_dataset, tmp_path):
    ids = {"dataset_dir": phantom_dataset, **IDS, "folds": "[0,1]", "dry_run": "true"}
    shutil.copytree(validated, tmp_path / "out")
    result = run_bundle("cross_validate", CONFIG, output_dir=tmp_path / "out", **ids)
    assert result.returncode == 0, result.stderr
    assert "0 (done), 1 (to train)" in result.stdout
    assert not (tmp_path / "out/fold_1").exists()


def test_folds_are_added_but_pairs_and_lengths_stay(phantom_dataset, tmp_path):
    for fold in (0, 1, 3):
        shutil.copytree(phantom_dataset, tmp_path / f"pairs_{fold}")

    def opened(*folds: int, max_epochs: int = 2, pairs: str | None = str(tmp_path / "pairs_{fold}")) -> None:
        training = {"max_epochs": max_epochs}
        CrossValidation(ROOT, phantom_dataset, tmp_path / "out", folds, pairs, training, "cpu", 0).folder.open()

    opened(0, 3)
    (tmp_path / "out/fold_0").mkdir()
    opened(1, 0)  # 3 is not forgotten
    kept = json.loads((tmp_path / "out/run.json").read_text())["settings"]["pairs"]
    assert sorted(kept) == ["0", "1", "3"]
    with pytest.raises(PigError, match="holds a run with max_epochs = 2, not 3"):
        opened(0, max_epochs=3)
    with pytest.raises(PigError, match="holds a run with pairs = "):
        opened(0, pairs=None)
    datalist = tmp_path / "pairs_3/datalist.json"
    content = json.loads(datalist.read_text())
    datalist.write_text(json.dumps({**content, "training": content["training"][:-1]}))
    with pytest.raises(PigError, match="holds a run with pairs#3 = "):
        opened(3, 1)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found by Linux's /proc")
def test_overwriting_spares_pairs_that_lie_in_a_folds_folder(phantom_dataset, tmp_path):
    shutil.copytree(phantom_dataset, tmp_path / "out/fold_0/pairs")
    pairs, settings = str(tmp_path / "out/fold_{fold}/pairs"), ({"max_epochs": 2}, "cpu", 0)
    (tmp_path / "out/run.json").write_text('{"workflow": "cross-validation", "settings": {}}')
    again = CrossValidation(ROOT, phantom_dataset, tmp_path / "out", [0], pairs, *settings, overwrite=True)
    with pytest.raises(PigError) as caught:
        again.folder.open()
    assert str(caught.value).startswith(f"pairs_dir of fold 0: {tmp_path / 'out/fold_0/pairs'} would be removed: ")
    assert (tmp_path / "out/fold_0/pairs/datalist.json").exists()


def test_a_training_ends_with_the_cross_validation_that_is_killed(phantom_dataset, tmp_path):
    ids = {"dataset_dir": phantom_dataset, "output_dir": tmp_path / "out", **IDS, "max_epochs": 100000}
    process = started(ids)
    log, end = tmp_path / "out/fold_0/training.log", time.monotonic() + 120
    while not (log.is_file() and "Metrics" in log.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.kill()
    process.communicate(timeout=60)
    status = Path(f"/proc/{children[0]}/stat")
    end = time.monotonic() + 30
    try:
        while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < end:
            time.sleep(0.1)
        assert not status.exists() or status.read_text().split()[2] == "Z"
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(children[0]), signal.SIGKILL)


@pytest.mark.parametrize(("command", "said"), [("exit(3)", "no output"), ("exit('error: lost')", "lost")])
def test_the_log_of_the_process_that_ended_is_quoted(command, said, phantom_dataset, tmp_path, monkeypatch):
    given = {"pairs_dir": None, "training": {"max_epochs": 2}, "device": "cpu", "seed": 0}
    validation = CrossValidation(ROOT, phantom_dataset, tmp_path / "out", [0], **given)
    monkeypatch.setattr(validation, "next_command", lambda fold: [sys.executable, "-c", command])
    ended = iter([False])
    # its training is over by the time it is found to have failed: the log is still the training's
    monkeypatch.setattr(Fold, "trained", lambda fold: next(ended, True))
    with pytest.raises(PigError, match=rf"fold 0 ended with status \d: {said}; see .*training\.log"):
        validation.run()


def test_a_fold_that_fails_is_named_with_its_last_line(phantom_dataset, tmp_path):
    ids = {"dataset_dir": phantom_dataset, "output_dir": tmp_path / "out", **IDS, "image_size": 20}
    result = run_bundle("cross_validate", CONFIG, **ids)  # 20 is no multiple of 16, which the network needs
    assert result.returncode == 1
    assert last_line(result).startswith("error: fold 0 ended with status 1: ")
    assert str(tmp_path / "out/fold_0/training.log") in last_line(result)
    assert len((tmp_path / "out/fold_0/training.log").read_text()) > 0
    assert os.listdir(tmp_path / "out") == ["fold_0", "run.json"] or "fold_3" not in os.listdir(tmp_path / "out")


def test_the_spread_is_over_the_folds_that_have_a_value():
    def figures(fold: int, dice: float | None) -> FoldFigures:
        means = dict.fromkeys(MEASURES, None) | {"dice": dice}
        return FoldFigures(fold, means, {"slices": 2, "patients": 1}, [])

    found = FoldTable("real", [figures(0, 0.5), figures(1, None), figures(2, 0.8)], seed=0)
    assert (found.spread("dice").mean, found.spread("dice").sd) == pytest.approx((0.65, 0.3 / 2**0.5))
    assert found.names == ["dice"]
    assert found.rows()[1][-1] == "–"


def test_the_sentence_gives_intervals_where_there_are_several_patients():
    def sentence(*patients: str) -> str:
        slices = [
            {"patient": patient, "dice": "0.5", "iou": "0.25", "precision": "", "recall": "1"}
            for patient in patients
        ]
        means = dict.fromkeys(MEASURES, None) | {"dice": 0.5}
        return FoldTable("real", [FoldFigures(0, means, {"slices": 2, "patients": 1}, slices)], 0).sentence()

    alone = "All slices together (real): Dice 50.0 %, IoU 25.0 %, precision –, recall 100.0 %."
    assert sentence("a", "a").lower() == alone.lower()
    assert "Dice 50.0 % (95 % CI 50.0 to 50.0), " in sentence("a", "b")
    assert sentence("a", "b").endswith("; intervals over patients.")
