"""What becomes of one case: the slices to take are prepared and written, then its record.

The slices of a case may be prepared in several parts, each by a process of its own; `unite` makes one record of
them, which does not depend on how many there were.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pig_monai.data.cases import Case
from pig_monai.data.folder import Entry, write_label, write_slice
from pig_monai.data.open_case import OpenCase, open_case, turn_upright
from pig_monai.data.prepare_slice import RawSlice, prepare_slice
from pig_monai.data.records import Record, Settings, files_of, trying, write_record
from pig_monai.data.selection import (
    Selection,
    Survey,
    lesion_free_slices,
    lesion_slices,
    survey,
    unlabelled_slices,
)
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError, debugging

Wanted = tuple[int, str]
"""A frame, and what it is taken as: ``"lesion"``, ``"lesion_free"`` or ``"unlabelled"``."""


@dataclass(frozen=True)
class Part:
    """A part of a case's slices.

    Args:
        number: from 0; the first is never the smallest.
        of: so many parts.
    """

    number: int = 0
    of: int = 1

    def take(self, wanted: Sequence[Wanted]) -> Sequence[Wanted]:
        """Return this part of what is wanted: neighbours."""
        size = -(-len(wanted) // self.of)
        return wanted[self.number * size : (self.number + 1) * size]


@dataclass(frozen=True)
class PreparedPart:
    """What became of a part of a case.

    Args:
        record: the case's, with the entries of this part.
        if_empty: why the case is skipped should no part have an entry.
    """

    record: Record
    if_empty: UnusableError


def prepare_case(case: Case, settings: Settings, dataset_dir: Path) -> Record | UnusableError:
    """Prepare and write the slices of one case, then its record.

    Returns:
        the record, or why the case is skipped; then none of its files is left.

    Raises:
        PigError: the disk is full.
        OSError: the folder cannot be written.
    """
    return unite(case, dataset_dir, [prepare_part(case, settings, dataset_dir, Part())])


def prepare_part(case: Case, settings: Settings, dataset_dir: Path, part: Part) -> PreparedPart | UnusableError:
    """Prepare and write a part of the slices of one case.

    Returns:
        what `unite` needs, or why the case is skipped; then none of this part's files is left.

    Raises:
        PigError: the disk is full.
        OSError: the folder cannot be written.
    """
    written: list[Path] = []
    with trying(dataset_dir, case.stem):
        try:
            return _prepare_slices(case, settings, dataset_dir, part, written)
        except PigError:
            raise
        except Exception as cause:
            if isinstance(cause, OSError) and _is_of(dataset_dir, cause):
                raise
            _remove(written)
            return _why(cause)


def unite(case: Case, dataset_dir: Path, parts: Sequence[PreparedPart | UnusableError]) -> Record | UnusableError:
    """Write the record of a case of which all parts have ended.

    Args:
        case: the case.
        dataset_dir: where its slices are.
        parts: in their order.

    Returns:
        the record, or why the case is skipped; then none of its files is left.

    Raises:
        OSError: the folder cannot be written.
    """
    prepared = [part for part in parts if isinstance(part, PreparedPart)]
    failed = [part for part in parts if isinstance(part, UnusableError)]
    if failed:  # the first is what would have ended the case in one part
        _remove(dataset_dir / file for part in prepared for file in files_of(part.record))
        return failed[0]
    filled = [part.record for part in prepared if part.record["entries"]]
    if not filled:
        return prepared[0].if_empty
    sides = {side for record in filled for side in record["chest_wall"]}
    entries = [entry for record in filled for entry in record["entries"]]
    record = filled[0] | {"chest_wall": sorted(sides), "entries": entries}
    write_record(dataset_dir, case.stem, record)
    return record


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_of(dataset_dir: Path, cause: OSError) -> bool:
    """Whether an error is about a file of the dataset; others are about a source."""
    name = cause.filename
    return isinstance(name, str | os.PathLike) and Path(name).absolute().is_relative_to(dataset_dir.absolute())


def _why(cause: Exception) -> UnusableError:
    """Return why a case is skipped; what nobody foresaw ends no run either."""
    if isinstance(cause, UnusableError):
        return cause
    if isinstance(cause, OSError):
        reason = f"the file cannot be read ({type(cause).__name__})"
        return UnusableError(reason, "check the disk or share that it lies on", str(cause))
    if isinstance(cause, MemoryError):
        return UnusableError("it needs more memory than there is", "prepare it on a machine with more", str(cause))
    if debugging():
        raise cause
    return UnusableError(
        f"an unexpected {type(cause).__name__}", "report it; PIG_DEBUG=1 shows where it comes from", str(cause)
    )


def _prepare_slices(
    case: Case, settings: Settings, dataset_dir: Path, part: Part, written: list[Path]
) -> PreparedPart:
    fingerprint = case.content.hash  # before the masks are read: should one change meanwhile, the record says so
    opened = open_case(case, settings.labels)
    wanted, found = _slices_to_take(opened, settings.selection)
    least = settings.selection.min_lesion_area
    largest = None if found is None else max(found.areas)
    # images stay as they are: public sets are often mirrored to one side, whatever breast they show
    if wanted and case.kind == "dicom":
        opened = turn_upright(opened, case.laterality, [index for index, _ in wanted], settings.upright)
    volume = opened.volume
    entries: list[Entry] = []
    sides = set()
    for index, content in part.take(wanted):
        raw = _raw_slice(opened, index, settings)
        if raw is None and content == "lesion":
            raise UnusableError(f"frame {index} is blank", "check the export")
        prepared = prepare_slice(raw, settings.preprocessing) if raw else None
        if prepared is None or (content == "lesion" and prepared.label is not None and not prepared.label.any()):
            continue  # blank, or the crop to the breast removed the lesion
        spacing = prepared.geometry.spacing(volume.spacing) if volume.spacing else None
        entry = _entry(case, index, spacing, _label_keys(case, index, content, opened))
        if opened.rotated:
            entry["rotated"] = True
        entry["geometry"] = prepared.geometry.to_entry()
        written += [dataset_dir / entry[key] for key in ("image", "label") if key in entry]
        write_slice(dataset_dir / entry["image"], prepared.image, spacing)
        if prepared.label is not None:
            write_label(dataset_dir / entry["label"], prepared.label, spacing)
        entries.append(entry)
        sides.add(prepared.chest_wall)
    windowed = bool(entries) and settings.preprocessing["intensity"]["kind"] == "window"
    record: Record = {
        "case": case.hash,
        "volume": case.volume,
        "content": fingerprint,
        "lesion_area": None if largest is None else round(largest, 6),
        "lesions": None if found is None else [round(area, 6) for area in found.sizes(least)],
        "chest_wall": sorted(sides - {None}),
        "laterality": case.laterality,
        "geometry": volume.grid.affine is not None,
        "rotated": opened.rotated,
        "remarks": [*volume.remarks, *opened.remarks, *(volume.window_remarks() if windowed else ())],
        "entries": entries,
    }
    return PreparedPart(record, _nothing_to_take(largest, least, "mm²" if volume.spacing else "pixels"))


def _slices_to_take(opened: OpenCase, selection: Selection) -> tuple[list[Wanted], Survey | None]:
    """Return what to take, and what the mask holds: None where nobody labelled the volume."""
    volume = opened.volume
    frames = volume.grid.size[2]
    if opened.masks is None:
        return [(index, "unlabelled") for index in unlabelled_slices(frames)], None
    found = survey(opened.masks, frames, volume.spacing or (1.0, 1.0))
    with_lesion = [(index, "lesion") for index in lesion_slices(found, selection, opened.centres)]
    without = [(index, "lesion_free") for index in lesion_free_slices(found, selection, opened.also_lesion)]
    return sorted(with_lesion + without), found


def _nothing_to_take(largest: float | None, least: float, unit: str) -> UnusableError:
    if largest is None:
        return UnusableError("its slices are blank", "check the export")
    if largest == 0:
        return UnusableError("its mask is empty", "check the mask; only slices with a lesion are taken")
    if largest < least:
        reason = f"no slice holds {least:g} {unit} of mask, at most {largest:.3g}"
        return UnusableError(reason, "check the mask, or lower --min_lesion_area")
    return UnusableError("its mask lies outside the breast", "check the mask, or give --crop false")


def _raw_slice(opened: OpenCase, index: int, settings: Settings) -> RawSlice | None:
    """Return frame ``index`` and its mask; None where it is blank."""
    frame = opened.volume.frame(index)
    if _is_blank(frame[::16, ::16]) and _is_blank(frame):  # few frames need the second, longer look
        return None
    mask = opened.masks.mask(index) if opened.masks else None
    window = None
    if settings.preprocessing["intensity"]["kind"] == "window":
        window = opened.volume.window(index)
        if window is None:
            raise UnusableError(f"frame {index} has no display window", "use --intensity percentile")
    return RawSlice(frame, mask, window, opened.chest_wall, opened.rotated)


def _is_blank(frame: np.ndarray) -> bool:
    """Whether a frame has one value everywhere; NaN, all padding, counts as one."""
    return not np.fmax.reduce(frame, axis=None) > np.fmin.reduce(frame, axis=None)


def _file_name(case: Case, index: int) -> str:
    return f"{case.stem}_{index:03d}.nii.gz"


def _label_keys(case: Case, index: int, content: str, opened: OpenCase) -> Entry:
    """Return what an entry says of its label; what goes without saying (a contour of a lesion) is left out."""
    if content == "unlabelled":
        return {}
    entry: Entry = {"label": f"labels/{_file_name(case, index)}"}
    if content == "lesion_free":
        entry["lesion"] = False
    if opened.label_kind != "contour":
        entry["label_kind"] = opened.label_kind
    return entry


def _entry(case: Case, index: int, spacing: list[float] | None, label: Entry) -> Entry:
    return {
        "image": f"images/{_file_name(case, index)}",
        **label,
        "patient": case.hash,
        "view": case.view,
        "laterality": case.laterality,
        "slice": index,
        "fold": -1,
        "spacing": spacing,
        "origin": case.origin,
    }
