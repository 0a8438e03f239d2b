"""The plan of a preparation: what there is to do, and what it will take, without writing anything."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pig_monai.data.cases import Case, Found, Skipped
from pig_monai.data.job import OPTION, Job, Work, list_work
from pig_monai.data.prepare import prepare_case
from pig_monai.data.records import Settings, files_of
from pig_monai.data.volume import UnusableError
from pig_monai.locking import check_free
from pig_monai.plan import duration, file_size, peak_memory, print_plan

TRIED = 3
"""Cases that are tried until one can be prepared, and timed."""


def plan_preparation(job: Job, found: Found) -> None:
    """Check everything that a preparation needs, prepare one case for its time and size, and print the plan.

    The dataset folder and the key are not touched; the case is prepared in a temporary folder, which is removed.

    Args:
        job: what is wanted.
        found: the cases, and what is already known to be skipped.

    Raises:
        PigError: whatever would stop the preparation before its first case.
    """
    check_free(job.dataset_dir, OPTION)
    work = list_work(job, found)
    lines = {
        "output": f"{job.dataset_dir} ({_held(job, work)})",
        "cases found": f"{len(found.cases)} of {len({case.hash for case in found.cases})} patients",
        **({f"in shard {job.settings.shard}": len(work.cases)} if job.settings.shard else {}),
        "done already": len(work.cases) - len(work.todo),
        "to take over" if job.merge else "to prepare": _to_do(work),
        "skipped": _by_reason(found.skipped),
        "warnings": "; ".join(found.warnings) or None,
        "workers": job.workers,
        **(_costs(job, work.todo) if work.todo and not job.merge else {}),
    }
    print_plan("plan of a preparation", lines)


def _held(job: Job, work: Work) -> str:
    if job.overwrite and job.dataset_dir.exists():
        return "the dataset there would be overwritten"
    return "continues" if work.records else "a new shard" if job.settings.shard else "a new dataset"


def _to_do(work: Work) -> str:
    if not work.shards:
        return str(len(work.todo))
    skips = sum(case.volume in shard.skips for case in work.todo for shard in work.shards)
    return f"{len(work.todo) - skips} from {len(work.shards)} shards, which skipped {skips} more"


def _by_reason(skipped: Iterable[Skipped]) -> str:
    counts = Counter(one.why.reason for one in skipped)
    listed = [f"{count} × {reason}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item))]
    return f"{counts.total()}: {'; '.join(listed)}" if listed else "0"


def _costs(job: Job, todo: Sequence[Case]) -> dict[str, str]:
    """Prepare a case of middling size, and say what all will take."""
    where = next(path for path in (job.dataset_dir, *job.dataset_dir.absolute().parents) if path.exists())
    free = file_size(shutil.disk_usage(where).free)
    measured = _measure(todo, job.settings)
    if measured is None:
        reason = f"not known: none of {min(TRIED, len(todo))} cases could be prepared"
        return {"time to go": reason, "disk": f"not known; {free} are free"}
    seconds, size = measured
    shared = job.settings.things == "volumes"  # where they are few, each is prepared by several
    workers = job.workers if shared else min(job.workers, len(todo))
    several = " a process" if workers > 1 else ""
    return {
        "a case": f"{duration(seconds)}, {file_size(size)}",
        "time to go": f"about {duration(len(todo) * seconds / workers)} for {len(todo)} cases",
        "peak memory": f"{file_size(peak_memory('cpu'))}{several}",
        "disk": f"about {file_size(len(todo) * size)}; {free} are free",
    }


def _measure(todo: Sequence[Case], settings: Settings) -> tuple[float, int] | None:
    """Return the seconds and the bytes of the first case that can be prepared, from the middle of the sizes on."""
    by_size = sorted(todo, key=_source_size)
    middle = len(by_size) // 2
    for case in (by_size[middle:] + by_size[:middle])[:TRIED]:
        with tempfile.TemporaryDirectory() as name:
            begin = time.perf_counter()
            outcome = prepare_case(case, settings, Path(name))
            seconds = time.perf_counter() - begin
            if not isinstance(outcome, UnusableError):
                return seconds, sum((Path(name) / file).stat().st_size for file in files_of(outcome))
    return None


def _source_size(case: Case) -> int:
    return sum(path.stat().st_size for path in case.slices or (case.source,))
