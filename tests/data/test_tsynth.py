"""T-SYNTH's layout, on a constructed miniature: its files as the VICTRE pipeline writes them."""

from __future__ import annotations

import builtins
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.data.tsynth import TISSUES, open_tsynth
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError
from tests.data.dbt_objects import COLUMNS, ROWS, lesion, pixels
from tests.data.helpers import assert_nobody_is_named, report

h5py = pytest.importorskip("h5py", reason="h5py, which reads T-SYNTH's masks, is not installed")

SPACING = (0.25, 0.5, 1.0)  # mm between rows, columns and slices
WHOLE = {"crop": False, "chest_wall": "keep", "size": ROWS, "low": 0, "high": 100}


def stored(upright: np.ndarray) -> np.ndarray:
    """The order of the raw file: T-SYNTH's own reader turns it by 90° to have (slices, rows, columns) upright."""
    raw = np.rot90(upright, k=1, axes=(-1, -2))
    np.testing.assert_array_equal(np.rot90(raw, k=-1, axes=(-1, -2)), upright)  # what that reader does
    return raw


def example(folder: Path, number: int, *, density: str = "fatty", size: str = "5.0", **changes: Any) -> Path:
    """Write an example; ``changes``: ``volume``, ``labels`` (None: no file), ``loc`` and fields of the header."""
    top = folder / f"device_data_VICTREPhantoms_spic_1.1/{density}/2/{size}/SIM"
    own = top / f"D2_{size}_{density}.{number}/{number}"
    own.mkdir(parents=True)
    volume = changes.pop("volume", pixels().astype(float))
    raw = np.ascontiguousarray(stored(volume), dtype="<f8")
    labels = changes.pop("labels", np.where(lesion([1, 2]) > 0, 200, np.where(volume > 0, 29, 0)).astype(np.uint8))
    if changes.pop("loc", True):
        (own / f"reconstruction{number}.loc").write_text("25 11 1\n")
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": " ".join(map(str, SPACING)),
        "DimSize": " ".join(map(str, raw.shape[::-1])),
        "ElementType": "MET_DOUBLE",
        "ElementDataFile": f"reconstruction{number}.raw",
    } | changes
    (own / f"reconstruction{number}.mhd").write_text("".join(f"{k} = {v}\n" for k, v in fields.items()))
    (own / f"reconstruction{number}.raw").write_bytes(raw.tobytes())
    if labels is not None:
        with h5py.File(own / f"reconstruction_mask{number}.h5", "w") as file:
            file.create_dataset("dbt", data=stored(labels), compression="gzip")
    for name in ("projection_DM", "projection"):  # what else its folders hold
        (own / f"{name}{number}.raw").write_bytes(b"\0" * 16)
        (own / f"{name}{number}.mhd").write_text("ObjectType = Image\n")
    return own


def prepare(folder: Path, output: Path, **options: object) -> list[dict]:
    dicom_to_slices(input=folder, output=output, tsynth=True, **({"size": 32} | options))
    return read_datalist(output)["training"]


def test_slices_and_lesions_come_out_as_they_went_in(tmp_path: Path) -> None:
    own = example(tmp_path / "in", 3)
    by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(own / "reconstruction3.mhd")))
    np.testing.assert_array_equal(np.rot90(by_itk, k=-1, axes=(-1, -2)), pixels())  # the miniature is what it says
    entries = prepare(tmp_path / "in", tmp_path / "out", **WHOLE)
    assert [(e["slice"], e["spacing"], e["origin"], e["view"]) for e in entries] == [
        (1, [0.5, 0.25], "phantom", None),
        (2, [0.5, 0.25], "phantom", None),
    ]
    for entry in entries:
        truth = pixels()[entry["slice"]].astype(float)
        inside = truth > 0
        low, high = truth[inside].min(), truth[inside].max()
        expected = np.where(inside, 2 * (truth - low) / (high - low) - 1, -1)
        np.testing.assert_allclose(read_slice(tmp_path / "out" / entry["image"])[:COLUMNS].T, expected, atol=2e-3)
        label = read_label(tmp_path / "out" / entry["label"])
        np.testing.assert_array_equal(label[:COLUMNS].T, lesion([1])[1] > 0)
    assert report(tmp_path / "out")["lesions"] == 1
    assert report(tmp_path / "out")["skipped"] == []


def test_one_digital_breast_is_one_patient(tmp_path: Path) -> None:
    for size in ("5.0", "7.0"):
        example(tmp_path / "in", 1, size=size)
    example(tmp_path / "in", 1, density="dense")
    example(tmp_path / "in", 11)
    entries = prepare(tmp_path / "in", tmp_path / "out")
    assert sorted(Counter(entry["patient"] for entry in entries).values()) == [2, 2, 4]
    assert len({entry["image"] for entry in entries}) == 8
    assert_nobody_is_named(tmp_path / "out", ["fatty", "dense", "VICTRE", str(tmp_path)])


