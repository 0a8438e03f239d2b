"""How a preparation continues: the settings of a dataset folder and a record of each finished case.

Both lie in the folder's ``.prepared/``. The same command again keeps what the records describe and does the rest:
a run that was cut off, or a folder that got more data, just continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pig_monai.data.cases import Case
from pig_monai.data.folder import DATALIST
from pig_monai.data.open_case import NO_LABEL_OPTIONS
from pig_monai.data.selection import Selection
from pig_monai.errors import PigError
from pig_monai.files import read_json, write_json
from pig_monai.runs import differences

_RECORDS = ".prepared"
_SETTINGS = "settings.json"
_OWNED = (f"{_RECORDS}/*.json", "images/*.nii.gz", "labels/*.nii.gz", DATALIST, "report.json", "report.html")
_HALF_WRITTEN = tuple(f"{folder}.writing-*" for folder in ("", "images/", "labels/", f"{_RECORDS}/"))
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
        preprocessing: as `pig_monai.data.transforms.prepare_slices` takes it.
        key: a hash that tells keys apart.
        upright: whether volumes are turned, see `pig_monai.data.open_case.turn_upright`; images never are.
    """

    command: str
    name: str
    seed: int
    selection: Selection
    labels: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    key: str
    upright: bool = False


def check_folder(dataset_dir: Path, settings: Settings, overwrite: bool) -> None:
    """Refuse a folder that holds something else, or slices that were prepared with other settings.

    Raises:
        PigError: names the folder and the settings that differ.
    """
    if not dataset_dir.exists() or (dataset_dir.is_dir() and not any(dataset_dir.iterdir())):
        return
    path = dataset_dir / _RECORDS / _SETTINGS
    if not path.is_file():
        raise PigError(f"{dataset_dir} exists and was not made by this command", "give another --output")
    former = _as_written_today(read_json(path, _AFRESH), settings)
    different = [
        f"{key} is {there} there and {here} here" for key, there, here in differences(former, asdict(settings))
    ]
    if different and not overwrite and read_records(dataset_dir):
        raise PigError(
            f"{dataset_dir} was prepared with other settings: {', '.join(different)}",
            "give the same settings, another --output, or --overwrite true to prepare it afresh",
        )


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


def claim_folder(dataset_dir: Path, settings: Settings, overwrite: bool) -> None:
    """Check a folder, note the settings, and remove what a killed run left half-written, or the former dataset."""
    check_folder(dataset_dir, settings, overwrite)
    for pattern in _HALF_WRITTEN + (_OWNED if overwrite else ()):
        for path in dataset_dir.glob(pattern):
            path.unlink()
    write_json(dataset_dir / _RECORDS / _SETTINGS, asdict(settings))


def read_records(dataset_dir: Path) -> dict[str, Record]:
    """Return the records of a folder's finished cases by their stems."""
    paths = sorted((dataset_dir / _RECORDS).glob("*.json"))
    return {path.stem: read_json(path, _AFRESH) for path in paths if path.name != _SETTINGS}


def is_done(case: Case, records: Mapping[str, Record], dataset_dir: Path) -> bool:
    """Whether a case is finished, has not changed since, and its slices exist."""
    record = records.get(case.stem)
    if record is None or record["content"] != case.content:
        return False
    files = [entry[key] for entry in record["entries"] for key in ("image", "label") if key in entry]
    return all((dataset_dir / file).is_file() for file in files)


def refuse_changed(cases: Sequence[Case], records: Mapping[str, Record], dataset_dir: Path) -> None:
    """Refuse cases whose source or mask is not what it was: their slices are not overwritten without being asked.

    Raises:
        PigError: names the first.
    """
    changed = [c for c in cases if c.stem in records and records[c.stem]["content"] != c.content]
    if changed:
        more = f" ({len(changed)} such cases)" if len(changed) > 1 else ""
        raise PigError(
            f"{changed[0].source} or its mask changed since it was prepared into {dataset_dir}{more}",
            "give another --output, or --overwrite true to prepare all afresh",
        )


def write_record(dataset_dir: Path, stem: str, record: Record) -> None:
    """Write the record of a finished case; call it when its slices exist."""
    write_json(dataset_dir / _RECORDS / f"{stem}.json", record)
