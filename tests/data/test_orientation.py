"""Volumes are turned upright where their pixels, not their headers, say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.data.orientation import look_for_chest_wall
from pig_monai.data.volume import Grid, Volume
from pig_monai.errors import PigError
from tests.data import breasts
from tests.data.dbt_objects import build, build_slices, item, save, save_mask
from tests.data.helpers import report

FRAMES, ROWS, COLUMNS = 6, 120, 80
TURN = np.s_[:, ::-1, ::-1]


def upright(side: str = "L") -> np.ndarray:
    """A volume (frames, rows, columns) with its nipple pointing down: turned, it is another."""
    image, _ = breasts.breast((COLUMNS, ROWS), tall=0.7, centre=0.6)
    image[20:40, 50:70] += 300
    frames = np.stack([image.T + place for place in range(FRAMES)]).astype(np.uint16)
    return frames if side == "L" else frames[:, :, ::-1].copy()


def lesion(side: str = "L") -> np.ndarray:
    mask = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
    mask[2:5, 50:70, 20:40] = 1
    return mask if side == "L" else mask[:, :, ::-1].copy()


def prepare(
    folder: Path, stored: np.ndarray, mask: np.ndarray | None, options: dict | None = None, **header: Any
) -> tuple[list[dict], dict]:
    """Prepare one volume; return its entries and the report."""
    save(build(stored.copy(), **header), folder / "dicom/v.dcm")
    settings: dict[str, Any] = {"size": ROWS, "crop": False, "chest_wall": "keep"} | (options or {})
    if mask is None:
        settings["unlabeled"] = True
    else:
        save_mask(mask.copy(), folder / "masks/v.nii.gz")
        settings["masks"] = folder / "masks"
    dicom_to_slices(input=folder / "dicom", output=folder / "out", **settings)
    return read_datalist(folder / "out")["training"], report(folder / "out")


def shown(folder: Path, entry: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return a prepared slice and its label: (rows, columns)."""
    slices = read_slice(folder / "out" / entry["image"]), read_label(folder / "out" / entry["label"])
    return slices[0][:COLUMNS].T, slices[1][:COLUMNS].T


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_volume_is_turned_with_its_mask(tmp_path: Path, side: str, turned: bool) -> None:
    how = TURN if turned else np.s_[:]
    entries, said = prepare(tmp_path, upright(side)[how], lesion(side)[how], laterality=side)
    assert [entry["slice"] for entry in entries] == [2, 3, 4]
    for entry in entries:
        image, label = shown(tmp_path, entry)
        np.testing.assert_array_equal(label, lesion(side)[2] > 0)
        truth = upright(side)[entry["slice"]].astype(float)
        assert np.corrcoef(image[truth > 300], truth[truth > 300])[0, 1] > 0.95
        assert entry.get("rotated", False) == entry["geometry"]["turned"] == turned
    assert said["rotated"] == turned
    assert (said["laterality_disagrees"], said["chest_wall_unsure"]) == (0, 0)
    assert said["chest_wall_right"] == (side == "R")


def test_slices_in_files_of_their_own_are_turned_too(tmp_path: Path) -> None:
    for number, ds in enumerate(build_slices(upright()[TURN].copy(), ImageLaterality="L")):
        save(ds, tmp_path / f"dicom/v/{number}.dcm")
    save_mask(lesion()[TURN].copy(), tmp_path / "masks/v.nii.gz")
    dicom_to_slices(
        input=tmp_path / "dicom", masks=tmp_path / "masks", output=tmp_path / "out", size=ROWS, crop=False
    )
    entries = read_datalist(tmp_path / "out")["training"]
    assert len(entries) == 3
    for entry in entries:
        np.testing.assert_array_equal(shown(tmp_path, entry)[1], lesion()[2] > 0)


def test_unlabelled_slices_say_that_they_were_turned(tmp_path: Path) -> None:
    entries, said = prepare(tmp_path, upright()[TURN], None)
    assert all(entry["rotated"] for entry in entries)
    assert said["rotated"] == 1


def test_turning_can_be_switched_off(tmp_path: Path) -> None:
    entries, said = prepare(tmp_path, upright()[TURN], lesion()[TURN], {"upright": "false"})
    np.testing.assert_array_equal(shown(tmp_path, entries[0])[1], lesion()[TURN][2] > 0)
    assert not any("rotated" in entry for entry in entries)
    assert (said["rotated"], said["laterality_disagrees"], said["chest_wall_right"]) == (0, 1, 1)
    with pytest.raises(PigError, match="upright is False there and True here"):
        prepare(tmp_path, upright()[TURN], lesion()[TURN])


