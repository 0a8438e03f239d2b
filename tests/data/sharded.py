"""A source of volumes, whole and broken ones, prepared in one run and in shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from pig_monai.data.commands import dicom_to_slices
from tests.data.broken_volumes import broken_volumes
from tests.data.dbt_objects import build, lesion, pixels, save, save_mask

COUNT = 3


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
