"""Shards and their merging."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pig_monai.data.commands import images_to_slices
from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.locking import locked
from tests.data.dbt_objects import IDENTITIES, build, lesion, pixels, save, save_mask
from tests.data.helpers import assert_nobody_is_named, contents, report, rows
from tests.data.sharded import COUNT, prepare, prepare_shards, shards, source, whole

__all__ = ["shards", "source", "whole"]  # fixtures


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
