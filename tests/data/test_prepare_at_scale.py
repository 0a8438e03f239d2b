"""The dry run, the lock, and what a case does that ends or hangs its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import pytest

from pig_monai.data.early import start_early
from pig_monai.data.keys import load_key
from pig_monai.errors import PigError
from pig_monai.locking import locked
from tests.data.dbt_objects import build, lesion, pixels, save, save_mask
from tests.data.helpers import assert_nobody_is_named, contents, report, rows
from tests.data.sharded import prepare, shards, source, whole

__all__ = ["shards", "source", "whole"]  # fixtures

ROOT = Path(__file__).parents[2]

# runs the command with cases that end or hang their process; workers run this module, too
_DEADLY = """
import os, signal, sys, time
from pig_monai.cli import run_command
from pig_monai.data import commands, prepare, workers

whole = prepare.open_case

def open_case(case, labels):
    kind = case.source.stem
    if kind == "exits":
        os._exit(7)
    if kind == "once" and not os.path.exists(os.environ["ONCE"]):  # as when memory was short for a moment
        open(os.environ["ONCE"], "w").close()
        os._exit(9)
    if kind == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hangs":
        time.sleep(600)
    return whole(case, labels)

prepare.open_case = open_case
workers.LONGEST = 60.0 if "hangs" not in os.environ["DEADLY"] else 12.0
if __name__ == "__main__":
    run_command(commands.dicom_to_slices)
