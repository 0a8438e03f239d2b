"""Values, padding, display windows and spacing, against pydicom's functions and the standard's formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.sequence import Sequence

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dicom import open_dicom
from pig_monai.data.folder import read_datalist, read_slice
from pig_monai.data.volume import DisplayCurve, UnusableError
from tests.data.dbt_objects import (
    COLUMNS,
    FRAMES,
    ROWS,
    SPACING,
    build,
    item,
    lesion,
    pixels,
    save,
    save_mask,
)
from tests.data.helpers import report


def shared(ds: Dataset, **groups: Dataset) -> Dataset:
    for name, group in groups.items():
        setattr(ds.SharedFunctionalGroupsSequence[0], name, Sequence([group]))
    return ds


def own(ds: Dataset, name: str, groups: list[Dataset]) -> Dataset:
    for frame, group in zip(ds.PerFrameFunctionalGroupsSequence, groups, strict=True):
        setattr(frame, name, Sequence([group]))
    return ds


def test_rescale_is_found_wherever_it_is(tmp_path: Path) -> None:
    top = build(pixels(), RescaleSlope=2, RescaleIntercept=-10)
    both = shared(
        build(pixels(), RescaleSlope=9, RescaleIntercept=9),
        PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=-10),
    )
    each = own(
        build(pixels()),
        "PixelValueTransformationSequence",
        [item(RescaleSlope=1 + frame, RescaleIntercept=-frame) for frame in range(FRAMES)],
    )
    for name, ds, slope, intercept in [("top", top, 2, -10), ("both", both, 2, -10), ("each", each, 3, -2)]:
        frame = open_dicom(save(ds, tmp_path / f"{name}.dcm")).frame(2)
        np.testing.assert_array_equal(frame.T, pixels()[2] * float(slope) + intercept, err_msg=name)


@pytest.mark.parametrize("little", [True, False])
def test_a_modality_table_is_applied_as_pydicom_does(tmp_path: Path, little: bool) -> None:
    entries = (np.arange(1500) ** 1.2).astype(np.uint16)
    table = item(LUTDescriptor=[1500, 400, 16])
    table.add_new("LUTData", "OW", entries.astype("<u2" if little else ">u2").tobytes())
    ds = build(pixels(), ModalityLUTSequence=Sequence([table]))
    if not little:
        ds.PixelData = pixels().astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    volume = open_dicom(save(ds, tmp_path / "v.dcm"))
    table.add_new("LUTData", "US", entries.tolist())
    np.testing.assert_array_equal(volume.frame(3).T, apply_modality_lut(pixels()[3], ds))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_no_number(tmp_path: Path, photometric: str) -> None:
    stored = pixels()
    stored[:, :5] = 4000
    stored[:, 5:8] = 4003
    stored[:, 8:10] = 4004
    one = build(stored, PhotometricInterpretation=photometric, PixelPaddingValue=4000)
    span = build(
        stored, PhotometricInterpretation=photometric, PixelPaddingValue=4003, PixelPaddingRangeLimit=4000
    )
    for name, ds, rows in [("one", one, 5), ("span", span, 8)]:
        frame = open_dicom(save(ds, tmp_path / f"{name}.dcm")).frame(1).T
        assert np.isnan(frame[:rows]).all(), name
        expected = 4095.0 - stored[1] if photometric == "MONOCHROME1" else stored[1]
        np.testing.assert_array_equal(frame[rows:], expected[rows:], err_msg=name)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
@pytest.mark.parametrize("vr", ["SS", "US"])
def test_signed_padding_counts_whatever_its_type(tmp_path: Path, syntax: uid.UID, vr: str) -> None:
    stored = pixels().astype(np.int16) - 900
    stored[:, :5] = -2000
    ds = build(stored, PixelRepresentation=1)
    ds.add_new("PixelPaddingValue", vr, -2000 if vr == "SS" else 63536)
    ds.file_meta.TransferSyntaxUID = syntax
    frame = open_dicom(save(ds, tmp_path / "v.dcm")).frame(0).T
    np.testing.assert_array_equal(np.isnan(frame), stored[0] == -2000)


def test_padding_is_neither_breast_nor_in_the_percentiles(tmp_path: Path) -> None:
    """White padding of any size leaves the same slice as the same object with air there."""
    air = pixels(rows=80)
    air[:, :, 30:] = 0
    padded = air.copy()
    padded[:, :, 30:] = 4095
    padded[:, 78:] = 4095
    for name, stored, more in [("air", air, {}), ("padded", padded, {"PixelPaddingValue": 4095})]:
        for intensity in ("percentile", "window"):
            ds = build(stored, WindowCenter=900, WindowWidth=1500, VOILUTFunction="LINEAR_EXACT", **more)
            save(ds, tmp_path / name / "dicom/v.dcm")
            save_mask(lesion([1], stored.shape), tmp_path / name / "masks/v.nii.gz")
            folder = tmp_path / name
            dicom_to_slices(
                input=folder / "dicom",
                masks=folder / "masks",
                output=folder / intensity,
                intensity=intensity,
                crop=intensity == "percentile",
                size=64,
            )
    for intensity in ("percentile", "window"):
        one, other = (
            read_slice(next((tmp_path / name / intensity / "images").iterdir())) for name in ("air", "padded")
        )
        np.testing.assert_array_equal(one, other)
        assert (one == -1).any()


def test_a_frame_of_padding_is_blank(tmp_path: Path) -> None:
    stored = pixels()
    stored[1] = 7
    save(build(stored, PixelPaddingValue=7), tmp_path / "dicom/v.dcm")
    save_mask(lesion([1, 2]), tmp_path / "masks/v.nii.gz")
    with pytest.raises(Exception, match="no slice could be prepared"):
        dicom_to_slices(input=tmp_path / "dicom", masks=tmp_path / "masks", output=tmp_path / "out", size=32)
    assert report(tmp_path / "out")["skipped"][0]["reason"] == "frame 1 is blank"


def displayed(path: Path, frame: int) -> np.ndarray:
    """Frame ``frame`` as its window shows it: (rows, columns) in [0, 1], in float64."""
    volume = open_dicom(path)
    window, values = volume.window(frame), volume.frame(frame).T
    assert window is not None
    if isinstance(window, DisplayCurve):
        return window.brightness(values)
    low, high = window
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_windows_are_what_pydicom_shows(tmp_path: Path, function: str, photometric: str, rescaled: bool) -> None:
    ds = build(pixels(), PhotometricInterpretation=photometric, VOILUTFunction=function)
    ds.WindowCenter, ds.WindowWidth = (1700, 900) if rescaled else (900, 450)
    if rescaled:
        ds.RescaleSlope, ds.RescaleIntercept = 2, -100
    path = save(ds, tmp_path / "v.dcm")
    values = apply_modality_lut(pixels()[2], ds).astype(np.float64)
    shown = apply_windowing(values, ds)
    top, bottom = (2 * 4095 - 100, -100) if rescaled else (4095, 0)  # what pydicom maps the window to
    expected = (shown - bottom) / (top - bottom)
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    np.testing.assert_allclose(displayed(path, 2), expected, atol=3e-4 if function == "LINEAR" else 1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tables_are_what_pydicom_shows(tmp_path: Path, bits: int, photometric: str) -> None:
    entries = (np.sqrt(np.arange(900) / 899) * (2**bits - 1)).astype(np.uint16)
    table = item(LUTDescriptor=[900, 600, bits], LUTData=entries.tolist())
    table["LUTData"].VR = "US"
    ds = build(pixels(), PhotometricInterpretation=photometric, WindowCenter=1, WindowWidth=2)
    ds.VOILUTSequence = Sequence([table, table])
    path = save(ds, tmp_path / "v.dcm")
    expected = entries[np.clip(pixels()[2].astype(int) - 600, 0, 899)] / (2**bits - 1)  # PS3.3 C.11.2.1.1
    if bits > 8:  # of eight bits pydicom expects bytes
        np.testing.assert_allclose(apply_voi(pixels()[2], ds) / (2**bits - 1), expected)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(displayed(path, 2), expected, atol=1e-6)
    assert open_dicom(path).window_remarks() == ("the first of 2 display tables is used",)


def test_windows_are_found_in_every_group(tmp_path: Path) -> None:
    entries = np.arange(256, dtype=np.uint16)
    table = item(LUTDescriptor=[256, 500, 8], LUTData=entries.tolist())
    table["LUTData"].VR = "US"
    curves = {
        "shared sigmoid": shared(
            build(pixels(), WindowCenter=1, WindowWidth=2),
            FrameVOILUTSequence=item(WindowCenter=800, WindowWidth=400, VOILUTFunction="SIGMOID"),
        ),
        "own sigmoids": own(
            build(pixels()),
            "FrameVOILUTSequence",
            [
                item(WindowCenter=[798 + f, 5], WindowWidth=[400, 5], VOILUTFunction="SIGMOID")
                for f in range(FRAMES)
            ],
        ),
        "top sigmoid": build(pixels(), WindowCenter=800, WindowWidth=400, VOILUTFunction="SIGMOID"),
    }
    for name, ds in curves.items():
        shown = displayed(save(ds, tmp_path / f"{name}.dcm"), 2)
        expected = 1 / (1 + np.exp(-4 * (pixels()[2].astype(np.float64) - 800) / 400))  # PS3.3 C.11.2.1.3.1
        np.testing.assert_allclose(shown, expected, atol=1e-6, err_msg=name)
    assert open_dicom(tmp_path / "own sigmoids.dcm").window_remarks() == (
        "the first of 2 display windows is used",
    )
    ds = shared(build(pixels()), FrameVOILUTSequence=item(VOILUTSequence=Sequence([table])))
    shown = displayed(save(ds, tmp_path / "t.dcm"), 2)
    np.testing.assert_allclose(shown, np.clip(pixels()[2].astype(float) - 500, 0, 255) / 255, atol=1e-6)


def test_a_curve_reaches_the_slices_and_the_choice_the_report(tmp_path: Path) -> None:
    ds = build(pixels(), WindowCenter=[900, 1], WindowWidth=[450, 2], VOILUTFunction="SIGMOID")
    save(ds, tmp_path / "dicom/v.dcm")
    save_mask(lesion([1]), tmp_path / "masks/v.nii.gz")
    options = {"input": tmp_path / "dicom", "masks": tmp_path / "masks", "size": ROWS, "crop": False}
    dicom_to_slices(**options, output=tmp_path / "out", intensity="window")
    (entry,) = read_datalist(tmp_path / "out")["training"]
    expected = 2 / (1 + np.exp(-4 * (pixels()[1].astype(np.float64) - 900) / 450)) - 1
    np.testing.assert_allclose(read_slice(tmp_path / "out" / entry["image"])[:COLUMNS].T, expected, atol=3e-5)
    assert report(tmp_path / "out")["warnings"] == ["in 1 cases the first of 2 display windows is used"]
    dicom_to_slices(**options, output=tmp_path / "percentile")
    assert report(tmp_path / "percentile")["warnings"] == []


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"WindowCenter": 5, "WindowWidth": 1}, "its display window has no width"),
        ({"WindowCenter": 5}, "its display window has no width"),
        (
            {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "ODD"},
            "its display window is of an unknown kind",
        ),
    ],
)
def test_broken_windows_are_refused_only_where_they_are_used(tmp_path: Path, broken: dict, reason: str) -> None:
    volume = open_dicom(save(build(pixels(), **broken), tmp_path / "v.dcm"))
    np.testing.assert_array_equal(volume.frame(0).T, pixels()[0])
    with pytest.raises(UnusableError, match=reason):
        volume.window(0)


AT_DETECTOR = "the spacing is Imager Pixel Spacing, that at the detector: no magnification is given"
MAGNIFIED = "the spacing is Imager Pixel Spacing divided by the magnification factor"


@pytest.mark.parametrize(
    ("measures", "top", "expected", "remarks"),
    [
        ([0.25, 0.5], {}, SPACING[:2], ()),
        ([0, 0], {"PixelSpacing": [0.25, 0.5]}, SPACING[:2], ()),
        ([0, 0], {"ImagerPixelSpacing": [0.25, 0.5]}, (0.5, 0.25), (AT_DETECTOR,)),
        (
            [0, 0],
            {"ImagerPixelSpacing": [0.3, 0.6], "EstimatedRadiographicMagnificationFactor": 1.2},
            (0.5, 0.25),
            (MAGNIFIED,),
        ),
        (None, {"ImagerPixelSpacing": [0.1, 0.1]}, (0.1, 0.1), (AT_DETECTOR,)),
        (None, {"PixelSpacing": [-0.1, 0.1], "ImagerPixelSpacing": [0, 0]}, None, ()),
        (None, {}, None, ()),
    ],
)
def test_spacing_is_recovered(
    tmp_path: Path, measures: list | None, top: dict, expected: tuple | None, remarks: tuple
) -> None:
    order = [2, 0, 3, 1]
    ds = build(pixels()[order], order=order, **top)
    if measures is None:
        del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    else:
        ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = measures
    volume = open_dicom(save(ds, tmp_path / "v.dcm"))
    assert volume.spacing == (None if expected is None else pytest.approx(expected))
    assert volume.remarks == remarks
    assert (volume.grid.affine is None) == (expected is None)
    np.testing.assert_array_equal(volume.frame(1).T, pixels()[1])  # positions sort frames without a spacing, too


def test_a_leaning_stack_keeps_its_corners(tmp_path: Path) -> None:
    """Each frame lies a little to the side of the one below, as some reconstructions have it."""
    ds = build(pixels())
    for frame, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.PlanePositionSequence[0].ImagePositionPatient = [1 + 0.2 * frame, 2 - 0.1 * frame, 3 + 1.5 * frame]
    affine = open_dicom(save(ds, tmp_path / "v.dcm")).grid.affine
    assert affine is not None
    for frame in range(FRAMES):
        corner = [-(1 + 0.2 * frame), -(2 - 0.1 * frame), 3 + 1.5 * frame]
        np.testing.assert_allclose((affine @ [0, 0, frame, 1])[:3], corner, atol=1e-9)


@pytest.mark.parametrize(
    ("heights", "reason"),
    [
        ([0, 1, 2, 4], "its frames lie unevenly, 1 to 2 mm apart: some may be missing"),
        ([0, 1, 1, 2], "1 of its frames lie where another one lies"),
    ],
)
def test_gaps_and_doubles_are_refused(tmp_path: Path, heights: list, reason: str) -> None:
    ds = build(pixels())
    for groups, height in zip(ds.PerFrameFunctionalGroupsSequence, heights, strict=True):
        groups.PlanePositionSequence[0].ImagePositionPatient = [0, 0, height]
    with pytest.raises(UnusableError, match=reason):
        open_dicom(save(ds, tmp_path / "v.dcm"))


def test_rounded_positions_are_even_and_one_place_for_all_is_none(tmp_path: Path) -> None:
    ds = build(pixels())
    for frame, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.PlanePositionSequence[0].ImagePositionPatient = [0, 0, round(frame * math.pi / 3, 2)]
    assert open_dicom(save(ds, tmp_path / "rounded.dcm")).grid.affine is not None
    for groups in ds.PerFrameFunctionalGroupsSequence:
        groups.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
    volume = open_dicom(save(ds, tmp_path / "same.dcm"))
    assert volume.grid.affine is None
    np.testing.assert_array_equal(volume.frame(2).T, pixels()[2])
