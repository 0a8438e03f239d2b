"""T-SYNTH, the simulated tomosynthesis volumes with voxel masks that FDA's DIDSR publishes (CC0).

Its layout, as its own reader and the VICTRE pipeline that wrote it have it: a folder
``…/<breast density>/2/<lesion size>/SIM/D2_<lesion size>_<breast density>.<N>/<N>/`` for each example, with

- ``reconstruction<N>.raw``: float64, little endian, (slices, columns, rows), rows counted from below;
- ``reconstruction<N>.mhd``: ``DimSize`` and ``ElementSpacing`` (mm) in the order (rows, columns, slices);
- ``reconstruction_mask<N>.h5``: under ``dbt`` the tissue of each voxel, 200 for a lesion, in the raw file's order;
- ``reconstruction<N>.loc``: where a lesion lies; absent where there is none.

Whatever else is in there (projections, DICOM copies) is passed over.

See Also:
    Wiedeman et al., T-SYNTH: A Knowledge-Based Dataset of Synthetic Breast Images, arXiv 2507.04038.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pig_monai.data.cases import Case, Content, Found, Skipped, list_files
from pig_monai.data.keys import CaseKey
from pig_monai.data.volume import Grid, UnusableError, Volume
from pig_monai.errors import PigError

LESION = 200
TISSUES = frozenset({0, 1, 2, 29, 33, 40, 50, 88, 95, 125, 150, LESION, 225, 250})
"""The labels of a mask: air, fat, skin, glandular, nipple, muscle, paddle, ligament, lobules, duct, artery, …"""

_AGAIN = "download it again"
_VOXEL = np.dtype("<f8")
_HEADER_BYTES = 2**16  # a header has some hundred
_FILE = re.compile(r"reconstruction(_mask)?(\d+)\.(mhd|raw|h5)")


@dataclass(frozen=True)
class _Header:
    """The (columns, rows, slices) of a volume and the (sx, sy) of a slice in mm."""

    size: tuple[int, int, int]
    spacing: tuple[float, float]


def find_tsynth(folder: Path, key: CaseKey, dataset_dir: Path, unlabeled: bool) -> Found:
    """Find the volumes, and the mask of each.

    They are simulated, so their origin is ``phantom``; ``synthetic`` is what this project's networks generate. The
    volumes of one breast density and number come from one digital breast, whatever lesion was put into it: that
    is the patient.

    Args:
        folder: searched with its subfolders.
        key: hashes the ids.
        dataset_dir: left out of the search.
        unlabeled: whether volumes without a mask are taken.

    Raises:
        PigError: ``folder`` cannot be used or holds no volume, or h5py is not installed.
    """
    _h5py()
    found = Found()
    files = {file for file in list_files(folder, "input", without=[dataset_dir]) if _FILE.fullmatch(file.name)}
    stems = sorted({file.with_name(file.name.replace("_mask", "")).with_suffix("") for file in files})
    for stem in stems:
        source = folder / stem.with_name(f"{stem.name}.mhd")
        try:
            found.cases.append(_case(folder, stem, files, key, unlabeled))
        except UnusableError as why:
            found.skipped.append(
                Skipped(key.hash("patient", _patient(source)), source, why, None, _patient(source))
            )
    if not stems:
        raise PigError(
            f"no T-SYNTH volume (reconstruction<N>.mhd) in {folder}",
            "unpack its archives and give the folder that holds them",
        )
    return found


def _case(folder: Path, stem: PurePosixPath, files: set[PurePosixPath], key: CaseKey, unlabeled: bool) -> Case:
    header, raw = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("mhd", "raw"))
    mask = stem.with_name(stem.name.replace("reconstruction", "reconstruction_mask") + ".h5")
    if not {header, raw} <= files:
        missing = "header (.mhd)" if header not in files else "pixel data (.raw)"
        raise UnusableError(f"its {missing} is missing", "download all files of the example")
    if mask not in files and not unlabeled:
        raise UnusableError("it has no mask", "download its reconstruction_mask, too, or leave it out")
    masks = (folder / mask,) if mask in files else ()
    size = str((folder / raw).stat().st_size)  # for its bytes, of which there may be a gigabyte
    patient = _patient(folder / header)
    return Case(
        kind="tsynth",
        source=folder / header,
        masks=masks,
        patient=patient,
        hash=key.hash("patient", patient),
        volume=key.hash("volume", str(header)),
        content=Content(key, (size, (folder / header, *masks))),
        origin="phantom",
    )


def _patient(header: Path) -> str:
    """Return what tells the digital breast: its density, from the name of the example's folder, and its number."""
    number = "".join(filter(str.isdigit, header.stem))
    example = re.fullmatch(rf".*_([a-z]+)\.{number}", header.absolute().parent.parent.name)
    return f"{example[1] if example else 'T-SYNTH'}.{number}"


