"""What preparation does to a slice can be undone; the truth is analytic or the array that went in."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from pig_monai.data.commands import dicom_to_slices, images_to_slices
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.data.geometry import Geometry, undo_mask, undo_slice
from pig_monai.data.prepare_slice import PreparedSlice, RawSlice, prepare_slice
from pig_monai.errors import PigError
from tests.data import breasts
from tests.data.dbt_objects import build, save, save_mask

INTENSITY = {"kind": "window"}
FLIPS = list(itertools.product([False, True], repeat=2))


def go(image: np.ndarray, mask: np.ndarray, turned: bool, **changes: object) -> tuple[PreparedSlice, dict]:
    """Prepare a stored slice (W, H) whose volume is to be ``turned``; return the result and its entry."""
    settings = {"size": 512, "aspect": "pad", "crop": True, "chest_wall": "left", "intensity": INTENSITY} | changes
    image, mask = (a[::-1, ::-1] if turned else a for a in (image, mask))
    raw = RawSlice(np.asarray(image, np.float32), mask, (0.0, 2000.0), turned=turned)
    done = prepare_slice(raw, settings)
    x0, y0, x1, y1 = done.geometry.crop
    scaled = tuple(round(n * settings["size"] / max(x1 - x0, y1 - y0)) for n in (x1 - x0, y1 - y0))
    fitted = scaled if settings["aspect"] == "pad" else (settings["size"],) * 2
    assert (done.geometry.source, done.geometry.turned, done.geometry.fitted) == (image.shape, turned, fitted)
    return done, {"geometry": done.geometry.to_entry()}


def stored(turned: bool, mirrored: bool, shape: tuple[int, int] = breasts.SHAPE) -> np.ndarray:
    """A slice that has to be turned and mirrored to have its chest wall left."""
    image, _ = breasts.breast(shape)
    image = image[::-1] if mirrored else image
    return (image[::-1, ::-1] if turned else image).copy()


@pytest.mark.parametrize(("turned", "mirrored"), FLIPS)
def test_flips_crop_and_padding_come_back_exactly(turned: bool, mirrored: bool) -> None:
    image = stored(turned, mirrored, (300, 400))
    rng = np.random.default_rng(0)
    mask = (rng.random(image.shape) < 0.3) & (image > 0)
    # 327 rows of breast: a size that needs no resampling
    x0, y0, x1, y1 = breasts.box_of(image > 0)
    done, entry = go(image, mask, turned, size=max(x1 - x0, y1 - y0))
    assert (done.geometry.mirrored, entry["geometry"]["fitted"]) == (mirrored, [x1 - x0, y1 - y0])
    np.testing.assert_array_equal(undo_mask(done.label, entry), mask)
    np.testing.assert_allclose(undo_slice(done.image, entry), image / 1000 - 1, atol=1e-6)


def outline(mask: np.ndarray) -> np.ndarray:
    """The middles (n, 2) of the sides between pixels inside and outside, in pixels."""
    sides = []
    for axis in (0, 1):
        padded = np.pad(mask, 1)
        x, y = np.nonzero(np.diff(padded.astype(int), axis=axis))
        across = np.stack([x, y], axis=1) - 1.0
        across[:, axis] += 1
        across[:, 1 - axis] += 0.5
        sides.append(across)
    return np.concatenate(sides)


@pytest.mark.parametrize(("turned", "mirrored"), FLIPS)
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((945, 1228), {}),
        ((1890, 2457), {}),
        ((1890, 2457), {"size": 256}),
        ((945, 1228), {"aspect": "stretch"}),
        ((945, 1228), {"crop": False}),
        ((300, 400), {}),
        ((300, 200), {"aspect": "stretch", "size": 333}),
    ],
)
def test_a_resampled_mask_s_boundary_is_within_a_prepared_pixel(
    turned: bool, mirrored: bool, shape: tuple[int, int], changes: dict
) -> None:
    """Ellipses of several sizes and directions; distances between outlines, both ways, in float64."""
    image = stored(turned, mirrored, shape)
    x, y = np.meshgrid(np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5, indexing="ij")
    middle = breasts.box_of(image > 0)
    centre = (middle[0] + middle[2]) / 2, (middle[1] + middle[3]) / 2
    angle = np.linspace(0, 2 * np.pi, 4000)
    for across, down, lean in ((0.15, 0.15, 0.0), (0.04, 0.09, 0.6), (0.1, 0.03, -1.0)):
        a, b = across * shape[0], down * shape[0]
        turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
        along = np.stack([x - centre[0], y - centre[1]], axis=-1) @ turn
        mask = (along[..., 0] / a) ** 2 + (along[..., 1] / b) ** 2 < 1
        curve = np.stack([a * np.cos(angle), b * np.sin(angle)], axis=-1) @ turn.T + centre
        done, entry = go(image, mask, turned, **changes)
        geometry = Geometry.of(entry)
        back = undo_mask(done.label, entry)
        assert back.shape == shape
        x0, y0, x1, y1 = geometry.crop
        pixel = np.array([(x1 - x0) / geometry.fitted[0], (y1 - y0) / geometry.fitted[1]])
        pixel = np.maximum(pixel, 1)  # a slice that grew cannot come back finer than it was
        edge, drawn = outline(back) / pixel, outline(mask) / pixel
        assert cKDTree(drawn).query(edge)[0].max() <= 1
        assert cKDTree(edge).query(drawn)[0].max() <= 1
        # the drawn mask is itself up to 0.7 of a source's pixel off the curve: much of a prepared one, stretched
        if changes.get("aspect") != "stretch":
            assert cKDTree(curve / pixel).query(edge)[0].max() <= 1
            assert cKDTree(edge).query(curve / pixel)[0].max() <= 1


def test_a_lesion_of_one_prepared_pixel_comes_back() -> None:
    image = stored(False, False)
    mask = np.zeros(image.shape, bool)
    mask[100, 600] = True
    done, entry = go(image, mask, False, size=64)
    assert done.label.sum() == 1
    back = undo_mask(done.label, entry)
    assert binary_dilation(back, iterations=8)[100, 600]
    assert back.any()


def test_what_cannot_be_undone_says_so() -> None:
    entry = {"image": "images/a.nii.gz"}
    with pytest.raises(PigError, match=r"the entry of images/a\.nii\.gz has no geometry; .*afresh"):
        undo_mask(np.zeros((8, 8)), entry)
    block = Geometry((9, 7), False, (0, 0, 9, 7), False, (8, 6)).to_entry()
    assert Geometry.of({"geometry": block}) == Geometry((9, 7), False, (0, 0, 9, 7), False, (8, 6))
    with pytest.raises(PigError, match="a slice of 9 × 8 is given for an entry prepared at 8 × 8"):
        undo_slice(np.zeros((9, 8)), {"geometry": block})
    for key, value in (("crop", [0, 0, 10, 7]), ("crop", [3, 0, 3, 7]), ("fitted", [0, 8]), ("turned", 1)):
        with pytest.raises(PigError, match="a geometry that cannot be"):
            undo_mask(np.zeros((8, 8)), {"geometry": block | {key: value}})


@pytest.mark.parametrize("chest_wall", ["left", "keep"])
def test_a_dataset_s_labels_go_back_onto_the_volume(tmp_path: Path, chest_wall: str) -> None:
    """Both breasts, each upright and upside down; masks come back where they were drawn."""
    image, _ = breasts.breast((200, 300))
    rows = image.T.astype(np.uint16)
    frames = np.stack([rows, rows, rows, rows])
    drawn = np.zeros(frames.shape, np.uint8)
    drawn[1:3, 100:160, 20:50] = 1
    masks = {}
    for name, side, flip in (("a", "L", 1), ("b", "R", -1)):
        for turned, turn in ((False, 1), (True, -1)):
            patient = f"{name}{int(turned)}"
            stored_as = np.s_[:, ::turn, :: turn * flip]
            save(
                build(frames[stored_as].copy(), laterality=side, PatientID=patient), tmp_path / f"d/{patient}.dcm"
            )
            masks[side, turned] = drawn[stored_as]
            save_mask(drawn[stored_as].copy(), tmp_path / f"m/{patient}.nii.gz")
    out = tmp_path / "out"
    dicom_to_slices(input=tmp_path / "d", masks=tmp_path / "m", output=out, size=243, chest_wall=chest_wall)
    entries = read_datalist(out)["training"]
    assert len(entries) == 8
    for entry in entries:
        block = entry["geometry"]
        assert block["turned"] == entry.get("rotated", False)
        assert block["mirrored"] == (chest_wall == "left" and entry["laterality"] == "R")
        back = undo_mask(read_label(out / entry["label"]), entry)
        truth = masks[entry["laterality"], block["turned"]][entry["slice"]].T > 0
        assert back.shape == truth.shape
        assert (back != truth).sum() <= 0.03 * truth.sum()  # 240 rows of breast become 243
        assert undo_slice(read_slice(out / entry["image"]), entry).shape == truth.shape


def test_images_keep_their_geometry_too(tmp_path: Path) -> None:
    image, _ = breasts.breast((200, 300))
    for folder, pixels in (("i", image / 5), ("m", 255 * (image > 900))):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels[::-1].T.astype(np.uint8)).save(tmp_path / folder / "a.png")
    images_to_slices(images=tmp_path / "i", masks=tmp_path / "m", output=tmp_path / "out", size=240)
    (entry,) = read_datalist(tmp_path / "out")["training"]
    assert entry["geometry"]["mirrored"]
    assert not entry["geometry"]["turned"]
    back = undo_mask(read_label(tmp_path / "out" / entry["label"]), entry)
    np.testing.assert_array_equal(back, image[::-1] > 900)  # 240 rows of breast: nothing was resampled
