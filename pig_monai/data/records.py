"""How a preparation continues: the settings of a dataset folder and a record of each finished case.

Both lie in the folder's ``.prepared/``. The same command again keeps what the records describe and does the rest:
a run that was cut off, or a folder that got more data, just continues.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pig_monai.data.cases import Case
from pig_monai.data.folder import DATALIST, PREPARED, SETTINGS
from pig_monai.data.open_case import NO_LABEL_OPTIONS
from pig_monai.data.selection import Selection
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError
from pig_monai.files import SCRATCH, read_json, remove_scratch_files, write_json
from pig_monai.locking import LOCK
from pig_monai.runs import differences

_SKIPS = f"{PREPARED}/skipped"
_SLICES = ("images", "labels")
_OWNED = (  # in the order in which they are removed: what names others goes before them
    DATALIST,
    "report.json",
    "report.html",
    f"{PREPARED}/*.json",
    f"{_SKIPS}/*.json",
    *(f"{folder}/*.nii.gz" for folder in _SLICES),
)
_SLICE = re.compile(r"[0-9a-f]{12}_[a-z]+\d*_\d{3,}\.nii\.gz")
"""What `pig_monai.data.prepare` calls a slice: what is called otherwise is not ours to remove."""

_AFRESH = "give --overwrite true to prepare the dataset afresh"

Record = dict[str, Any]
"""What a finished case left: hashes (``case``, ``volume``, ``content``), facts for the report, and ``entries``."""


@dataclass(frozen=True)
class Settings:
    """What must not change within one dataset folder.

    Args:
        command: what prepares it.
        name: what the dataset is called.
        seed: of the folds.
        selection: which slices are taken.
        labels: how masks and boxes are read, as `pig_monai.data.open_case.open_case` takes it.
        preprocessing: as `pig_monai.data.prepare_slice.prepare_slice` takes it.
        key: a hash that tells keys apart.
        upright: whether volumes are turned, see `pig_monai.data.open_case.turn_upright`; images never are.
        shard: which part of a dataset the folder holds, as in ``2/8``; None for a whole one.
    """

    command: str
    name: str
    seed: int
    selection: Selection
    labels: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    key: str
    upright: bool = False
    shard: str | None = None

    @property
    def things(self) -> str:
        """What the cases are: ``"volumes"`` or ``"images"``."""
        return "images" if "images" in self.command else "volumes"

    def to_dict(self) -> dict[str, Any]:
        """Return what the folder keeps of them."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("shard", None)}


def check_folder(dataset_dir: Path, settings: Settings, overwrite: bool) -> None:
    """Refuse a folder that holds something else, or slices that were prepared with other settings.

    Raises:
        PigError: names the folder and the settings that differ.
    """
    if _is_fresh(dataset_dir):
        return
    if not (dataset_dir / SETTINGS).is_file():
        raise PigError(f"{dataset_dir} exists and was not made by this command", "give another --output")
    if not overwrite and (read_records(dataset_dir) or read_skips(dataset_dir)):
        refuse_other_settings(
            dataset_dir,
            settings,
            "give the same settings, another --output, or --overwrite true to prepare it afresh",
        )


def _is_fresh(dataset_dir: Path) -> bool:
    """Whether a folder holds nothing, or what a run that was killed at its very beginning leaves."""
    if not dataset_dir.exists():
        return True
    records = dataset_dir / PREPARED
    return dataset_dir.is_dir() and all(
        path.name == LOCK or path.name.startswith(SCRATCH) or (path == records and _holds_scratch_only(records))
        for path in dataset_dir.iterdir()
    )


def _holds_scratch_only(folder: Path) -> bool:
    return folder.is_dir() and all(path.name.startswith(SCRATCH) for path in folder.iterdir())


def refuse_other_settings(folder: Path, settings: Settings, remedy: str) -> None:
    """Refuse a folder that was prepared with other settings.

    Raises:
        PigError: names the folder and all settings that differ.
    """
    former = _as_written_today(read_json(folder / SETTINGS, _AFRESH), settings)
    different = [
        f"{key} is {there} there and {here} here" for key, there, here in differences(former, settings.to_dict())
    ]
    if different:
        raise PigError(f"{folder} was prepared with other settings: {', '.join(different)}", remedy)


