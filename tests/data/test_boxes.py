from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from pig_monai.data.boxes import BoxMask, LesionBox, ViewKey, read_boxes, read_file_paths
from pig_monai.data.cases import Found
from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dicom import Header
from pig_monai.data.find_boxes import BoxFiles, find_boxes
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.data.keys import CaseKey
from pig_monai.data.open_case import place_boxes
from pig_monai.data.orientation import brighter_edge, is_upside_down, rotate
from pig_monai.data.volume import Grid, UnusableError, Volume
from pig_monai.errors import PigError
from tests.data.dbt_objects import COLUMNS, IDENTITIES, ROWS, affine, build, lesion, pixels, save, save_mask
from tests.data.helpers import assert_nobody_is_named, header, report, rows, volumes

REAL = Path(os.environ.get("PIG_TEST_DATA", "/nowhere")) / "bcs_dbt/BCS-DBT boxes-train-v2.csv"
HEAD = "PatientID,StudyUID,View,Subject,Slice,X,Y,Width,Height,Class,AD,VolumeSlices"
FRAMES = 12
WIDE, HIGH = 2000, 2457  # pixels of a large detector: X + Width reaches 1994

needs_real = pytest.mark.skipif(not REAL.is_file(), reason="PIG_TEST_DATA does not name a folder with bcs_dbt/")


def inside(box: LesionBox, columns: int, rows: int) -> np.ndarray:
    """The ellipse in a box, pixel by pixel: bool (columns, rows)."""
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5, indexing="ij")
    across = (x - box.x - box.width / 2) / (box.width / 2)
    down = (y - box.y - box.height / 2) / (box.height / 2)
    return across**2 + down**2 <= 1


def plain(columns: int, rows: int, frames: int, stored: tuple[int, ...] | None = None) -> Volume:
    frame = np.zeros((columns, rows), np.float32)
    return Volume(Grid((columns, rows, frames)), None, lambda index: frame, stored=stored)


def test_a_box_is_an_ellipse_on_the_slices_around_its_own() -> None:
    one, other = LesionBox(5, 3, 20, 6, 11, False), LesionBox(9, 6, 24, 9, 4, False)  # they overlap
    mask = BoxMask([one, other], plain(COLUMNS, ROWS, FRAMES))
    for index in range(FRAMES):
        expected = np.zeros((COLUMNS, ROWS), bool)
        for box in (one, other):  # √8.5 and √6.5: two slices either way
            if abs(index - box.place) <= 2:
                expected |= inside(box, COLUMNS, ROWS)
        np.testing.assert_array_equal(mask.mask(index), expected, err_msg=str(index))
    assert mask.centres == {5, 9}
    assert mask.frames() == {3, 4, 5, 6, 7, 8, 9, 10, 11}
    cut = BoxMask([LesionBox(0, 34, 55, 10, 8, False)], plain(COLUMNS, ROWS, FRAMES)).mask(0)
    np.testing.assert_array_equal(cut, inside(LesionBox(0, 34, 55, 10, 8, False), COLUMNS, ROWS))
    assert [LesionBox(0, 0, 0, *size, False).reach for size in ((218, 105), (64, 64), (796, 865))] == [12, 8, 28]


