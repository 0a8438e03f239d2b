"""A preparation from its list of cases to its end: a whole dataset, a shard of one, or the merging of shards."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pig_monai.data.cases import Case, Found, Skipped, name_cases
from pig_monai.data.finish import finish
from pig_monai.data.records import (
    Record,
    Settings,
    check_folder,
    claim_folder,
    forget_skip,
    is_done,
    read_records,
    refuse_changed,
    remove_unrecorded,
    write_skip,
    writing,
)
from pig_monai.data.shards import (
    Shard,
    ShardFolder,
    read_shards,
    refuse_unfinished,
    take_case,
    warn_of_leftovers,
)
from pig_monai.data.volume import UnusableError
from pig_monai.data.workers import Outcome, prepare_cases
from pig_monai.locking import locked

OPTION = "--output"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is wanted.

    Args:
        dataset_dir: the dataset folder; made where absent.
        settings: must be those of the folder's earlier runs.
        workers: processes; the result does not depend on it.
        overwrite: remove what an earlier run left, instead of continuing it.
        merge: folder of the shards to merge, or None.
    """

    dataset_dir: Path
    settings: Settings
    workers: int = 1
    overwrite: bool = False
    merge: Path | None = None


@dataclass
class Work:
    """What there is to do.

    Args:
        cases: of this folder: all, or those of its shard.
        todo: those that are not done yet.
        records: of the cases that are or were done, by stem.
        shards: where the cases come from that a merge takes over.
    """

    cases: list[Case]
    todo: list[Case]
    records: dict[str, Record]
    shards: list[ShardFolder]


def list_work(job: Job, found: Found) -> Work:
    """Compare the cases that were found with what the folder holds; touches nothing.

    Raises:
        PigError: other settings or other data under the same name; shards that cannot be merged.
    """
    check_folder(job.dataset_dir, job.settings, job.overwrite)
    records = {} if job.overwrite else read_records(job.dataset_dir)
    cases = name_cases(found.cases, {record["volume"]: stem for stem, record in records.items()})
    if job.settings.shard:
        shard = Shard.parse(job.settings.shard)
        cases = [case for case in cases if shard.holds(case)]
    todo = [case for case in cases if not is_done(case, records, job.dataset_dir)]
    refuse_changed(todo, records, job.dataset_dir)
    shards = read_shards(job.merge, job.settings) if job.merge else []
    if shards:
        refuse_unfinished(todo, shards)
    return Work(cases, todo, records, shards)


def prepare_dataset(job: Job, found: Found) -> Found:
    """Prepare the cases and write the dataset folder, or the shard's.

    Args:
        job: what is wanted.
        found: the cases, and what is already known to be skipped.

    Returns:
        the cases, with their stems, and all that was skipped.

    Raises:
        PigError: see `list_work`; another process writes into the folder, nothing could be prepared, or the folder
            cannot be written.
    """
    with locked(job.dataset_dir, OPTION), writing(job.dataset_dir):
        work = list_work(job, found)
        under_way = claim_folder(job.dataset_dir, job.settings, job.overwrite)
        skipped = _take_over(job, work) if job.merge else _prepare(job, work, under_way)
        done = Found(work.cases, [*found.skipped, *skipped], found.warnings)
        if job.settings.shard:
            remove_unrecorded(job.dataset_dir, work.records.values())
            told = f"{len(work.cases) - len(skipped)} prepared, {len(skipped)} skipped, in {job.dataset_dir}"
            print(f"shard {job.settings.shard}: {told}", file=sys.stderr)
        else:
            finish(job.dataset_dir, done, work.records, job.settings)
            slices = sum(len(record["entries"]) for record in work.records.values())
            told = f"{slices} slices of {len(work.records)} {job.settings.things} in {job.dataset_dir}"
            print(f"{told}; {len(done.skipped)} skipped (report.html)", file=sys.stderr)
    return done


def _prepare(job: Job, work: Work, under_way: frozenset[str]) -> list[Skipped]:
    """Prepare what is to do, add its records, and return what had to be skipped."""
    skipped: list[Skipped] = []
    with _progress(work, "preparing") as bar:

        def done(case: Case, outcome: Outcome) -> None:
            if job.settings.shard and isinstance(outcome, UnusableError):
                write_skip(job.dataset_dir, case, outcome)
            elif job.settings.shard:
                forget_skip(job.dataset_dir, case.stem)
            _keep(case, outcome, work, skipped)
            bar.update()

        prepare_cases(work.todo, under_way, job.settings, job.dataset_dir, job.workers, done)
    return skipped


def _take_over(job: Job, work: Work) -> list[Skipped]:
    """Take what is to do over from the shards; otherwise as `_prepare`."""
    skipped: list[Skipped] = []
    warn_of_leftovers(work.cases, work.shards)
    with _progress(work, "merging") as bar:
        for case in work.todo:
            _keep(case, take_case(case, work.shards, job.dataset_dir), work, skipped)
            bar.update()
    return skipped


def _keep(case: Case, outcome: Outcome, work: Work, skipped: list[Skipped]) -> None:
    if isinstance(outcome, UnusableError):
        skipped.append(Skipped(case.hash, case.source, outcome, case.view, case.patient, case.study, case.series))
        _logger.warning(skipped[-1].line())
    else:
        work.records[case.stem] = outcome


@contextmanager
def _progress(work: Work, doing: str) -> Iterator[tqdm[Any]]:
    """Show how many cases are done, how fast it goes and how long it will take."""
    seconds = 1 if sys.stderr.isatty() else 10  # a log file keeps every line
    with tqdm(
        total=len(work.cases),
        initial=len(work.cases) - len(work.todo),
        desc=doing,
        unit="case",
        mininterval=seconds,
        disable=not work.todo,
    ) as bar:
        yield bar