def _as_written_today(former: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return former settings with what folders of version 0.1.0 do not say.

    They knew one way to select, and turned nothing but what had boxes.
    """
    former.setdefault("upright", False)
    if "min_lesion_area" in former:
        former["selection"] = asdict(Selection(min_lesion_area=former.pop("min_lesion_area")))
        former["labels"] = dict(NO_LABEL_OPTIONS) if settings.labels else {}
    return former


@contextmanager
def writing(dataset_dir: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a `PigError`."""
    try:
        yield
    except OSError as cause:
        raise PigError(
            f"{dataset_dir} cannot be written ({cause.strerror or cause})", "make room, then run the command again"
        ) from cause


def claim_folder(dataset_dir: Path, settings: Settings, overwrite: bool) -> frozenset[str]:
    """Check a folder, note the settings, and remove what a killed run left half-written, or the former dataset.

    Returns:
        the stems of the cases that were under way when an earlier run was killed, or died of one of them; their
        marks stay until they have been tried again.
    """
    check_folder(dataset_dir, settings, overwrite)
    under_way = frozenset(path.stem for path in (dataset_dir / PREPARED).glob("*.trying"))
    for pattern in (*_OWNED, f"{PREPARED}/*.trying") if overwrite else ():
        for path in dataset_dir.glob(pattern):
            if path != dataset_dir / SETTINGS:  # by which the folder is known as ours
                path.unlink()
    _remove_scratch(dataset_dir)
    write_json(dataset_dir / SETTINGS, settings.to_dict())
    return under_way


def _remove_scratch(dataset_dir: Path) -> None:
    remove_scratch_files(dataset_dir / folder for folder in ("", *_SLICES, PREPARED, _SKIPS))


def remove_unrecorded(dataset_dir: Path, records: Iterable[Record]) -> None:
    """Remove slices that no record names, and whatever else processes that were killed left; users' files stay.

    Args:
        dataset_dir: the dataset folder, in which nothing is under way.
        records: all of them.
    """
    _remove_scratch(dataset_dir)
    for mark in (dataset_dir / PREPARED).glob("*.trying"):
        mark.unlink()
    named = {file for record in records for file in files_of(record)}
    for folder in _SLICES:
        for path in (dataset_dir / folder).glob("*.nii.gz"):
            if f"{folder}/{path.name}" not in named and _SLICE.fullmatch(path.name):
                path.unlink()


def files_of(record: Record) -> list[str]:
    """Return the slices and masks that a record names, relative to the dataset folder."""
    return [entry[key] for entry in record["entries"] for key in ("image", "label") if key in entry]


def read_records(dataset_dir: Path) -> dict[str, Record]:
    """Return the records of a folder's finished cases by their stems."""
    paths = [path for path in _whole(dataset_dir / PREPARED) if path != dataset_dir / SETTINGS]
    return {path.stem: read_json(path, _AFRESH) for path in paths}


def _whole(folder: Path) -> list[Path]:
    """Return a folder's JSON files without those that a process that was killed left half-written."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith(SCRATCH))


def is_done(case: Case, records: Mapping[str, Record], dataset_dir: Path) -> bool:
    """Whether a case is finished, has not changed since, and its slices exist."""
    record = records.get(case.stem)
    if record is None or record["content"] != content_hash(case):
        return False
    return all((dataset_dir / file).is_file() for file in files_of(record))


def content_hash(case: Case) -> str | None:
    """Return the hash of a case's content; None where a file cannot be read, as its row will say."""
    try:
        return case.content.hash
    except UnusableError:
        return None


def refuse_changed(cases: Sequence[Case], records: Mapping[str, Record], dataset_dir: Path) -> None:
    """Refuse cases whose source or mask is not what it was: their slices are not overwritten without being asked.

    Raises:
        PigError: names the first.
    """
    recorded = [c for c in cases if c.stem in records]
    changed = [c for c in recorded if content_hash(c) not in (None, records[c.stem]["content"])]
    if changed:
        more = f" ({len(changed)} such cases)" if len(changed) > 1 else ""
        raise PigError(
            f"{changed[0].source} or its mask changed since it was prepared into {dataset_dir}{more}",
            "give another --output, or --overwrite true to prepare all afresh",
        )


def write_record(dataset_dir: Path, stem: str, record: Record) -> None:
    """Write the record of a finished case; call it when its slices exist."""
    write_json(dataset_dir / PREPARED / f"{stem}.json", record)


def write_skip(dataset_dir: Path, case: Case, why: UnusableError) -> None:
    """Note in a shard why a case is skipped: its merge writes the report, without trying again."""
    skip = {
        "volume": case.volume,
        "content": content_hash(case),
        "reason": why.reason,
        "remedy": why.remedy,
    }
    write_json(dataset_dir / _SKIPS / f"{case.stem}.json", skip)


def forget_skip(dataset_dir: Path, stem: str) -> None:
    """Forget that a case was skipped: it could be prepared after all."""
    (dataset_dir / _SKIPS / f"{stem}.json").unlink(missing_ok=True)


def read_skips(dataset_dir: Path) -> list[Record]:
    """Return what `write_skip` noted."""
    return [read_json(path, _AFRESH) for path in _whole(dataset_dir / _SKIPS)]


@contextmanager
def trying(dataset_dir: Path, stem: str) -> Iterator[None]:
    """Mark a case as under way: should the process die of it, the next run knows which one it was."""
    mark = dataset_dir / PREPARED / f"{stem}.trying"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
