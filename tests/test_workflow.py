"""The workflow that prepares a dataset in shards, run by Snakemake on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pig_monai.data.commands import dicom_to_slices
from tests.data.dbt_objects import build, lesion, pixels, save, save_mask
from tests.data.helpers import contents

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("snakemake") is None,
        reason="Snakemake is not installed (pip install 'pig-monai[workflow]')",
    ),
]


def run_workflow(folder: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    (folder / "prepare.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "workflows/prepare.smk", "--cores", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    return subprocess.run(
        [*map(str, command), "--configfile", "prepare.json", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def add(folder: Path, name: str, patient: str) -> None:
    save(build(pixels() + len(name), PatientID=patient), folder / f"dicom/{name}.dcm")
    save_mask(lesion([1]), folder / f"masks/{name}.nii.gz")


def test_the_workflow_makes_what_one_command_makes(tmp_path: Path) -> None:
    for number in range(5):
        add(tmp_path, f"v{number}", f"p{number % 3}")
    (tmp_path / "dicom/broken.dcm").write_text("no DICOM")
    options = {"input": "dicom", "masks": "masks", "size": 32}
    settings = {"output": "out/data set", "key": "out/key", "shards": 2, "options": options}
    done = run_workflow(tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    one = {"input": tmp_path / "dicom", "masks": tmp_path / "masks", "size": 32, "key": tmp_path / "out/key"}
    dicom_to_slices(**one, output=tmp_path / "one")
    assert contents(tmp_path / "out/data set") == contents(tmp_path / "one")
    add(tmp_path, "a", "p9")
    done = run_workflow(tmp_path, "--forceall", **settings)
    assert done.returncode == 0, done.stderr
    dicom_to_slices(**one, output=tmp_path / "one")
    assert contents(tmp_path / "out/data set") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": 2}, "unknown setting shard; known are"),
        ({"options": {"workers": 2}}, "options: workers is no option of the command here"),
    ],
)
def test_wrong_settings_are_told(tmp_path: Path, changes: dict, message: str) -> None:
    settings = {"output": "out", "key": "key", "shards": 2, "options": {"input": "dicom"}}
    done = run_workflow(tmp_path, **(settings | changes))
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
