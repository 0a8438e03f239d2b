"""Shards and their merging, the dry run, the lock, and what a case does that ends or hangs its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pig_monai.data.commands import dicom_to_slices, images_to_slices
from pig_monai.data.folder import read_datalist
from pig_monai.data.keys import load_key
from pig_monai.errors import PigError
from pig_monai.locking import locked
from tests.data.broken_volumes import broken_volumes
from tests.data.dbt_objects import IDENTITIES, build, lesion, pixels, save, save_mask
from tests.data.helpers import assert_nobody_is_named, contents, report, rows

ROOT = Path(__file__).parents[2]
COUNT = 3

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


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven volumes of three patients, two of one view of one patient, and one for each way to be broken."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(7):
        view = "CC" if number in (0, 3) else "MLO"
        uid = f"1.2.826.0.1.3680043.8.498.{number}"  # the share of a volume hangs on it
        ds = build(pixels() + number, PatientID=f"MRN-471{number % 3}", ViewPosition=view, SOPInstanceUID=uid)
        save(ds, folder / f"dicom/v{number}.dcm")
        save_mask(lesion([number % 4]), folder / f"masks/v{number}.nii.gz")
    save_mask(lesion([]), folder / "masks/v6.nii.gz")
    broken_volumes(folder)
    (folder / "key").write_text("k")
    return folder


@pytest.fixture(scope="module")
def whole(source: Path) -> Path:
    """What one run makes of it."""
    prepare(source, source / "whole")
    return source / "whole"


def prepare(source: Path, output: Path, **options: object) -> None:
    defaults = {"size": 64, "key": source / "key"}
    dicom_to_slices(input=source / "dicom", masks=source / "masks", output=output, **(defaults | options))


def prepare_shards(source: Path, folder: Path, count: int = COUNT, **options: object) -> None:
    for number in range(1, count + 1):
        prepare(source, folder / f"part_{number}", shard=f"{number}/{count}", **options)


@pytest.fixture(scope="module")
def shards(source: Path) -> Path:
    """The same in three shards."""
    prepare_shards(source, source / "shards")
    return source / "shards"


def test_merged_shards_are_what_one_run_makes(source: Path, whole: Path, shards: Path, tmp_path: Path) -> None:
    parts = [contents(shards / f"part_{number}") for number in range(1, COUNT + 1)]
    images = [{name for name in part if name.startswith("images/")} for part in parts]
    assert sum(map(bool, images)) > 1
    assert sum(map(len, images)) == len(set().union(*images))
    for part in parts:
        assert {name for name in part if "/" not in name} == set()  # neither a report nor a datalist
    for number in range(1, COUNT + 1):
        if images[number - 1]:
            assert_nobody_is_named(shards / f"part_{number}", [*IDENTITIES, "MRN-471", str(source)])
    prepare(source, tmp_path / "merged", merge=shards)
    assert contents(tmp_path / "merged") == contents(whole)
    names = sorted(entry["image"] for entry in read_datalist(whole)["training"])
    assert any("_lcc2_" in name for name in names)
    assert len(rows(whole)) > 15
    image = next((tmp_path / "merged/images").iterdir())
    assert image.stat().st_nlink == 2  # linked, not copied
    prepare(source, tmp_path / "merged", merge=shards)  # once more changes nothing
    assert contents(tmp_path / "merged") == contents(whole)
    prepare(source, tmp_path / "merged")  # one machine may go on with it
    assert contents(tmp_path / "merged") == contents(whole)


def test_a_merge_without_links_copies(
    source: Path, whole: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    prepare(source, tmp_path / "merged", merge=shards)
    assert contents(tmp_path / "merged") == contents(whole)
    assert next((tmp_path / "merged/images").iterdir()).stat().st_nlink == 1


def test_a_shard_is_no_dataset(source: Path, shards: Path) -> None:
    with pytest.raises(PigError, match=r"part_2 holds shard 2/3 of a dataset and has no datalist\.json; merge"):
        read_datalist(shards / "part_2")
    with pytest.raises(
        PigError, match=r"part_2 was prepared with other settings: shard is 2/3 there and None here"
    ):
        prepare(source, shards / "part_2")
    with pytest.raises(PigError, match=r"shard is 2/3 there and 1/3 here"):
        prepare(source, shards / "part_2", shard="1/3")


def test_shards_that_do_not_fit_are_refused_by_name(source: Path, shards: Path, tmp_path: Path) -> None:
    def refusal(**options: object) -> str:
        with pytest.raises(PigError) as refused:
            prepare(source, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
        return str(refused.value)

    assert "preprocessing#size is 64 there and 32 here" in refusal(merge=shards, size=32)
    (tmp_path / "other.key").write_text("another")
    assert "part_1 was prepared with other settings: key is" in refusal(merge=shards, key=tmp_path / "other.key")
    own = tmp_path / "own"
    assert refusal(merge=own) == f"--merge {own} is not a folder; give the folder that holds the shards' folders"
    own.mkdir()
    assert f"{own} holds no shards" in refusal(merge=own)
    for number in (1, 3):
        (own / f"{number}").symlink_to(shards / f"part_{number}")
    assert f"{own} lacks shard 2/3" in refusal(merge=own)
    (own / "again").symlink_to(shards / "part_1")
    assert "both hold shard 1/3" in refusal(merge=own)
    (own / "again").unlink()
    (own / "2").symlink_to(shards / "part_2")
    with locked(shards / "part_2", "--output"):
        assert "2 is in use by another process" in refusal(merge=own)


def test_unfinished_shards_are_named(source: Path, tmp_path: Path) -> None:
    prepare_shards(source, tmp_path / "shards")
    lost = []
    for number in (1, 2):
        folder = tmp_path / f"shards/part_{number}"
        records = [path for path in (folder / ".prepared").glob("*.json") if path.stem != "settings"]
        skips = sorted((folder / ".prepared/skipped").glob("*.json"))
        lost.append((records or skips)[0])
    assert "skipped" in str(lost) or len(lost) == 2
    lost[0].unlink()
    with pytest.raises(PigError, match=r"1 case is not prepared, or changed since, in shard 1/3; run the same"):
        prepare(source, tmp_path / "out", merge=tmp_path / "shards")
    lost[1].unlink()
    with pytest.raises(PigError, match=r"2 cases are not prepared, or changed since, in shards 1/3, 2/3; run"):
        prepare(source, tmp_path / "out", merge=tmp_path / "shards", dry_run=True)
    prepare_shards(source, tmp_path / "shards")
    prepare(source, tmp_path / "out", merge=tmp_path / "shards")


def test_what_changed_since_the_shards_ran_is_noticed(tmp_path: Path) -> None:
    for number in range(4):
        save(build(pixels() + number, PatientID=f"p{number}"), tmp_path / f"dicom/v{number}.dcm")
        save_mask(lesion([1] if number else []), tmp_path / f"masks/v{number}.nii.gz")  # the first will be skipped
    (tmp_path / "key").write_text("k")
    prepare_shards(tmp_path, tmp_path / "shards", 2)
    save_mask(lesion([2]), tmp_path / "masks/v0.nii.gz")
    with pytest.raises(PigError, match="1 case is not prepared, or changed since, in shard"):
        prepare(tmp_path, tmp_path / "out", merge=tmp_path / "shards")
    prepare_shards(tmp_path, tmp_path / "shards", 2)  # what was skipped is tried again
    prepare(tmp_path, tmp_path / "out", merge=tmp_path / "shards")
    prepare(tmp_path, tmp_path / "one")
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert report(tmp_path / "out")["converted"] == 4


def test_a_merged_dataset_that_grows_keeps_names_and_folds(tmp_path: Path) -> None:
    def add(name: str, patient: str) -> None:
        save(build(pixels() + len(name), PatientID=patient), tmp_path / f"dicom/{name}.dcm")
        save_mask(lesion([1]), tmp_path / f"masks/{name}.nii.gz")

    (tmp_path / "key").write_text("k")
    for number in range(4):
        add(f"v{number}", f"p{number % 2}")
    prepare_shards(tmp_path, tmp_path / "shards", 2)
    prepare(tmp_path, tmp_path / "merged", merge=tmp_path / "shards")
    prepare(tmp_path, tmp_path / "one")
    for number in range(4):
        add(f"a{number}", f"p{number}")  # sorted before the others
    prepare_shards(tmp_path, tmp_path / "new", 3)
    prepare(tmp_path, tmp_path / "merged", merge=tmp_path / "new")
    prepare(tmp_path, tmp_path / "one")
    assert contents(tmp_path / "merged") == contents(tmp_path / "one")


def test_images_are_sharded_too(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(5):
        row, column = np.mgrid[:16, :16]
        grey = (row * (number + 3) + column * 5).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"images/p{number}.png")
        Image.fromarray(np.uint8(255) * (row > 8 + number).astype(np.uint8)).save(
            tmp_path / f"masks/p{number}.png"
        )
    options = {"images": tmp_path / "images", "masks": tmp_path / "masks", "size": 16, "key": tmp_path / "key"}
    for number in (1, 2):
        images_to_slices(**options, output=tmp_path / f"shards/{number}", shard=f"{number}/2")  # makes the key
    images_to_slices(**options, output=tmp_path / "merged", merge=tmp_path / "shards")
    images_to_slices(**options, output=tmp_path / "one")
    assert contents(tmp_path / "merged") == contents(tmp_path / "one")


def test_shards_and_merge_need_a_key(source: Path, tmp_path: Path) -> None:
    for option in ({"shard": "1/2"}, {"merge": tmp_path}):
        name = next(iter(option))
        with pytest.raises(PigError, match=f"--{name} is given without --key; give all shards"):
            prepare(source, tmp_path / "out", key=None, **option)
    with pytest.raises(PigError, match="both --shard and --merge"):
        prepare(source, tmp_path / "out", shard="1/2", merge=tmp_path)
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(PigError, match=f"--shard is '{wrong}'"):
            prepare(source, tmp_path / "out", shard=wrong)


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