def open_tsynth(header: Path) -> Volume:
    """Open a volume; its slices are read from the raw file one at a time.

    Args:
        header: its .mhd file.

    Raises:
        UnusableError: the header is unusable, or the raw file is not as long as it says.
    """
    head = _read_header(header)
    columns, rows, slices = head.size
    raw, size = header.with_suffix(".raw"), columns * rows * _VOXEL.itemsize
    there = raw.stat().st_size
    if there < slices * size:
        raise UnusableError(f"its pixel data is incomplete: {there // size} of {slices} slices", _AGAIN)
    if there > slices * size:
        raise UnusableError(f"its pixel data is longer than the {slices} slices of its header", _AGAIN)

    def frame(index: int) -> np.ndarray:
        try:
            stored = np.memmap(raw, _VOXEL, "r", offset=index * size, shape=(columns, rows))
        except OSError as cause:
            raise UnusableError("a slice cannot be read", _AGAIN, str(cause)) from cause
        pixels = np.ascontiguousarray(stored[:, ::-1], dtype=np.float32)
        pixels[~np.isfinite(pixels)] = np.nan
        return pixels

    return Volume(Grid(head.size), head.spacing, frame)


def _read_header(path: Path) -> _Header:
    try:
        with path.open(encoding="ascii") as stream:
            lines = [line.partition("=") for line in stream.read(_HEADER_BYTES).splitlines()]
        fields = {name.strip(): value.strip() for name, _, value in lines}
        rows, columns, slices = (int(number) for number in fields["DimSize"].split())
        sy, sx, _ = (float(number) for number in fields["ElementSpacing"].split())
    except (OSError, ValueError, KeyError) as cause:
        reason = f"its header (.mhd) cannot be read ({type(cause).__name__})"
        raise UnusableError(reason, _AGAIN, str(cause)) from cause
    if min(rows, columns, slices) < 1 or not (0 < sx < 100 and 0 < sy < 100):
        raise UnusableError("its header (.mhd) claims no pixels, or no size of them", _AGAIN)
    plain = all(fields.get(name, "False") == "False" for name in ("CompressedData", "BinaryDataByteOrderMSB"))
    if fields.get("ElementType") != "MET_DOUBLE" or not plain:
        raise UnusableError("its header (.mhd) is not that of a T-SYNTH reconstruction", "leave it out")
    return _Header((columns, rows, slices), (sx, sy))


class TsynthMask:
    """The lesion of a volume's mask; read once, since lesions are small and volumes are not.

    Args:
        path: the .h5 file.
        grid: the volume's.

    Raises:
        UnusableError: it cannot be read, has another shape or other labels, or lacks the lesion that the volume's
            .loc file speaks of.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        self.shape = grid.size[:2]
        try:
            with _h5py().File(path, "r") as file:
                self.voxels = self._read(file["dbt"], grid)
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as cause:
            reason = f"the mask cannot be read as HDF5 with the labels under 'dbt' ({type(cause).__name__})"
            raise UnusableError(reason, _AGAIN, str(cause)) from cause
        number = "".join(filter(str.isdigit, path.stem))
        if not self.voxels and (path.parent / f"reconstruction{number}.loc").exists():
            raise UnusableError(
                f"its mask has no lesion (label {LESION}), but its .loc file says where one is", _AGAIN
            )

    def _read(self, labels: Any, grid: Grid) -> dict[int, np.ndarray]:
        """Return slice → flat indices of its lesion, where there is one."""
        columns, rows, slices = grid.size
        if labels.shape != (slices, columns, rows) or labels.dtype.kind not in "iu":
            shape = " × ".join(map(str, labels.shape[::-1]))
            reason = f"its mask holds {shape} values ({labels.dtype}), the volume {rows} × {columns} × {slices}"
            raise UnusableError(reason, _AGAIN)
        voxels = {}
        for index in range(slices):
            values = labels[index]
            unknown = sorted(set(np.unique(values).tolist()) - TISSUES)
            if unknown:
                raise UnusableError(f"its mask holds the label {unknown[0]}, which T-SYNTH does not have", _AGAIN)
            lesion = np.flatnonzero(values[:, ::-1] == LESION)
            if len(lesion):
                voxels[index] = lesion.astype(np.uint32)
        return voxels

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of slice ``index``: bool (columns, rows)."""
        pixels = np.zeros(self.shape, bool)
        pixels.flat[self.voxels.get(index, np.empty(0, np.uint32))] = True
        return pixels


def _h5py() -> Any:
    """Import h5py, which nothing else needs.

    Raises:
        PigError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise PigError("h5py, which reads T-SYNTH's masks, is not installed", "pip install h5py") from None
    return h5py