"""


def test_jobs_that_start_at_once_share_the_key_that_they_make(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / f"keys/{attempt}"
        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(lambda n, path=path: load_key(tmp_path / f"{n}", path, make=True), range(8)))
        assert {key.secret for key in keys} == {path.read_bytes().strip()}
        assert len(keys[0].secret) == 64
        assert path.stat().st_mode & 0o777 == 0o600
    assert len(list((tmp_path / "keys").iterdir())) == 20


def plan(output: str) -> dict[str, str]:
    pairs = [line.strip().partition(":") for line in output.splitlines()[1:]]
    return {name: value.strip() for name, _, value in pairs}


def test_a_dry_run_tells_and_writes_nothing(
    source: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (source, *source.rglob("*"))}
    prepare(source, tmp_path / "out", key=None, log=tmp_path / "log", dry_run=True)
    told = plan(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    found = int(told["cases found"].split()[0])
    assert told["cases found"].endswith("of 3 patients")
    assert (int(told["to prepare"]), told["done already"]) == (found, "0")
    skipped = [row for row in report(whole)["skipped"] if row["reason"] in told["skipped"]]
    assert told["skipped"].startswith(f"{len(skipped)}: ")
    assert "1 × it has no mask" in told["skipped"]
    assert found + len(skipped) == report(whole)["converted"] + len(report(whole)["skipped"])
    assert told["time to go"].endswith(f"for {found} cases")
    seconds, size = told["a case"].split(", ")
    assert seconds.endswith("s")
    assert size.endswith("kB")
    prepare(source, whole, dry_run=True)
    told = plan(capsys.readouterr().out)
    assert told["output"] == f"{whole} (continues)"
    assert int(told["done already"]) == report(whole)["converted"]
    prepare(source, tmp_path / "out", shard="1/3", key=tmp_path / "new.key", dry_run=True)
    assert 0 < int(plan(capsys.readouterr().out)["in shard 1/3"]) < found
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in (source, *source.rglob("*"))} == before


def test_a_plan_knows_that_few_volumes_are_shared_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pig_monai.data.plan._measure", lambda todo, settings: (400.0 / len(todo), 1))
    prepare(source, tmp_path / "out", workers=20, dry_run=True)
    told = plan(capsys.readouterr().out)
    assert 1 < int(told["to prepare"]) < 20
    assert told["time to go"].startswith("about 20 s for")


def test_a_dry_run_of_a_merge_counts(
    source: Path, shards: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(source, tmp_path / "out", merge=shards, dry_run=True)
    told = plan(capsys.readouterr().out)["to take over"]
    assert told.startswith(f"{report(whole)['converted']} from 3 shards, which skipped ")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_checks_what_the_run_would(source: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(PigError, match="preprocessing#size is 64 there and 32 here"):
        prepare(source, whole, size=32, dry_run="True")
    with pytest.raises(PigError, match="--workers is 0"):
        prepare(source, tmp_path / "out", workers=0, dry_run=True)
    with pytest.raises(PigError, match="is not a folder"):
        prepare(tmp_path, tmp_path / "out", key=None, dry_run=True)
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_writes_into_a_folder(source: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "out", "--output"),
        pytest.raises(PigError, match="out is in use by another process; wait for it, or choose another --output"),
    ):
        prepare(source, tmp_path / "out")
    prepare(source, tmp_path / "out")
    assert not (tmp_path / "out/run.lock").exists()


def run_deadly(folder: Path, kinds: Sequence[str], workers: int) -> subprocess.CompletedProcess[str]:
    script = folder / "deadly.py"
    script.write_text(_DEADLY)
    options = ["--input", folder / "dicom", "--masks", folder / "masks", "--output", folder / f"out{workers}"]
    path = os.pathsep.join([str(ROOT), *sys.path])
    deadly = {"DEADLY": ",".join(kinds), "ONCE": str(folder / "once"), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, script, *options, "--key", folder / "key", "--size", "32", "--workers", str(workers)],
        env={**os.environ, **deadly},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_cases_that_end_or_hang_their_process_become_rows(tmp_path: Path) -> None:
    kinds = {
        "exits": "the process that prepared it died (exit status 7)",
        "crashes": "the process that prepared it died (SIGSEGV)",
        "hangs": "it took more than 12 s",
    }
    for number, name in enumerate(["a", "once", "z", *kinds]):
        save(build(pixels() + number, PatientID=name), tmp_path / f"dicom/{name}.dcm")
        save_mask(lesion([1]), tmp_path / f"masks/{name}.nii.gz")
    (tmp_path / "key").write_text("k")
    done = run_deadly(tmp_path, list(kinds), workers=2)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(reason for _, reason, _ in rows(tmp_path / "out2")) == sorted(kinds.values())
    assert report(tmp_path / "out2")["converted"] == 3
    assert (tmp_path / "once").exists()
    (tmp_path / "dicom/hangs.dcm").unlink()  # with one worker, this process would wait for it
    (tmp_path / "masks/hangs.nii.gz").unlink()
    ends = [run_deadly(tmp_path, ["exits", "crashes"], workers=1).returncode for _ in range(3)]
    assert sorted(ends) == [-11, 0, 7]
    assert ends[-1] == 0
    assert sorted(reason for _, reason, _ in rows(tmp_path / "out1")) == sorted(list(kinds.values())[:2])
    reports = ("report.json", "report.html")
    one, two = ({k: v for k, v in contents(tmp_path / f"out{n}").items() if k not in reports} for n in (1, 2))
    assert one == two


def test_what_nobody_foresaw_is_a_row(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pig_monai.data import prepare as preparation

    write = preparation.write_label

    def fails(path: Path, *args: object) -> None:
        if "_lcc_" in path.name:
            raise ZeroDivisionError("MRN-4711")
        write(path, *args)

    monkeypatch.setattr(preparation, "write_label", fails)
    prepare(source, tmp_path / "out")
    told = [reason for _, reason, _ in rows(tmp_path / "out")]
    assert "an unexpected ZeroDivisionError" in told
    assert not list((tmp_path / "out/images").glob("*_lcc_*"))
    assert_nobody_is_named(tmp_path / "out", ["MRN-471"])
    monkeypatch.setenv("PIG_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        prepare(source, tmp_path / "debug")


def test_leftovers_of_a_run_killed_at_its_very_beginning(source: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".prepared").mkdir(parents=True)
    (out / "run.lock").touch()
    (out / ".prepared/.writing-abc.json").write_text("{")
    prepare(source, out)
    assert contents(out) == contents(whole)


def test_an_overwriting_that_was_killed_goes_on(source: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(source, out, size=32)
    for path in [out / "datalist.json", *(p for p in (out / ".prepared").iterdir() if p.name != "settings.json")]:
        if path.is_file():
            path.unlink()
    prepare(source, out)  # no record is left, thus no setting binds
    assert contents(out) == contents(whole)


def test_time_is_not_in_any_byte(source: Path, whole: Path, tmp_path: Path) -> None:
    time.sleep(1.1)  # gzip counts in seconds
    prepare(source, tmp_path / "later")
    assert contents(tmp_path / "later") == contents(whole)


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        ([], 0),
        (["--workers", "1"], 0),
        (["--workers=1"], 0),
        (["--input", "DIR", "--workers", "4"], 1),
        (["--workers=16", "--output=OUT"], 1),
    ],
)
def test_workers_are_started_early_where_there_are_to_be_several(
    arguments: list[str], started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: calls.append(None))
    start_early(arguments)
    assert len(calls) == started
