"""The report of a preparation: its figures against counts by hand, its page by what a reader finds on it."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dataset_report import LISTED, write_report
from pig_monai.data.dataset_slices import SHOWN
from pig_monai.data.folder import read_datalist, read_slice, write_label, write_slice
from tests.data.broken_volumes import broken_volumes
from tests.data.dbt_objects import COLUMNS, FRAMES, ROWS, SPACING, build, pixels, save, save_mask
from tests.data.helpers import report


def two_lesions() -> np.ndarray:
    """A lesion of 60, then 24 pixels on slices 0 and 1, another of 15 on slice 1 alone, and a speck on slice 3."""
    mask = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
    mask[0, 20:30, 8:14] = 1
    mask[1, 29:35, 14:18] = 1  # touches the first across a corner
    mask[1, 20:25, 4:7] = 1
    mask[3, 40, 10] = 1
    return mask


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three volumes of two patients beside broken ones, prepared."""
    folder = tmp_path_factory.mktemp("report")
    views = [("a", "L", "MLO", "1"), ("b", "R", "CC", "1"), ("c", "R", "CC", "2")]
    broken_volumes(folder)
    for name, side, view, patient in views:
        mirrored = slice(None, None, -1 if side == "R" else None)
        stored = np.ascontiguousarray(pixels()[:, :, mirrored])
        save(build(stored, laterality=side, ViewPosition=view, PatientID=patient), folder / f"dicom/{name}.dcm")
        save_mask(np.ascontiguousarray(two_lesions()[:, :, mirrored]), folder / f"masks/{name}.nii.gz")
    for number in range(3):  # of one kind, whatever their numbers
        save(build(pixels(), NumberOfFrames=100 + number), folder / f"dicom/claims{number}.dcm")
        save_mask(two_lesions(), folder / f"masks/claims{number}.nii.gz")
    dicom_to_slices(input=folder / "dicom", masks=folder / "masks", output=folder / "out", size=64)
    return folder / "out"


def test_lesions_are_counted_in_three_dimensions_by_view_and_side(prepared: Path) -> None:
    found = report(prepared)
    assert found["lesions"] == 6
    assert found["views_and_sides"] == [
        {"view": "cc", "laterality": "R", "volumes": 2, "slices": 4, "lesions": 4},
        {"view": "mlo", "laterality": "L", "volumes": 1, "slices": 2, "lesions": 2},
    ]
    # a disc of 60 pixels of 0.5 × 0.25 mm is 3.1 mm across, one of 15 pixels 1.5 mm
    pixel = SPACING[0] * SPACING[1]
    sizes = [2 * np.sqrt(count * pixel / np.pi) for count in (60, 15) for _ in range(3)]
    edges = found["lesion_diameters"]["mm"]["edges"]
    assert found["lesion_diameters"].keys() == {"mm"}
    assert found["lesion_diameters"]["mm"]["counts"] == np.histogram(sizes, edges)[0].tolist()
    assert edges[0] == 0
    assert len(edges) <= 21
    np.testing.assert_allclose(np.diff(edges), edges[1])


def test_intensities_are_those_of_the_stored_slices(prepared: Path) -> None:
    values = np.concatenate(
        [read_slice(prepared / e["image"]).ravel() for e in read_datalist(prepared)["training"]]
    )
    inside = values[values > -1]
    found = report(prepared)["intensities"]
    assert found["counts"] == np.histogram(inside, np.linspace(-1, 1, 41))[0].tolist()
    assert found["share_at_upper_limit"] == pytest.approx((inside == 1).mean(), abs=1e-4)
    assert found["slices"] == 6


