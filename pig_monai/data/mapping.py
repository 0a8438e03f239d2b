"""The table that says whose a case is: written only when asked for, and never into the dataset folder."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pig_monai.data.cases import Case, Found, Skipped
from pig_monai.data.outside import refuse_inside
from pig_monai.errors import PigError
from pig_monai.files import atomic_path

COLUMNS = ("case", "patient_id", "study_instance_uid", "series_instance_uid", "view", "stem", "source")
"""``stem`` is what the slices' files begin with, empty for what was skipped; ``source`` the (first) file."""

Row = dict[str, str]


class CaseMapping:
    """A mapping on disk: CSV in UTF-8, readable by its owner only. Rows of earlier runs stay.

    Args:
        path: the file; extended where it is a mapping already.
        dataset_dir: the dataset folder.

    Raises:
        PigError: the file lies in the dataset folder, is something else, or cannot be read.
    """

    def __init__(self, path: Path, dataset_dir: Path) -> None:
        refuse_inside("--mapping", path, dataset_dir, "it names the patients")
        self.path = path
        self.former = _read(path) if path.exists() else []

    def write(self, found: Found) -> None:
        """Write a row for each case and each skipped file; a file's newest row replaces its former ones.

        Args:
            found: with what was skipped.

        Raises:
            PigError: the file was written with another key, or cannot be written.
        """
        rows = [_case_row(case) for case in found.cases] + [_skipped_row(one) for one in found.skipped]
        self._refuse_other_key(rows)
        sources = {row["source"] for row in rows}
        volumes = {_volume(row) for row in rows} - {None}
        kept = [row for row in self.former if row["source"] not in sources and _volume(row) not in volumes]
        try:
            with (
                atomic_path(self.path, private=True) as scratch,
                scratch.open("w", encoding="utf-8", errors="surrogatepass", newline="") as stream,
            ):
                writer = csv.DictWriter(stream, COLUMNS)
                writer.writeheader()
                writer.writerows(sorted(kept + rows, key=lambda row: tuple(row.values())))
        except OSError as cause:
            raise PigError(
                f"--mapping {self.path} cannot be written ({cause.strerror})", "give another file"
            ) from None

    def _refuse_other_key(self, rows: Sequence[Row]) -> None:
        """Refuse where the file gives a patient another case: its key was another, and it maps other datasets."""
        cases = {row["patient_id"]: row["case"] for row in self.former if row["patient_id"]}
        if any(cases.get(row["patient_id"], row["case"]) != row["case"] for row in rows if row["patient_id"]):
            raise PigError(
                f"--mapping {self.path} was written with another key", "give the same --key, or another file"
            )


def _volume(row: Row) -> tuple[str, str] | None:
    """Return what a volume keeps when its file moves; None where nothing says so.

    The stem alone does not: volumes of two datasets, with one key, may have the same.
    """
    return (row["stem"], row["series_instance_uid"]) if row["stem"] and row["series_instance_uid"] else None


def _case_row(case: Case) -> Row:
    values = (case.hash, case.patient, case.study, case.series, case.view or "", case.stem, _absolute(case.source))
    return dict(zip(COLUMNS, values, strict=True))


def _skipped_row(one: Skipped) -> Row:
    values = (one.case, one.patient, one.study, one.series, one.view or "", "", _absolute(one.source))
    return dict(zip(COLUMNS, values, strict=True))


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _read(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", errors="surrogatepass", newline="") as stream:
            reader = csv.DictReader(stream)
            head, rows = tuple(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeError, csv.Error) as cause:
        raise PigError(f"--mapping {path} cannot be read ({type(cause).__name__})", "give another file") from None
    whole = all(set(row) == set(COLUMNS) and None not in row.values() for row in rows)
    if head != COLUMNS or not whole:
        raise PigError(f"--mapping {path} exists and is no mapping of this command", "give another file")
    return rows
