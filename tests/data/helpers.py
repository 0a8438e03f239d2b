"""What the tests of the preparation commands look at."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)

from pig_monai.data.dicom import Header, VolumeFiles
from pig_monai.data.volume import Volume


def header(**changes: Any) -> Header:
    """A volume's header, with ``changes``."""
    plain: dict[str, Any] = {
        "patient": "p",
        "instance": "",
        "study": "",
        "studies": (),
        "series": "",
        "frames": 1,
        "view": None,
        "laterality": None,
        "origin": "real",
        "sop_class": "",
        "plane": None,
        "unsupported": None,
    }
    return Header(**(plain | changes))


def volumes(headers: Mapping[PurePosixPath, Header]) -> dict[PurePosixPath, VolumeFiles]:
    """Volumes of one file each."""
    return {
        file: VolumeFiles(file, (file,), header, header.instance, (header.instance,))
        for file, header in headers.items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def report(dataset: Path) -> dict[str, Any]:
    return json.loads((dataset / "report.json").read_text())


def rows(dataset: Path) -> list[tuple[str | None, str, str]]:
    return [(row["view"], row["reason"], row["remedy"]) for row in report(dataset)["skipped"]]


def assert_nobody_is_named(dataset: Path, names: Sequence[str]) -> None:
    """No name, file name or byte of a dataset, unpacked or not, holds one of ``names`` in any case."""
    files = contents(dataset)
    assert any(name.endswith(".nii.gz") for name in files)
    for name, data in files.items():
        unpacked = gzip.decompress(data) if name.endswith(".gz") else b""
        for identity in names:
            for text in (name.encode(), data, unpacked):
                assert identity.lower().encode() not in text.lower(), (identity, name)


def assert_as_itk_reads_it(volume: Volume, by_itk: sitk.Image) -> None:
    """Whether a volume lies where ITK, whose axes are (left, posterior, superior), puts it, and its pixels."""
    expected = np.eye(4)
    expected[:3, :3] = np.reshape(by_itk.GetDirection(), (3, 3)) * by_itk.GetSpacing()
    expected[:3, 3] = by_itk.GetOrigin()
    np.testing.assert_allclose(volume.grid.affine, np.diag([-1, -1, 1, 1]) @ expected, atol=1e-6)
    frames = np.stack([volume.frame(index).T for index in range(volume.grid.size[2])])
    np.testing.assert_array_equal(frames, sitk.GetArrayFromImage(by_itk))