def test_what_was_skipped_is_grouped_by_reason_with_the_remedy(prepared: Path) -> None:
    found = report(prepared)
    assert all(row.keys() == {"case", "view", "reason", "remedy"} for row in found["skipped"])
    kinds = Counter(re.sub(r"\d+", "#", row["reason"]) for row in found["skipped"])
    groups = {row["reason"]: row["count"] for row in found["skipped_by_reason"]}
    assert sum(groups.values()) == len(found["skipped"])
    assert groups["it claims … frames and describes …"] == 4 == kinds["it claims # frames and describes #"]
    assert list(groups.values()) == sorted(groups.values(), reverse=True)
    page = (prepared / "report.html").read_text()
    for row in found["skipped_by_reason"]:
        assert html.escape(f"{row['count']} × {row['reason']}") in page
        assert html.escape(f"→ {row['remedy']}") in page
    for row in found["skipped"]:
        assert row["case"] in page
    assert "it claims 101 frames and describes 4" in page  # unfolded, each case has its numbers


def test_the_page_is_one_file_that_asks_nobody_for_anything(prepared: Path) -> None:
    page = (prepared / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"https?://|//[a-z]|url\(|@import|<link|<iframe", re.sub(r"base64,[^']*", "", page))
    entries = read_datalist(prepared)["training"]
    assert page.count("<img") == len(entries) == 6
    for entry in entries:
        assert f"{entry['view'].upper()}, slice {entry['slice']}, case {entry['patient']}" in page
    assert "Maker" not in page  # nothing by vendor


def record(number: int, known: bool = True) -> dict:
    entry = {"view": "lcc", "laterality": "L", "slice": 0, "fold": 0, "spacing": [0.1, 0.1], "origin": "real"}
    entry |= {"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "patient": f"{number:012x}"}
    lesions = {"lesions": [50.0, 2.0]} if known else {}  # records of version 0.1.0 do not say
    return {
        "case": entry["patient"],
        "lesion_area": 50.0,
        "chest_wall": ["left"],
        "laterality": "L",
        "geometry": True,
        "entries": [entry],
        **lesions,
    }


def test_the_page_of_a_large_archive_is_small(tmp_path: Path) -> None:
    write_slice(tmp_path / "images/a.nii.gz", np.linspace(-1, 1, 512 * 512).reshape(512, 512), (0.1, 0.1))
    write_label(tmp_path / "labels/a.nii.gz", np.eye(512) > 0, (0.1, 0.1))
    records = [record(number) for number in range(20_000)]
    entries = [one["entries"][0] for one in records]
    skipped = [
        {"case": f"{number:012x}", "view": "rcc", "reason": f"{number} of {kind}", "remedy": "mend it"}
        for number in range(20_000)
        for kind in ("these", "those")
    ]
    write_report(tmp_path, "large", "volumes", records, entries, skipped, [])
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 3e6
    assert page.count("<img") == SHOWN
    assert f"… and {20_000 - LISTED} more" in page
    found = report(tmp_path)
    assert (found["converted"], found["lesions"], len(found["skipped"])) == (20_000, 40_000, 40_000)
    assert [row["count"] for row in found["skipped_by_reason"]] == [20_000, 20_000]


def test_records_of_earlier_versions_do_not_say_how_many_lesions(tmp_path: Path) -> None:
    write_slice(tmp_path / "images/a.nii.gz", np.linspace(-1, 1, 64).reshape(8, 8))
    write_label(tmp_path / "labels/a.nii.gz", np.eye(8) > 0)
    for known, lesions in (([True, False], 2), ([False, False], None)):
        records = [record(number, flag) for number, flag in enumerate(known)]
        write_report(tmp_path, "old", "volumes", records, [one["entries"][0] for one in records], [], [])
        assert report(tmp_path)["lesions"] == lesions
    assert "left: lesions" not in (tmp_path / "report.html").read_text()


def test_nothing_converted_still_leaves_a_report(tmp_path: Path) -> None:
    skipped = [{"case": "0", "view": None, "reason": "its mask is empty", "remedy": "check the mask"}]
    write_report(tmp_path, "none", "volumes", [], [], skipped, ["look here"])
    page = (tmp_path / "report.html").read_text()
    assert "1 × its mask is empty" in page
    assert "Warning: look here." in page
    assert json.loads((tmp_path / "report.json").read_text())["converted"] == 0
    assert uid.SecondaryCaptureImageStorage not in page
