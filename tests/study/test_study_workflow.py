"""A whole study by Snakemake: killed and started again, and tried with pairs that know the held-out patients."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pig_monai.errors import PigError
from pig_monai.files import read_rows
from pig_monai.study.inputs import check_unchanged
from pig_monai.study.nodes import nodes
from pig_monai.study.settings import Study
from tests.conftest import ROOT

TINY = {
    "image_size": 32, "channels": [8, 8], "attention_levels": [False, False], "num_head_channels": 8,
    "norm_num_groups": 4, "batch_size": 4, "max_iterations": 4, "checkpoint_interval": 2, "preview_interval": 0,
}  # fmt: skip
ANY_MASK = {
    "min_mask_area": 0,
    "max_mask_area": 1,
    "max_components": 1e9,
    "min_inside_breast": 0,
    "min_accepted": 0,
}
OUTPUT = "the study"
GIVEN = ["--configfile", "study.json", "--config", "num_evaluated=4"]
"""The command line says something else than the file."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("snakemake") is None,
        reason="Snakemake is not installed (pip install 'pig-monai[workflow]')",
    ),
]


def settings(dataset: Path, **changed: object) -> dict[str, object]:
    return {
        "output": OUTPUT, "dataset_dir": str(dataset), "methods": ["SegGuidedDif"], "num_pairs": [4],
        "num_evaluated": 5, "folds": [0], "seeds": [0], "training": TINY, "sampling": ANY_MASK,
        "segmentation": {"image_size": 32, "max_epochs": 1}, **changed,
    }  # fmt: skip


def started(folder: Path, given: dict[str, object]) -> subprocess.Popen[str]:
    """Start the workflow in a process group of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(given))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflows/study.smk"), "--cores", "2"]
    with open(folder / "snakemake.log", "a") as log:
        return subprocess.Popen(
            [*command, *GIVEN],
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def finished(process: subprocess.Popen[str], folder: Path) -> None:
    assert process.wait(timeout=900) == 0, (folder / "snakemake.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def study(phantom_dataset, tmp_path_factory):
    """The folder of a study that ran through."""
    folder = tmp_path_factory.mktemp("whole")
    finished(started(folder, settings(phantom_dataset)), folder)
    return folder


def test_a_killed_study_gives_the_same_tables(study, phantom_dataset, tmp_path):
    process = started(tmp_path / "killed", settings(phantom_dataset))
    network = tmp_path / "killed" / OUTPUT / "fold_0/networks/generator/checkpoints"
    end = time.monotonic() + 300
    while not any(network.glob("state_*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (tmp_path / "killed" / OUTPUT / "report.html").exists()
    time.sleep(1)  # until the system has freed the locks of what was killed
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "workflows/study.smk", "--unlock"]
    subprocess.run([*command, *GIVEN], cwd=tmp_path / "killed", check=True, capture_output=True)
    finished(started(tmp_path / "killed", settings(phantom_dataset)), tmp_path / "killed")
    for name in ("table1.csv", "table2.csv"):
        again, at_once = (without_clock(folder / OUTPUT / name) for folder in (tmp_path / "killed", study))
        assert again == at_once
    assert len(at_once) == 4  # real slices in three ways, and the pairs


def without_clock(table: Path) -> list[dict[str, str]]:
    """Return a table's rows without the columns that a clock fills."""
    clocked = ("training_minutes", "seconds_a_slice")
    return [
        {key: value for key, value in row.items() if key not in clocked}
        for row in read_rows(table, "let the study finish")
    ]


def test_the_report_shows_every_part(study):
    page = (study / OUTPUT / "report.html").read_text()
    parts = ("In short", "Which pairs help a segmenter", "What the slices are like", "Pictures", "How it was done")
    for part in parts:
        assert f"<h2>{part}</h2>" in page
    assert "SegGuidedDif: the given mask (above) and its estimates of the clean slice (below)" in page
    assert "<h3>Real, held out</h3>" in page
    assert "drawn anatomy" in page
    assert "Note: one generator training a method and fold" in page
    assert str(study) not in page


def test_the_report_reads_what_ran_and_not_the_file_alone(study):
    assert json.loads((study / OUTPUT / "study.json").read_text())["num_evaluated"] == 4
    assert "num_evaluated: 4" in (study / OUTPUT / "report.html").read_text()
    assert [row["slices"] for row in read_rows(study / OUTPUT / "table1.csv", "")] == ["4.0"]
    log = study / OUTPUT / "logs/fold_0/pairs/SegGuidedDif.log"  # its path has a space
    assert "candidates in" in log.read_text()