def test_slices_of_boxes_are_those_that_the_file_stores() -> None:
    order = (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    mask = BoxMask([LesionBox(2, 3, 20, 6, 10, False)], plain(COLUMNS, ROWS, FRAMES, order))
    assert mask.centres == {9}
    assert [index for index in range(FRAMES) if mask.mask(index).any()] == [7, 8, 9, 10, 11]


def test_a_box_beyond_the_volume_is_refused() -> None:
    for box in (
        LesionBox(0, COLUMNS, 5, 3, 3, False),
        LesionBox(0, 3, ROWS, 3, 3, False),
        LesionBox(FRAMES, 3, 3, 3, 3, False),
    ):
        with pytest.raises(UnusableError, match=r"lies outside the volume of 40 × 60 × 12 voxels"):
            BoxMask([box], plain(COLUMNS, ROWS, FRAMES))


def test_a_volume_is_turned_with_its_grid() -> None:
    stored = pixels()
    volume = Volume(
        Grid((COLUMNS, ROWS, 4), affine(), "1.2"), (0.5, 0.25), lambda index: stored[index].T.astype(np.float32)
    )
    turned = rotate(volume)
    assert [brighter_edge(one.frame(1)) for one in (volume, turned)] == ["left", "right"]
    assert [is_upside_down(volume, side) for side in "LR"] == [False, True]
    assert [is_upside_down(turned, side) for side in "LR"] == [True, False]
    np.testing.assert_array_equal(turned.frame(2), np.rot90(volume.frame(2), 2))
    for x, y, z in [(0, 0, 0), (COLUMNS - 1, 3, 2)]:
        was = [COLUMNS - 1 - x, ROWS - 1 - y, z, 1]
        np.testing.assert_allclose(turned.grid.affine @ [x, y, z, 1], affine() @ was)
    assert turned.grid.frame_of_reference == "1.2"
    assert brighter_edge(np.ones((3, 3))) == "left"


def write(path: Path, *lines: str, head: str = HEAD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8-sig")
    return path


def test_the_csv_files_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "BCS-DBT boxes.csv", "P,S,RMLO1,0,3,1.0,2,3,4,benign,1,9")
    (found,) = read_boxes(path).items()
    assert found[0] == ViewKey("P", "S", "rmlo1")
    assert (found[1].slices, found[1].boxes) == (9, (LesionBox(3, 1, 2, 3, 4, True),))
    for line, expected in [
        ("P,S,lcc,0,3,a,2,3,4,benign,0,9", r"line 2: X is 'a'; give a whole number"),
        ("P,S,lcc,0,3,1,2,3,4,benign,,9", "line 2: AD is ''"),
        ("P,S,lcc,0,9,1,2,3,4,benign,0,9", "line 2: the box does not lie in its volume"),
        ("P,S,lcc,0,3,1,2,0,4,benign,0,9", "line 2: the box does not lie in its volume"),
        ("P,S,lcc,0,3,1,2", "line 2: Width is None"),
    ]:
        with pytest.raises(PigError, match=expected):
            read_boxes(write(path, line))
    two = "P,S,lcc,0,3,1,2,3,4,benign,0,9", "P,S,lcc,0,3,1,2,3,4,benign,0,8"
    with pytest.raises(PigError, match="line 3: VolumeSlices is not that of the rows above"):
        read_boxes(write(path, *two))
    with pytest.raises(PigError, match="has no column AD"):
        read_boxes(write(path, head=HEAD.replace(",AD", "")))
    with pytest.raises(PigError, match="--boxes .* cannot be read"):
        read_boxes(tmp_path / "absent.csv")
    with pytest.raises(PigError, match="--file_paths .* has no column StudyUID"):
        read_file_paths(write(path, head="PatientID,View,classic_path"))
    with pytest.raises(PigError, match="neither descriptive_path nor classic_path"):
        read_file_paths(write(path, "P,S,lcc,", head="PatientID,StudyUID,View,descriptive_path"))


def of_view(key: ViewKey, slices: int, **changes: Any) -> Header:
    """The header of a view's volume, with ``changes``."""
    said = {"view": key.view[1:].rstrip("12"), "laterality": key.view[0].upper(), "series": f"s.{key}"}
    return header(**({"patient": key.patient, "studies": ("1.2", key.study), "frames": slices} | said | changes))


def find(tmp_path: Path, headers: dict[PurePosixPath, Header], files: BoxFiles) -> tuple[dict, Found]:
    found = Found()
    return find_boxes(files, tmp_path, volumes(headers), CaseKey(b"k"), found), found


@needs_real
def test_every_real_box_lands_in_its_breast_whichever_way_the_volume_is_stored() -> None:
    """The volumes are constructed: a breast just large enough for its boxes, of the stated number of slices."""
    taken, distortions, misplaced = 0, 0, 0
    for key, own in read_boxes(REAL).items():
        side = key.view[0].upper()
        left = max(box.x + box.width for box in own.boxes), min(box.x for box in own.boxes)
        across = slice(0, left[0]) if side == "L" else slice(left[1], WIDE)
        down = slice(min(b.y for b in own.boxes), max(b.y + b.height for b in own.boxes))
        upright = np.zeros((WIDE, HIGH), bool)
        upright[across, down] = True
        for stored in (upright, upright[::-1, ::-1]):
            volume = Volume(Grid((WIDE, HIGH, own.slices)), None, lambda index, breast=stored: breast)
            opened = place_boxes(volume, own.boxes, side, distortions=True)
            assert opened.rotated == (stored is not upright)
            assert opened.label_kind == "box"
            breast = opened.volume.frame(0)
            for box in own.boxes:
                mask = opened.masks.mask(box.place)
                assert mask[box.x + box.width // 2, box.y + box.height // 2]
                assert not (mask & ~breast).any()
                misplaced += bool(stored is not upright and not stored[box.x + 1, box.y + box.height // 2])
        masses = [box for box in own.boxes if not box.distortion]
        distortions += len(own.boxes) - len(masses)
        if masses:
            without = place_boxes(volume, own.boxes, side, distortions=False)
            assert without.centres == {box.place for box in masses}
            assert not without.also_lesion & without.centres
            taken += len(masses)
        else:
            with pytest.raises(UnusableError, match="architectural distortions, not masses"):
                place_boxes(volume, own.boxes, side, distortions=False)
    assert (taken, distortions) == (147, 77)
    assert misplaced > 200  # what would have gone wrong unturned


@needs_real
def test_every_real_view_finds_its_file_by_the_paths(tmp_path: Path) -> None:
    """Digits included; the csv of paths is constructed, as are the headers, all with the wrong laterality."""
    views = read_boxes(REAL)
    headers, lines = {}, []
    for number, (key, own) in enumerate(sorted(views.items())):
        descriptive = f"BCS/{key.patient}/01-01-2000-{key.study}-MAMMO-1/{number}.000000-NA-1/1-1.dcm"
        classic = f"BCS/{key.patient}/1.2/{number}.3/1-1.dcm"
        file = PurePosixPath(descriptive if number % 2 else f"elsewhere/{number}")  # some were moved
        other = "L" if key.view[0] == "r" else "R"
        headers[file] = of_view(key, own.slices, laterality=other, series=f"{number}.3")
        lines.append(f"{key.patient},{key.study},{key.view},{descriptive},{classic}")
    paths = write(tmp_path / "p.csv", *lines, head="PatientID,StudyUID,View,descriptive_path,classic_path")
    matched, found = find(tmp_path, headers, BoxFiles(REAL, paths))
    assert (len(matched), found.skipped, found.warnings) == (200, [], [])
    for number, (key, own) in enumerate(sorted(views.items())):
        file = next(file for file, one in headers.items() if one.series == f"{number}.3")
        assert (matched[file].view, matched[file].boxes) == (key.view, own)


@needs_real
def test_without_the_paths_views_are_told_by_header_or_refused(tmp_path: Path) -> None:
    views = read_boxes(REAL)
    files = {PurePosixPath(f"{n}.dcm"): key for n, key in enumerate(sorted(views))}
    headers = {file: of_view(key, views[key].slices) for file, key in files.items()}
    matched, found = find(tmp_path, headers, BoxFiles(REAL))
    assert all(own.view == files[file].view for file, own in matched.items())
    assert len(matched) == 198  # rmlo and rmlo1 of one study have 69 slices each
    assert Counter(row.why.reason for row in found.skipped) == {
        "boxes: several volumes have their view's patient, study and slices": 2
    }
    del headers[next(iter(headers))]
    _, found = find(tmp_path, headers, BoxFiles(REAL))
    assert found.warnings == ["1 of 200 views with boxes are not among the volumes"]


def test_two_views_never_share_a_volume(tmp_path: Path) -> None:
    boxes = write(tmp_path / "b.csv", *(f"P,S,{view},0,3,1,2,3,4,benign,0,9" for view in ("lcc", "lcc1")))
    matched, found = find(tmp_path, {PurePosixPath("a"): of_view(ViewKey("P", "S", "lcc"), 9)}, BoxFiles(boxes))
    assert matched == {}
    assert [row.why.reason for row in found.skipped] == ["boxes: several views fit one volume"] * 2
    one = write(tmp_path / "b.csv", "P,S,lcc,0,3,1,2,3,4,benign,0,9")
    both = {PurePosixPath(side): of_view(ViewKey("P", "S", f"{side}cc"), 9) for side in "lr"}
    matched, found = find(tmp_path, both, BoxFiles(one))
    assert list(matched) == [PurePosixPath("l")]
    assert "told from the other breast's by the header's laterality" in found.warnings[0]
    for change in ({"frames": 8}, {"view": "mlo"}, {"studies": ("T",)}, {"patient": "Q"}):
        other = of_view(ViewKey("P", "S", "lcc"), 9, **change)
        matched, found = find(tmp_path, {PurePosixPath("l"): other}, BoxFiles(one))
        assert (matched, found.warnings) == ({}, ["1 of 1 views with boxes are not among the volumes"]), change
    with pytest.raises(PigError, match="View is 'front'"):
        find(tmp_path, both, BoxFiles(write(tmp_path / "b.csv", "P,S,front,0,3,1,2,3,4,benign,0,9")))


def test_paths_that_do_not_fit_are_rows(tmp_path: Path) -> None:
    boxes = write(tmp_path / "b.csv", *(f"P,S,{view},0,3,1,2,3,4,benign,0,9" for view in ("lcc", "rcc", "lmlo")))
    paths = write(
        tmp_path / "p.csv",
        "P,S,lcc,c/s/a.dcm",
        "P,S,rcc,c/t/a.dcm",
        head="PatientID,StudyUID,View,descriptive_path",
    )
    headers = {
        PurePosixPath("x/s/a.dcm"): of_view(ViewKey("P", "S", "lcc"), 9),  # another folder's file of that name
        PurePosixPath("c/t/a.dcm"): of_view(ViewKey("P", "S", "rcc"), 8),
    }
    matched, found = find(tmp_path, headers, BoxFiles(boxes, paths))
    assert matched == {}
    assert sorted(row.why.reason for row in found.skipped) == [
        "boxes: the csv of --file_paths has no row for their view",
        "boxes: their volume has 8 slices, not 9",
    ]
    assert found.warnings == ["1 of 3 views with boxes are not among the volumes"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Volumes with boxes: upright; upside down with the wrong laterality; a distortion alone; and one without."""
    folder = tmp_path / "source"
    stored = pixels(FRAMES)
    upside_down = np.ascontiguousarray(stored[:, ::-1, ::-1])
    known = {"StudyID": "DBT-S1", "PatientID": "DBT-P1"}
    save(build(stored, ViewPosition="CC", **known), folder / "dicom/s/1-1.dcm")
    save(build(upside_down, laterality="R", **known), folder / "dicom/t/1-1.dcm")
    save(build(stored, **(known | {"PatientID": "DBT-P2"})), folder / "dicom/u/1-1.dcm")
    save(build(stored, ViewPosition="CC", **(known | {"PatientID": "DBT-P3"})), folder / "dicom/v/1-1.dcm")
    write(
        folder / "boxes v2.csv",
        "DBT-P1,DBT-S1,lcc,0,4,8,20,6,10,benign,0,12",
        "DBT-P1,DBT-S1,lmlo2,0,4,8,20,6,10,cancer,0,12",
        "DBT-P1,DBT-S1,lmlo2,0,9,12,40,4,4,cancer,1,12",
        "DBT-P2,DBT-S1,lmlo,0,4,8,20,6,10,benign,1,12",
    )
    write(
        folder / "paths.csv",
        *(
            f"DBT-P{patient},DBT-S1,{view},BCS/{series}/1-1.dcm"
            for patient, view, series in [(1, "lcc", "s"), (1, "lmlo2", "t"), (2, "lmlo", "u")]
        ),
        head="PatientID,StudyUID,View,descriptive_path",
    )
    return folder


def prepare(source: Path, output: Path, **options: object) -> list[dict]:
    settings = {"size": ROWS, "crop": False, "chest_wall": "keep", "min_lesion_area": 0} | options
    dicom_to_slices(input=source / "dicom", boxes=source / "boxes v2.csv", output=output, **settings)
    return read_datalist(output)["training"]


@pytest.mark.parametrize("with_paths", [True, False])
def test_boxes_become_labels_of_upright_slices(source: Path, tmp_path: Path, with_paths: bool) -> None:
    out = tmp_path / "out"
    bcs = (source / "dicom").rename(source / "BCS")
    options = {"file_paths": source / "paths.csv"} if with_paths else {}
    (source / "dicom").symlink_to(bcs, target_is_directory=True)
    entries = prepare(source, out, **options)
    assert sorted((e["view"], e["laterality"], e["slice"], e.get("rotated")) for e in entries) == [
        *(("lcc", "L", index, None) for index in range(2, 7)),
        *(("lmlo", "L", index, True) for index in range(2, 7)),
    ]
    for entry in entries:
        assert entry["label_kind"] == "box"
        expected = inside(LesionBox(4, 8, 20, 6, 10, False), COLUMNS, ROWS)
        np.testing.assert_array_equal(read_label(out / entry["label"])[:COLUMNS], expected)
    slices = {(e["view"], e["slice"]): read_slice(out / e["image"]) for e in entries}
    for index in range(2, 7):
        np.testing.assert_array_equal(slices["lcc", index], slices["lmlo", index])
    said = report(out)
    assert (said["rotated"], said["laterality_disagrees"], said["converted"]) == (1, 0, 2)
    assert said["warnings"] == ["10 slices are labelled by ellipses in boxes, not by contours"]
    assert sorted(row[1:2] for row in rows(out)) == [
        ("it has no mask",),
        ("its boxes are architectural distortions, not masses",),
    ]
    assert_nobody_is_named(out, [*IDENTITIES, "DBT-P1", "DBT-S1", str(source), "boxes v2"])


def test_distortions_are_taken_on_request(source: Path, tmp_path: Path) -> None:
    entries = prepare(source, tmp_path / "out", architectural_distortions="true", largest_per_lesion=True)
    assert sorted((e["view"], e["slice"]) for e in entries) == [("lcc", 4), ("lmlo", 4), ("lmlo", 4), ("lmlo", 9)]


def test_lesion_free_slices_keep_away_from_distortions_that_do_not_count(source: Path, tmp_path: Path) -> None:
    entries = prepare(source, tmp_path / "out", lesion_free=9, lesion_free_distance=1)
    free = sorted((e["view"], e["slice"]) for e in entries if e.get("lesion") is False)
    # boxes on 2 to 6; the distortion, of reach 2, on 7 to 11; the outermost slice at either end is left out
    assert free == [("lcc", index) for index in (1, 7, 8, 9, 10)] + [("lmlo", 1)]
    assert {e["label_kind"] for e in entries} == {"box"}


def test_masks_count_more_than_boxes(source: Path, tmp_path: Path) -> None:
    truth = lesion([3], (FRAMES, ROWS, COLUMNS))
    (source / "dicom/s/1-1.dcm").rename(source / "dicom/s/one.dcm")
    save_mask(truth, source / "masks/one.nii.gz")
    entries = prepare(source, tmp_path / "out", masks=source / "masks")
    assert [e["slice"] for e in entries if "label_kind" not in e] == [3]
    assert [e["slice"] for e in entries if e.get("label_kind") == "box"] == [2, 3, 4, 5, 6]
    assert "1 volumes have masks and boxes: the masks count" in report(tmp_path / "out")["warnings"]


def test_boxes_of_another_set_are_an_error(source: Path, tmp_path: Path) -> None:
    write(source / "boxes v2.csv", "DBT-P9,DBT-S1,lcc,0,4,8,20,6,10,benign,0,12")
    with pytest.raises(PigError, match=r"no box in .*boxes v2\.csv fits a volume"):
        prepare(source, tmp_path / "out")
