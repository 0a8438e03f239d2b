"""Merging with samplers whose candidates are known; tests/test_infer_pairs.py does it with networks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.files import read_json, write_json
from pig_monai.merge_pairs import merge_pairs
from pig_monai.pairs.rejection import Limits
from tests.pairs.known import KnownSampler, contents, generate


def draw(folder: Path, start: int, count: int, **more: Any) -> Path:
    generate(KnownSampler(), folder, start_index=start, num_pairs=count, replace_rejected=False, **more)
    return folder


@pytest.fixture
def parts(tmp_path):
    """Candidates 6 to 12, 13 to 19 and 20 to 26; every third is rejected: 6, 9, 12, 15, …"""
    for start in (20, 6, 13):  # in any order, with names in another one
        draw(tmp_path / f"part_{30 - start}", start, 7)
    return tmp_path


def merge(root: Path, **options: Any) -> Path:
    merge_pairs(**{"parts": str(root / "part_*"), "output_dir": str(root / "merged"), **options})
    return root / "merged"


@pytest.mark.parametrize("num_pairs", [1, 4, 5, 8, 14, None])
def test_the_merged_folder_is_that_of_one_run(parts, num_pairs):
    before = contents(parts)
    merged = merge(parts, num_pairs=num_pairs)
    generate(KnownSampler(), parts / "single", start_index=6, num_pairs=num_pairs or 14)
    assert contents(merged) == contents(parts / "single")
    assert {name: content for name, content in contents(parts).items() if name.startswith("part")} == before


def test_one_part_of_this_version_says_whom_the_generator_of_all_saw(parts):
    for name in ("part_24", "part_17"):  # the first ones
        datalist = read_json(parts / name / "datalist.json", "")
        del datalist["generators"]
        write_json(parts / name / "datalist.json", datalist)
    generate(KnownSampler(), parts / "single", start_index=6, num_pairs=14)
    assert contents(merge(parts)) == contents(parts / "single")


def test_merging_again_with_more_parts_extends_and_with_fewer_is_refused(parts):
    merge(parts, parts=f"{parts / 'part_24'},{parts / 'part_17'}")
    merged = merge(parts)
    generate(KnownSampler(), parts / "single", start_index=6, num_pairs=14)
    assert contents(merged) == contents(parts / "single")
    with pytest.raises(PigError, match="merged holds 14 pairs, more than the 3 to be merged"):
        merge(parts, num_pairs=3)
    merge(parts, num_pairs=3, overwrite="true")
    assert [entry["index"] for entry in read_datalist(merged)["training"]] == [7, 8, 10]


def test_parts_without_any_pair_leave_only_their_rejected_ones(parts):
    draw(parts / "part_x", 27, 1)  # 27 is rejected
    draw(parts / "part_y", 28, 1)
    generate(KnownSampler(), parts / "single", start_index=6, num_pairs=15)
    assert contents(merge(parts)) == contents(parts / "single")


def test_a_gap_is_named_with_the_way_to_fill_it(parts):
    shutil.rmtree(parts / "part_17")
    with pytest.raises(PigError) as caught:
        merge(parts)
    assert caught.value.what == (
        f"no part holds candidates 13 to 19, between {parts / 'part_24'} and {parts / 'part_10'}"
    )
    assert caught.value.remedy == (
        "draw another part with --start_index 13 --num_pairs 7 --replace_rejected false"
    )
    assert not (parts / "merged").exists()


def test_a_part_that_was_stopped_can_be_continued(parts):
    shutil.rmtree(parts / "part_17")
    draw(parts / "part_17", 13, 4)  # candidates 13 to 16 …
    report = read_json(parts / "part_17/report.json", "")
    write_json(parts / "part_17/report.json", {**report, "requested": 7})  # … of seven
    with pytest.raises(PigError) as caught:
        merge(parts)
    assert "no part holds candidates 17 to 19" in caught.value.what
    assert f"run the command of {parts / 'part_17'} again (it was stopped after 4 of 7" in caught.value.remedy
    draw(parts / "part_17", 13, 7)
    generate(KnownSampler(), parts / "single", start_index=6, num_pairs=14)
    assert contents(merge(parts)) == contents(parts / "single")


def test_what_a_killed_part_wrote_after_its_last_record_does_not_count(parts):
    shutil.copy(parts / "part_10/rejected/empty-000021.png", parts / "part_10/rejected/empty-000027.png")
    generate(KnownSampler(), parts / "single", start_index=6, num_pairs=14)
    assert contents(merge(parts)) == contents(parts / "single")


def test_an_overlap_is_named(parts):
    draw(parts / "part_z", 18, 3)
    with pytest.raises(PigError, match="part_17 and .*part_z both hold candidates from 18 on; leave one"):
        merge(parts)


def test_too_few_pairs_say_where_to_go_on(parts):
    with pytest.raises(PigError, match="hold 14 pairs, 20 are wanted; .*--start_index 27 --num_pairs 6"):
        merge(parts, num_pairs=20)


def test_other_settings_are_named_with_both_folders(parts):
    shutil.rmtree(parts / "part_10")
    generate(KnownSampler(), parts / "part_10", Limits(0, 0.5, 64, 0), start_index=20, num_pairs=7)
    with pytest.raises(PigError, match=r"part_17 was drawn with max_mask_area = 1 and .*part_10 with 0\.5"):
        merge(parts)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"parts": "/nowhere/part_*"}, r"there is no folder /nowhere/part_\*"),
        ({"num_pairs": 0}, "num_pairs is 0"),
        ({"overwrite": "maybe"}, "overwrite is 'maybe'"),
    ],
)
def test_a_users_mistake_is_named(parts, options, what):
    with pytest.raises(PigError, match=what):
        merge(parts, **options)


def test_a_folder_that_is_no_part_is_named(parts, phantom_dataset):
    with pytest.raises(PigError, match=f"{phantom_dataset} holds no pairs run"):
        merge(parts, parts=f"{parts / 'part_*'},{phantom_dataset}")
    with pytest.raises(PigError, match="is one of the parts"):
        merge(parts, output_dir=str(parts / "part_10"), overwrite=True)
    (parts / "part_10/rejected/empty-000021.png").unlink()
    with pytest.raises(PigError, match="part_10 lacks candidate 21, which its report counts"):
        merge(parts)
