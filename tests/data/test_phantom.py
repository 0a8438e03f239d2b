"""The phantom against independent readers, and its anatomy against what was asked for."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import scipy.ndimage
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from pydicom.pixels import pixel_array

from pig_monai.data import phantom, phantom_dicom
from pig_monai.errors import PigError

SMALL = {"slices": 8, "rows": 96, "columns": 64}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def phantom_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("phantom")
    return folder, phantom_dicom.write_phantom(folder, 12, 1, **SMALL)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def volume_of(seed: int, index: int, view: str, contrast: float | None = None) -> phantom.PhantomVolume:
    return phantom.render_volume(phantom.draw_patient(seed, index, phantom.VIEWS, contrast), view, 16, 192, 128)


# The files, through other readers


@pytest.mark.parametrize("view", phantom.VIEWS)
def test_simpleitk_reads_the_encoded_array_and_grid(view: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 4096, (5, 11, 7)).astype(np.uint16)
    geometry = phantom_dicom.view_geometry(view, phantom.Grid(5, 11, 7, 2.875, 0.46875))
    dataset = phantom_dicom.build_dataset(pixels, geometry, "PHANTOM-0001", view, "test")
    phantom_dicom.write_dicom(tmp_path / "a.dcm", dataset)

    image = sitk.ReadImage(str(tmp_path / "a.dcm"))

    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), pixels)
    np.testing.assert_allclose(image.GetSpacing(), (0.46875, 0.46875, 2.875), rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), geometry.origin, atol=1e-5)
    lateral = 1 if view[0] == "l" else -1  # LPS: +x is the patient's left, −y anterior, +z superior
    toward_nipple, chest_column = lateral, 0 if view[0] == "l" else 6
    down = np.array([-lateral, 0, 0]) if view.endswith("cc") else np.array([-lateral, 0, -1]) / np.sqrt(2)
    beam = np.array([0, 0, -1]) if view.endswith("cc") else np.array([lateral, 0, -1]) / np.sqrt(2)
    expected = np.stack([toward_nipple * np.array([0, -1, 0]), down, beam], axis=1)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), expected, atol=1e-6)
    at_chest_wall = image.TransformContinuousIndexToPhysicalPoint((chest_column - 0.5 * lateral, 0, 0))
    assert at_chest_wall[1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("compression", ["j2k", "jpegls", "rle"])
def test_compressed_files_decode_to_the_encoded_array(compression: str, tmp_path: Path) -> None:
    volume = volume_of(2, 0, "rmlo")
    pixels = phantom_dicom.as_displayed("rmlo", volume.pixels)[6:9]
    geometry = phantom_dicom.view_geometry("rmlo", volume.grid)
    dataset = phantom_dicom.build_dataset(pixels, geometry, "PHANTOM-0001", "rmlo", "test")
    phantom_dicom.write_dicom(tmp_path / "a.dcm", dataset, compression)

    header = pydicom.dcmread(tmp_path / "a.dcm", stop_before_pixels=True)

    syntaxes = {"j2k": "1.2.840.10008.1.2.4.90", "jpegls": "1.2.840.10008.1.2.4.80", "rle": "1.2.840.10008.1.2.5"}
    assert header.file_meta.TransferSyntaxUID == syntaxes[compression]
    assert header.LossyImageCompression == "00"
    np.testing.assert_array_equal(pixel_array(tmp_path / "a.dcm"), pixels)
    assert (tmp_path / "a.dcm").stat().st_size < 0.8 * pixels.nbytes


def test_masks_lie_on_their_volumes_grid(phantom_set: tuple[Path, dict[str, Any]]) -> None:
    folder, record = phantom_set
    for entry in record["volumes"]:
        volume = sitk.ReadImage(str(folder / entry["dicom"]))
        mask = sitk.ReadImage(str(folder / entry["mask"]))
        assert Path(entry["mask"]).name.removesuffix(".nii.gz") == Path(entry["dicom"]).stem
        assert mask.GetSize() == volume.GetSize()
        for read in ("GetSpacing", "GetOrigin", "GetDirection"):  # NIfTI keeps single precision
            np.testing.assert_allclose(getattr(mask, read)(), getattr(volume, read)(), atol=2e-4, err_msg=read)


def test_masks_mark_the_recorded_centres_and_only_breast(phantom_set: tuple[Path, dict[str, Any]]) -> None:
    folder, record = phantom_set
    for entry in record["volumes"]:
        image = sitk.ReadImage(str(folder / entry["mask"]))
        mask, pixels = sitk.GetArrayFromImage(image), pixel_array(folder / entry["dicom"])
        labels, count = scipy.ndimage.label(mask)
        assert count == len(entry["lesions"])
        assert set(np.unique(mask)) <= {0, 1}
        assert (pixels[mask == 1] > 0).all()
        for lesion in entry["lesions"]:
            column, row, frame = image.TransformPhysicalPointToIndex(lesion["centre_mm"])
            label = labels[frame, row, column]
            assert label > 0
            slices = [part for part in labels == label if part.any()]
            assert all(scipy.ndimage.label(part, np.ones((3, 3)))[1] == 1 for part in slices)
            frames, rows, columns = (float(c) for c in scipy.ndimage.center_of_mass(labels == label))
            centroid = image.TransformContinuousIndexToPhysicalPoint((columns, rows, frames))
            np.testing.assert_allclose(centroid, lesion["centre_mm"], atol=0.3 * lesion["radius_mm"] + 1)


def test_headers_say_what_they_are(phantom_set: tuple[Path, dict[str, Any]]) -> None:
    folder, record = phantom_set
    uids = set()
    for entry in record["volumes"]:
        dataset = pydicom.dcmread(folder / entry["dicom"])
        shared = dataset.SharedFunctionalGroupsSequence[0]
        uids.add(dataset.SOPInstanceUID)
        assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.13.1.3"
        assert dataset.Manufacturer == "pig-monai phantom"
        assert dataset.ImageComments == "origin: phantom"
        assert dataset.ImageType[0] == "DERIVED"
        assert dataset.PatientID == entry["patient"]
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 12, 11)
        assert shared.FrameAnatomySequence[0].FrameLaterality == entry["view"][0].upper()
        view_code = {"cc": "399162004", "mlo": "399368009"}[entry["view"][1:]]
        assert dataset.ViewCodeSequence[0].CodeValue == view_code
        assert len(dataset.PerFrameFunctionalGroupsSequence) == dataset.NumberOfFrames == SMALL["slices"]
        positions = [
            np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            for groups in dataset.PerFrameFunctionalGroupsSequence
        ]
        measures = shared.PixelMeasuresSequence[0]
        gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        np.testing.assert_allclose(gaps, float(measures.SpacingBetweenSlices), rtol=1e-5)
        assert measures.SliceThickness == measures.SpacingBetweenSlices
        window = shared.FrameVOILUTSequence[0]
        tissue = dataset.pixel_array[dataset.pixel_array > 0]
        low = window.WindowCenter - window.WindowWidth / 2
        assert (tissue > low).mean() > 0.99
        assert (tissue < low + window.WindowWidth).mean() > 0.99
    assert len(uids) == len(record["volumes"])
    assert json.loads((folder / "phantom.json").read_text())["origin"] == "phantom"


def test_chest_wall_is_left_for_left_breasts_and_right_for_right(
    phantom_set: tuple[Path, dict[str, Any]],
) -> None:
    folder, record = phantom_set
    sides = set()
    for entry in record["volumes"]:
        pixels = pixel_array(folder / entry["dicom"])
        chest, far = (0, -1) if entry["view"][0] == "l" else (-1, 0)
        assert (pixels[..., chest] > 0).mean() > 0.5
        assert not pixels[..., far].any()
        assert (pixels == 0).mean() > 0.3
        sides.add(entry["view"][0])
    assert sides == {"l", "r"}


# The set


def test_of_twelve_patients_some_have_no_mass_and_some_two(phantom_set: tuple[Path, dict[str, Any]]) -> None:
    masses: dict[str, set[float]] = {}
    for entry in phantom_set[1]["volumes"]:
        masses.setdefault(entry["patient"], set()).update(lesion["radius_mm"] for lesion in entry["lesions"])
    counts = [len(masses[patient]) for patient in sorted(masses)]
    assert len(counts) == 12
    assert all(sorted(counts[start : start + 5]) == [0, 1, 1, 1, 2] for start in range(8))


def test_a_mass_is_the_same_in_both_views_of_its_breast(phantom_set: tuple[Path, dict[str, Any]]) -> None:
    seen: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for entry in phantom_set[1]["volumes"]:
        shapes = [(lesion["radius_mm"], lesion["margin"], lesion["contrast"]) for lesion in entry["lesions"]]
        seen.setdefault((entry["patient"], entry["view"][0]), {})[entry["view"][1:]] = shapes
    assert all(views["cc"] == views["mlo"] for views in seen.values())


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, patients, seed in (("a", 2, 5), ("b", 2, 5), ("c", 2, 6), ("d", 1, 5)):
        phantom_dicom.write_phantom(tmp_path / name, patients, seed, **SMALL, views=["lcc", "rmlo"])
    a, b, c, d = (digests(tmp_path / name) for name in "abcd")
    assert a == b
    assert a.keys() == c.keys()
    assert not set(a[name] for name in a if name.endswith(".dcm")) & set(c.values())
    volumes_of_one = {name: digest for name, digest in d.items() if name != "phantom.json"}
    assert len(volumes_of_one) == 4
    assert volumes_of_one.items() <= a.items()


def test_volumes_of_other_settings_have_other_uids(tmp_path: Path) -> None:
    for name, contrast in (("a", 0.5), ("b", 1.0)):
        phantom_dicom.write_phantom(tmp_path / name, 1, 5, **SMALL, views=["lcc"], contrast=contrast)
    first, second = (
        pydicom.dcmread(tmp_path / name / "dicom" / "PHANTOM-0001_lcc.dcm", stop_before_pixels=True)
        for name in "ab"
    )
    assert first.SOPInstanceUID != second.SOPInstanceUID


# The anatomy


@pytest.mark.parametrize("beta", [2.0, 3.0])
def test_texture_has_the_requested_power_spectrum(beta: float) -> None:
    pixel_mm, longest = 0.5, 40.0
    grid = phantom.Grid(12, 243, 192, 3.0, pixel_mm)
    fields = phantom.power_law_frames(grid, [(beta, longest)], 1.0, np.random.default_rng(0))
    power = np.mean([np.abs(np.fft.fft2(field)) ** 2 for (field,) in fields], axis=0)
    radius = np.hypot(np.fft.fftfreq(243, pixel_mm)[:, None], np.fft.fftfreq(192, pixel_mm)[None])
    edges = np.geomspace(1.2 / longest, 0.5 / pixel_mm, 12)
    shells = [(radius >= low) & (radius < high) for low, high in pairwise(edges)]
    frequency = [np.log(radius[shell]).mean() for shell in shells]
    slope = np.polyfit(frequency, [np.log(power[shell].mean()) for shell in shells], 1)[0]
    assert slope == pytest.approx(-beta, abs=0.15)
    assert power[radius < 0.9 / longest].max() < 1e-6 * power.max()
    assert power.sum() / 243**2 / 192**2 == pytest.approx(1, rel=0.3)  # Parseval: variance 1


def test_texture_fades_through_the_slices_as_a_limited_sweep_blurs() -> None:
    grid = phantom.Grid(80, 64, 64, 2.0, 1.0)
    fields = phantom.power_law_frames(grid, [(2.0, 60.0)], 1.0, np.random.default_rng(1))
    spectra = np.stack([np.fft.fft2(field) for (field,) in fields])
    for row, column in ((2, 3), (0, 8), (10, 4)):
        frequency = np.hypot(row, column) / 64
        wave = spectra[:, row, column]
        measured = np.abs(np.vdot(wave[:-1], wave[1:])) / np.vdot(wave, wave).real
        assert measured == pytest.approx(np.exp(-2.0 * 4 * frequency * np.tan(np.radians(25))), abs=0.2)


def test_a_mass_brightens_with_contrast_and_stands_out_at_one() -> None:
    contrasts = (0.0, 0.25, 0.5, 1.0)
    steps = []
    for index in range(4):  # seed 0: one, two, one and no mass
        volumes = [volume_of(0, index, view, c) for c in contrasts for view in ("lmlo", "rmlo")]
        for i in range(2):
            series = volumes[i::2]
            mask = series[0].mask.astype(bool)
            if not mask.any():
                assert (series[0].pixels == series[-1].pixels).all()
                continue
            # within a few mm of the outline, not at once outside: that is blurred
            near = scipy.ndimage.binary_dilation(mask, np.ones((1, 3, 3)), 8)
            ring = near & ~scipy.ndimage.binary_dilation(mask, np.ones((1, 3, 3)), 4)
            gaps = [float(v.pixels[mask].mean()) - float(v.pixels[ring].mean()) for v in series]
            steps.append(np.array(gaps) - gaps[0])
            assert gaps[-1] > 250
            assert all((v.mask == mask).all() for v in series)
    assert len(steps) >= 3
    for rise in steps:  # the share of tissue evened out and the brightness added both grow in proportion
        np.testing.assert_allclose(rise / rise[-1], contrasts, atol=0.03)


def test_masses_have_their_radius_and_reach_through_several_slices() -> None:
    checked = 0
    for index in range(8):
        patient = phantom.draw_patient(7, index, ("lcc", "lmlo"))
        if len(patient.lesions) != 1:
            continue
        volume = phantom.render_volume(patient, "lcc", 24, 192, 128)
        (lesion,) = patient.lesions
        areas = volume.mask.sum(axis=(1, 2)) * volume.grid.pixel_mm**2
        assert np.sqrt(areas.max() / np.pi) == pytest.approx(lesion.radius_mm, rel=0.2)
        assert (areas > 0).sum() * volume.grid.frame_mm > lesion.radius_mm
        breast = (volume.pixels > 0).sum(axis=(1, 2)) * volume.grid.pixel_mm**2
        assert 0.004 < (areas / breast).max() < 0.09
        checked += 1
    assert checked >= 3


def test_lobulated_and_spiculated_outlines_are_less_compact_than_round_ones() -> None:
    compactness = {}
    for margin in phantom.MARGINS:
        mass = phantom.Lesion("l", 45.0, 0.0, 0.0, 12.0, margin, 1.0)
        bare = phantom.draw_patient(0, 3, phantom.VIEWS)
        with_mass, hidden = (
            phantom.render_volume(replace(bare, lesions=(lesion,)), "lcc", 9, 384, 256).pixels[4].astype(float)
            for lesion in (mass, replace(mass, contrast=0.0))
        )
        body = with_mass - hidden > 200
        boundary = body & ~scipy.ndimage.binary_erosion(body)
        compactness[margin] = 4 * np.pi * body.sum() / boundary.sum() ** 2
    assert compactness["round"] > 1.15 * compactness["lobulated"] > 1.15 * compactness["spiculated"]


def test_dense_patients_have_more_bright_tissue() -> None:
    shares = []
    for density in (0.12, 0.72):
        patient = replace(phantom.draw_patient(0, 3, ("lcc",)), density=density, lesions=())
        pixels = phantom.render_volume(patient, "lcc", 8, 192, 128).pixels
        halfway = (phantom.FAT + phantom.FIBROGLANDULAR) / 2
        shares.append((pixels > halfway).sum() / (pixels > 0).sum())
    assert shares[0] < 0.3 < 0.5 < shares[1]


# The command


def test_a_folder_that_is_not_empty_is_refused_and_foreign_files_stay(tmp_path: Path) -> None:
    settings = {"slices": 4, "rows": 48, "columns": 32}
    phantom_dicom.write_phantom(tmp_path, 2, 0, **settings, views=["lcc"])
    (tmp_path / "dicom" / "foreign.dcm").write_bytes(b"keep me")
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(PigError, match=str(tmp_path)):
        phantom_dicom.write_phantom(tmp_path, 1, 0, **settings)

    phantom_dicom.write_phantom(tmp_path, 1, 0, **settings, views=["rmlo"], overwrite=True)

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    made = {"dicom/PHANTOM-0001_rmlo.dcm", "masks/PHANTOM-0001_rmlo.nii.gz", "phantom.json"}
    assert left == made | {"dicom/foreign.dcm", "notes.txt"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"patients": 0}, "patients is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"slices": 2.5}, "slices is 2.5"),
        ({"contrast": "dim"}, "contrast is 'dim'"),
        ({"contrast": float("nan")}, "contrast is nan"),
        ({"compression": "zip"}, "compression is 'zip'"),
        ({"views": ["lcc", "lml"]}, "views is 'lcc,lml'"),
        ({"views": []}, "views is ''"),
    ],
)
def test_wrong_settings_are_named_and_leave_nothing(wrong: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(PigError, match=named):
        phantom_dicom.write_phantom(tmp_path / "new", **{"patients": 1, "seed": 0, **wrong})
    assert not (tmp_path / "new").exists()


def test_the_command_writes_what_the_function_writes(tmp_path: Path) -> None:
    command = [sys.executable, "data_prep/make_phantom.py", "--output", str(tmp_path / "a")]
    options = "--patients 1 --seed 4 --slices 4 --rows 48 --columns 32 --views lcc,rmlo --compression rle"
    done = subprocess.run([*command, *options.split()], cwd=ROOT, capture_output=True, text=True, check=True)
    again = subprocess.run([*command, *options.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    phantom_dicom.write_phantom(
        tmp_path / "b", 1, 4, slices=4, rows=48, columns=32, views=["rmlo", "lcc"], compression="rle"
    )
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert "2 volumes of 1 patients" in done.stdout
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'a'} is not empty; ")
