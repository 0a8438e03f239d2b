"""Shards: the cases of a dataset dealt to several jobs, each with a folder of its own, and their merging."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from pig_monai.data.cases import Case
from pig_monai.data.folder import shard_of
from pig_monai.data.records import (
    Record,
    Settings,
    content_hash,
    files_of,
    read_records,
    read_skips,
    refuse_other_settings,
    write_record,
)
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError
from pig_monai.files import atomic_path
from pig_monai.locking import check_free

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One of several parts.

    Args:
        number: from 1 on.
        count: how many parts there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/8``.

        Raises:
            PigError: it is none of the parts.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(int(found[1]), int(found[2])) if found else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise PigError(f"--shard is {text!r}", "give its number and how many there are, from 1/8 to 8/8, say")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, case: Case) -> bool:
        """Whether a case belongs to this part: its volume says so, on whatever machine."""
        return share(case, self.count) == self.number


def share(case: Case, count: int) -> int:
    """Return the number of the shard, of ``count``, that a case belongs to."""
    return int(case.volume, 16) % count + 1


@dataclass(frozen=True)
class ShardFolder:
    """What a shard's folder holds.

    Args:
        folder: its path.
        shard: which part it is.
        records: volume → the record of a converted case.
        skips: volume → why a case was skipped.
    """

    folder: Path
    shard: Shard
    records: Mapping[str, Record]
    skips: Mapping[str, Record]

    def has(self, case: Case) -> bool:
        """Whether a case was prepared or skipped here, has not changed since, and its slices exist."""
        record = self.records.get(case.volume)
        outcome = record or self.skips.get(case.volume)
        if outcome is None or outcome["content"] != content_hash(case):
            return False
        return record is None or all((self.folder / file).is_file() for file in files_of(record))


def read_shards(folder: Path, settings: Settings) -> list[ShardFolder]:
    """Read all shards of a dataset.

    Args:
        folder: holds the shards' folders.
        settings: of the merged dataset; the shards must have the same.

    Returns:
        the shards in order.

    Raises:
        PigError: a shard is missing, there twice, in use, or was prepared with other settings or another key.
    """
    if not folder.is_dir():
        raise PigError(f"--merge {folder} is not a folder", "give the folder that holds the shards' folders")
    found: dict[Shard, Path] = {}
    for path in sorted(folder.iterdir()):
        text = shard_of(path)
        if text is None:
            continue
        shard = Shard.parse(text)
        if shard in found:
            raise PigError(f"{found[shard]} and {path} both hold shard {shard}", "keep one of them")
        found[shard] = path
    counts = sorted({shard.count for shard in found})
    if not counts:
        raise PigError(f"{folder} holds no shards", "run the same command with --shard first")
    if len(counts) > 1:
        raise PigError(f"{folder} holds shards of {counts[0]} and of {counts[1]}", "keep those of one run")
    missing = [str(one) for number in range(counts[0]) if (one := Shard(number + 1, counts[0])) not in found]
    if missing:
        raise PigError(f"{folder} lacks {_shards(missing)}", "run the same command with these --shard first")
    return [_read_shard(found[shard], shard, settings) for shard in sorted(found, key=lambda one: one.number)]


def _read_shard(folder: Path, shard: Shard, settings: Settings) -> ShardFolder:
    check_free(folder, "--merge")
    refuse_other_settings(
        folder,
        replace(settings, shard=str(shard)),
        "give the same settings and --key, or run the shard again with --overwrite true",
    )
    records = {record["volume"]: record for record in read_records(folder).values()}
    return ShardFolder(folder, shard, records, {skip["volume"]: skip for skip in read_skips(folder)})


def _shards(names: Sequence[str]) -> str:
    return f"shard{'s' if len(names) > 1 else ''} {', '.join(names)}"


def refuse_unfinished(cases: Iterable[Case], shards: Sequence[ShardFolder]) -> None:
    """Refuse shards that lack cases, or hold cases whose source or mask changed since.

    Args:
        cases: what is to be taken from the shards.
        shards: all of them, in order.

    Raises:
        PigError: names the shards.
    """
    lacking: dict[str, int] = defaultdict(int)
    for case in tqdm(cases, desc="comparing with the shards", unit="case", mininterval=1):
        own = shards[share(case, len(shards)) - 1]
        if not own.has(case):
            lacking[str(own.shard)] += 1
    if lacking:
        count = sum(lacking.values())
        what = f"{count} cases are" if count > 1 else "1 case is"
        raise PigError(
            f"{what} not prepared, or changed since, in {_shards(list(lacking))}",
            "run the same command with these --shard again: it continues",
        )


def take_case(case: Case, shards: Sequence[ShardFolder], dataset_dir: Path) -> Record | UnusableError:
    """Take a case over from its shard: its slices, then its record; or why it was skipped there."""
    own = shards[share(case, len(shards)) - 1]
    if case.volume not in own.records:
        skip = own.skips[case.volume]
        return UnusableError(skip["reason"], skip["remedy"])
    record = own.records[case.volume]
    entries = []
    for entry in record["entries"]:
        files = {key: _rename(entry[key], case.stem) for key in ("image", "label") if key in entry}
        for key, file in files.items():
            _take_file(own.folder / entry[key], dataset_dir / file)
        entries.append(entry | files)
    record = {**record, "entries": entries}
    write_record(dataset_dir, case.stem, record)
    return record


def _rename(file: str, stem: str) -> str:
    """Give a slice the stem that its case has here: a dataset that grew may have given it out otherwise."""
    path = PurePosixPath(file)
    return str(path.with_name(f"{stem}_{path.name.rpartition('_')[2]}"))


def _take_file(source: Path, target: Path) -> None:
    """Link a file where the file system can, else copy it; it is whole or absent."""
    if target.exists() and target.samefile(source):
        return
    with atomic_path(target) as scratch:
        scratch.unlink()
        try:
            os.link(source, scratch)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, scratch)


def warn_of_leftovers(cases: Sequence[Case], shards: Sequence[ShardFolder]) -> None:
    """Tell of prepared cases whose files are no longer found: they do not come into the dataset."""
    known = {case.volume for case in cases}
    gone = sum(volume not in known for shard in shards for volume in shard.records)
    if gone:
        logger.warning("warning: %d cases of the shards are left out: their files are not found any more", gone)