def test_a_method_is_added_where_nobody_recorded_what_ran(study, phantom_dataset, tmp_path):
    def planned(methods, evaluated=4, **changed):  # in another working directory, without Snakemake's records
        given = settings(phantom_dataset, methods=methods, output=str(output), **changed)
        (tmp_path / "study.json").write_text(json.dumps(given))
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflows/study.smk"), "--dry-run"]
        environment = {**os.environ, "HOME": str(tmp_path)}
        asked = [*GIVEN[:-1], f"num_evaluated={evaluated}"]
        ran = subprocess.run([*command, *asked], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr

    output = tmp_path / "study"
    shutil.copytree(study / OUTPUT, output)
    assert "Nothing to be done" in planned(["SegGuidedDif"])
    told = planned(["SegGuidedDif", "joint"])
    assert "rule report:" in told or "localrule report:" in told
    assert "fold_0_networks_generator_condition_joint:" in told
    assert "fold_0_networks_generator:" not in told
    told = planned(["SegGuidedDif"], num_pairs=[4, 6])  # more pairs, and what is trained with them
    assert "rule fold_0_pairs_SegGuidedDif:" in told
    assert "rule fold_0_segmenters_SegGuidedDif_6_seed_0:" in told
    assert "rule fold_0_segmenters_SegGuidedDif_4_seed_0:" not in told  # its first four pairs are the same
    assert "rule fold_0_networks" not in told
    told = planned(["SegGuidedDif"], evaluated=3)
    assert "rule fold_0_quality_SegGuidedDif:" in told
    assert "rule fold_0_segmenters" not in told


def test_another_budget_is_refused_and_other_methods_are_not(study, phantom_dataset, tmp_path):
    """A finished segmenter would stay as it is, and be reported as of the new settings."""
    output = tmp_path / "copy"
    shutil.copytree(study / OUTPUT, output)
    given = {**settings(phantom_dataset), "output": str(output)}

    def check(**changed: object) -> None:
        wanted = Study.read({**given, **changed})
        check_unchanged(wanted, nodes(wanted))

    check(methods=["SegGuidedDif", "PIG"], num_pairs=[4, 8], seeds=[0, 1], num_evaluated=7)
    check(training={**TINY, "checkpoint_interval": 1})  # changes no result
    with pytest.raises(PigError, match=r"segmentation#max_epochs is 2, but .* made with 1; take another"):
        check(segmentation={"image_size": 32, "max_epochs": 2})
    with pytest.raises(PigError, match=r"seed is 5, but .* take another output"):
        check(seed=5)
    check(seed=5, output=str(tmp_path / "new"))
    inputs = output / "inputs.json"
    for name in ("dataset", "configs/train.yaml", "configs/presets/methods/SegGuidedDif.yaml"):
        recorded = json.loads(inputs.read_text())
        inputs.write_text(json.dumps({**recorded, name: "of something else"}))
        with pytest.raises(PigError, match=f"{name} has changed since runs in .* were made; restore it"):
            check()
        inputs.write_text(json.dumps(recorded))
    check()
    shutil.rmtree(output / ".marks")  # no network is done: others may be trained
    (output / ".marks/fold_0/networks").mkdir(parents=True)  # as Snakemake leaves it where the first one failed
    check(seed=5)
    with pytest.raises(PigError, match=r"segmentation#num_workers is 1, but"):  # a segmenter is begun
        check(segmentation={**settings(phantom_dataset)["segmentation"], "num_workers": 1})
    shutil.rmtree(output / "fold_0/segmenters")
    check(segmentation={"image_size": 32, "max_epochs": 2})


def test_pairs_that_know_the_held_out_patients_are_refused(study, phantom_dataset, tmp_path):
    """The generator of fold 0 has learnt from fold 1's patients: its pairs are no pairs for fold 1."""
    given = Study.read({**settings(phantom_dataset, folds=[1]), "output": str(tmp_path)})
    commands = {node.name: list(node.command) for node in nodes(given)}
    segment = commands["fold_1/segmenters/SegGuidedDif-4/seed_0"]
    segment[segment.index("--pairs_dir") + 1] = str(study / OUTPUT / "fold_0/pairs/SegGuidedDif")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    trained = subprocess.run(segment, env=environment, capture_output=True, text=True, timeout=300)
    assert trained.returncode == 0, trained.stderr
    evaluate = commands["fold_1/segmenters/SegGuidedDif-4/seed_0/evaluation"]
    refused = subprocess.run(evaluate, env=environment, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert "trained on pairs whose generator held out fold 0, and fold is 1" in last