def test_what_cannot_be_used_is_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    example(folder, 1)
    truncated = example(folder, 3) / "reconstruction3.raw"
    truncated.write_bytes(truncated.read_bytes()[:-9])
    longer = example(folder, 5) / "reconstruction5.raw"
    longer.write_bytes(longer.read_bytes() + b"\0")
    example(folder, 7, labels=None)
    example(folder, 9, labels=lesion([1, 2]) * np.uint8(199))
    example(folder, 11, labels=np.zeros(pixels().shape, np.uint8))
    example(folder, 13, labels=lesion([1])[:, 1:] * np.uint8(200))
    example(folder, 15, labels=lesion([1]) * 200.0)
    (example(folder, 17) / "reconstruction_mask17.h5").write_text("no HDF5")
    with h5py.File(example(folder, 19) / "reconstruction_mask19.h5", "w") as file:
        file.create_group("dbt")
    (example(folder, 21) / "reconstruction21.mhd").unlink()
    (example(folder, 23) / "reconstruction23.raw").unlink()
    example(folder, 25, ElementType="MET_FLOAT")
    example(folder, 27, DimSize="0 40 4")
    example(folder, 29, DimSize="60 40")
    example(folder, 31, ElementSpacing="0 0 1")
    (example(folder, 33) / "reconstruction33.mhd").write_bytes(b"\xff" * 99)
    example(folder, 34, labels=np.zeros(pixels().shape, np.uint8), loc=False)  # lesion-free, as every second one
    entries = prepare(folder, tmp_path / "out")
    assert len(entries) == 2
    skipped = report(tmp_path / "out")["skipped"]
    assert Counter(row["reason"] for row in skipped) == {
        "its pixel data is incomplete: 3 of 4 slices": 1,
        "its pixel data is longer than the 4 slices of its header": 1,
        "it has no mask": 1,
        "its mask holds the label 199, which T-SYNTH does not have": 1,
        "its mask has no lesion (label 200), but its .loc file says where one is": 1,
        "its mask holds 59 × 40 × 4 values (uint8), the volume 60 × 40 × 4": 1,
        "its mask holds 60 × 40 × 4 values (float64), the volume 60 × 40 × 4": 1,
        "the mask cannot be read as HDF5 with the labels under 'dbt' (OSError)": 1,
        "the mask cannot be read as HDF5 with the labels under 'dbt' (AttributeError)": 1,
        "its header (.mhd) is missing": 1,
        "its pixel data (.raw) is missing": 1,
        "its header (.mhd) is not that of a T-SYNTH reconstruction": 1,
        "its header (.mhd) claims no pixels, or no size of them": 2,
        "its header (.mhd) cannot be read (ValueError)": 1,
        "its header (.mhd) cannot be read (UnicodeDecodeError)": 1,
        "its mask is empty": 1,
    }
    assert all(row["remedy"] for row in skipped)


def test_lesion_free_and_unlabelled_volumes_are_taken_on_request(tmp_path: Path) -> None:
    example(tmp_path / "in", 1)
    example(tmp_path / "in", 2, labels=np.zeros(pixels().shape, np.uint8), loc=False)
    example(tmp_path / "in", 4, labels=None, loc=False)
    entries = prepare(tmp_path / "in", tmp_path / "out", lesion_free=1, lesion_free_distance=1, unlabeled=True)
    assert report(tmp_path / "out")["contents"] == {"lesion": 2, "lesion_free": 2, "unlabelled": 1}
    assert len({entry["patient"] for entry in entries}) == 3


def test_every_tissue_of_a_mask_is_known(tmp_path: Path) -> None:
    labels = np.zeros(pixels().shape, np.uint8)
    labels[1].flat[: len(TISSUES)] = sorted(TISSUES)
    example(tmp_path / "in", 1, labels=labels)
    (entry,) = prepare(tmp_path / "in", tmp_path / "out", min_lesion_area=0, **WHOLE)
    assert read_label(tmp_path / "out" / entry["label"]).sum() == 1


def test_a_slice_is_read_without_the_volume(tmp_path: Path) -> None:
    """A volume of a gigabyte, as T-SYNTH's are, on a disk that stores holes."""
    columns, rows, slices = 1324, 1624, 62
    (tmp_path / "reconstruction1.mhd").write_text(
        f"DimSize = {rows} {columns} {slices}\nElementSpacing = 0.085 0.085 1.0\nElementType = MET_DOUBLE\n"
    )
    last = np.arange(rows * columns, dtype="<f8").reshape(columns, rows)
    with (tmp_path / "reconstruction1.raw").open("wb") as file:
        file.seek((slices - 1) * last.nbytes)
        file.write(last.tobytes())
    volume = open_tsynth(tmp_path / "reconstruction1.mhd")
    tracemalloc.start()
    frame = volume.frame(slices - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(frame, last[:, ::-1].astype(np.float32))
    assert not volume.frame(0).any()
    assert peak < 4 * last.nbytes  # of 62 slices
    with (tmp_path / "reconstruction1.raw").open("ab") as file:
        file.truncate(5)
    with pytest.raises(UnusableError, match=f"incomplete: 0 of {slices} slices"):
        open_tsynth(tmp_path / "reconstruction1.mhd")


def test_options_that_do_not_go_together_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example(tmp_path / "in", 1)
    for name, value in (("masks", "m"), ("boxes", "b.csv"), ("file_paths", "f.csv"), ("mammograms", True)):
        with pytest.raises(PigError, match=f"both --tsynth and --{name} are given"):
            prepare(tmp_path / "in", tmp_path / "out", **{name: value})
    (tmp_path / "empty").mkdir()
    with pytest.raises(PigError, match=r"no T-SYNTH volume .* in .*empty"):
        prepare(tmp_path / "empty", tmp_path / "out")
    usual = builtins.__import__

    def without_h5py(name: str, *rest: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(PigError, match="h5py, which reads T-SYNTH's masks, is not installed; pip install h5py"):
        prepare(tmp_path / "in", tmp_path / "out")