def test_without_a_laterality_nothing_is_turned(tmp_path: Path) -> None:
    entries, said = prepare(tmp_path, upright()[TURN], lesion()[TURN], laterality="")
    np.testing.assert_array_equal(shown(tmp_path, entries[0])[1], lesion()[TURN][2] > 0)
    assert (said["rotated"], said["laterality_disagrees"], said["chest_wall_right"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("directions", "turned"),
    [
        (["P", "F"], False),  # a mirrored display of the left breast, or a right one that the header calls left
        (["P", "FL"], False),
        (["P", "L"], False),
        (["P", "H"], True),  # it says that the volume lies upside down
        (["A", "F"], True),  # it says what the laterality does, and the pixels neither
        (["A", "R"], True),
        (["F", "P"], True),  # it says nothing about the side
    ],
)
@pytest.mark.parametrize("of_frames", [False, True])
def test_patient_orientation_tells_a_mirrored_display(
    tmp_path: Path, directions: list[str], turned: bool, of_frames: bool
) -> None:
    stored = upright()[TURN] if turned else upright()[:, :, ::-1]
    mask = lesion()[TURN] if turned else lesion()[:, :, ::-1]
    header: dict[str, Any] = {"PatientOrientation": directions}
    if of_frames:
        shared = build(stored.copy()).SharedFunctionalGroupsSequence[0]
        shared.PatientOrientationInFrameSequence = [item(PatientOrientation=directions)]
        header = {"SharedFunctionalGroupsSequence": [shared]}
    entries, said = prepare(tmp_path, stored, mask, {"chest_wall": "left"}, **header)
    for entry in entries:  # either way the chest wall comes to the left
        np.testing.assert_array_equal(shown(tmp_path, entry)[1], lesion()[2] > 0)
        assert entry["geometry"]["mirrored"] != turned
    assert (said["rotated"], said["laterality_disagrees"]) == ((1, 0) if turned else (0, 1))
    told = [warning for warning in said["warnings"] if "Patient Orientation" in warning]
    assert len(told) == (not turned)


def test_what_shows_no_side_is_left_as_it_is_stored(tmp_path: Path) -> None:
    """A magnified view: tissue from edge to edge."""
    rng = np.random.default_rng(0)
    stored = (1000 + rng.integers(0, 50, (FRAMES, ROWS, COLUMNS))).astype(np.uint16)
    stored[:, ::7] += 200
    entries, said = prepare(tmp_path, stored, lesion(), {"chest_wall": "left"}, laterality="R")
    for entry in entries:
        np.testing.assert_array_equal(shown(tmp_path, entry)[1], lesion()[2] > 0)
        assert not entry["geometry"]["mirrored"]
    assert (said["rotated"], said["chest_wall_unsure"], said["laterality_disagrees"]) == (0, 1, 0)
    assert any("could not be told" in warning for warning in said["warnings"])


def as_volume(frames: list[np.ndarray]) -> tuple[Volume, list[int]]:
    """A volume of frames (rows, columns), and a list that gets the number of each that is decoded."""
    decoded: list[int] = []

    def frame(index: int) -> np.ndarray:
        decoded.append(index)
        return frames[index].T.astype(np.float32)

    return Volume(Grid((COLUMNS, ROWS, len(frames))), None, frame), decoded


def test_frames_vote_and_are_decoded_once() -> None:
    left, right, nothing = upright()[0], upright("R")[0], np.zeros((ROWS, COLUMNS))
    for frames, wanted, expected in [
        ([left] * 9, range(9), "left"),
        ([left, right, right], range(3), "right"),
        ([nothing, right, right], range(3), "right"),
        ([nothing, nothing, right], range(3), None),
        ([nothing, left, right], range(3), None),
        ([left], [0], "left"),
        ([nothing, left, left, left, left, nothing], [0], "left"),  # the others' voices come from the middle
    ]:
        volume, decoded = as_volume(frames)
        volume, side = look_for_chest_wall(volume, list(wanted))
        assert side == expected
        for index in wanted:
            np.testing.assert_array_equal(volume.frame(index), frames[index].T)
        assert sorted(decoded.count(index) for index in wanted) == [1] * len(list(wanted))
        assert len(decoded) <= max(len(list(wanted)), 3)
        volume.frame(wanted[0])  # a second time, too


def test_every_slice_of_a_volume_is_mirrored_alike(tmp_path: Path) -> None:
    """Its first slices, of skin, show no side by themselves."""
    stored = upright("R")
    stored[2] = 0
    stored[2, 30:90, 30:78] = np.arange(60, 108)
    entries, _ = prepare(tmp_path, stored, lesion("R"), {"chest_wall": "left"}, laterality="R")
    for entry in entries:
        np.testing.assert_array_equal(shown(tmp_path, entry)[1], lesion()[2] > 0)


@pytest.mark.skipif(not breasts.REAL_SLICE.is_file(), reason="PIG_TEST_DATA names no dbt_slice/")
def test_a_real_slice_is_turned_upright(tmp_path: Path) -> None:
    real = np.asarray(Image.open(breasts.REAL_SLICE)).astype(np.uint16)[
        ::2, ::2
    ]  # a right breast, chest wall right
    frames = np.stack([real // 2, real, real // 3])
    mask = np.zeros(frames.shape, np.uint8)
    mask[1, 600:650, 750:820] = 1
    labels = []
    for name, how in (("a", np.s_[:]), ("b", TURN)):
        options = {"crop": True, "size": 512}
        entries, said = prepare(tmp_path / name, frames[how], mask[how], options, laterality="R")
        assert said["rotated"] == (name == "b")
        labels.append([read_slice(tmp_path / name / "out" / entries[0]["image"])])
        labels[-1].append(read_label(tmp_path / name / "out" / entries[0]["label"]))
    # the coarse grid begins at another pixel: the crop may be a coarse pixel off
    assert np.corrcoef(labels[0][0].ravel(), labels[1][0].ravel())[0, 1] > 0.99
    overlap = (labels[0][1] & labels[1][1]).sum() / (labels[0][1] | labels[1][1]).sum()
    assert overlap > 0.9
