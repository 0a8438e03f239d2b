"""Preparing many cases, in this process or in several. A case of which its process dies takes no other with it.

Each process prepares one case after the other. The last cases, where they are fewer than the processes, are
prepared in parts: one volume alone is shared out among all.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from pig_monai.data.cases import Case
from pig_monai.data.early import worker_context
from pig_monai.data.prepare import Part, PreparedPart, prepare_case, prepare_part, unite
from pig_monai.data.records import Record, Settings
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError
from pig_monai.plan import duration

Outcome = Record | UnusableError
Told = Callable[[Case, Outcome], None]
PartOutcome = PreparedPart | UnusableError

LONGEST = 3600.0
"""Seconds that a process may take for one case: many times what the largest volumes need."""


_STARTED = "started"


class _DiedError(UnusableError):
    """The process died."""


def prepare_cases(
    cases: Sequence[Case],
    suspects: Collection[str],
    settings: Settings,
    dataset_dir: Path,
    workers: int,
    done: Told,
) -> None:
    """Prepare cases in any order.

    A case whose process died is tried once more when nothing else takes memory, alone in a process of its own.

    Args:
        cases: what is to be prepared.
        suspects: stems of cases of which an earlier run may have died; they come last, and alone.
        settings: of the preparation.
        dataset_dir: where the slices and records are written.
        workers: processes; with one worker it is this one. The result does not depend on it.
        done: is told of each case as it ends.

    Raises:
        PigError: the disk is full.
        OSError: the folder cannot be written.
    """
    alone = [case for case in cases if case.stem in suspects]
    others = [case for case in cases if case.stem not in suspects]

    def once_more(case: Case, outcome: Outcome) -> None:
        if isinstance(outcome, _DiedError):
            alone.append(case)
        else:
            done(case, outcome)

    if workers == 1 and others:
        for case in others:
            done(case, prepare_case(case, settings, dataset_dir))
    else:
        _in_processes(others, workers, settings, dataset_dir, once_more)
    _in_processes(alone, 1, settings, dataset_dir, done)


@dataclass
class _Pending:
    """A case of which not all parts have ended."""

    case: Case
    ended: dict[int, PartOutcome] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """What a process is given at a time."""

    pending: _Pending
    part: Part

    def end(self, outcome: PartOutcome, dataset_dir: Path) -> tuple[Case, Outcome] | None:
        """Note how it ended; where that was the last part of a case, return how the case ended."""
        ended = self.pending.ended
        ended[self.part.number] = outcome
        if len(ended) < self.part.of:
            return None
        return self.pending.case, unite(self.pending.case, dataset_dir, [ended[n] for n in range(self.part.of)])


def _tasks(cases: Sequence[Case], workers: int) -> list[_Task]:
    """Return a task for each case; several for each of the last ones, where these are fewer than the workers."""
    last = len(cases) % workers
    tasks = []
    for place, case in enumerate(cases):
        shared = place >= len(cases) - last and case.kind != "image"  # which is one slice
        parts = workers // last if shared else 1
        pending = _Pending(case)
        tasks += [_Task(pending, Part(number, parts)) for number in range(parts)]
    return tasks


def _in_processes(cases: Sequence[Case], workers: int, settings: Settings, dataset_dir: Path, done: Told) -> None:
    waiting = deque(_tasks(cases, workers))
    with _Team(min(workers, len(waiting)), settings, dataset_dir) as team:
        while waiting or team.busy():
            team.give(waiting)
            for worker in team.ready():
                answer = worker.take()
                ended = answer and answer[0].end(answer[1], dataset_dir)
                if ended:
                    done(*ended)


class _Team:
    """Some workers; none outlives the block."""

    def __init__(self, count: int, settings: Settings, dataset_dir: Path) -> None:
        self.arguments = settings, dataset_dir
        self.count = count
        self.workers: list[_Worker] = []

    def __enter__(self) -> _Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.end()

    def busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.task is not None]

    def give(self, waiting: deque[_Task]) -> None:
        """Give each idle worker a task; start those that are missing."""
        self.workers = [worker for worker in self.workers if not worker.ended]
        while waiting and len(self.busy()) < self.count:
            idle = next((worker for worker in self.workers if worker.task is None), None)
            if idle is None:
                idle = _Worker(*self.arguments)
                self.workers.append(idle)
            idle.give(waiting.popleft())

    def ready(self) -> list[_Worker]:
        """Wait for workers that have started, finished their task, died of it, or taken too long."""
        busy = {worker.connection: worker for worker in self.busy()}
        left = min(worker.deadline for worker in busy.values()) - time.monotonic()
        answering = wait(list(busy), timeout=None if left == math.inf else max(0.0, left))
        late = [worker for worker in busy.values() if worker.deadline <= time.monotonic()]
        return [worker for connection, worker in busy.items() if connection in answering or worker in late]


class _Worker:
    """A process that does one task after the other."""

    def __init__(self, settings: Settings, dataset_dir: Path) -> None:
        context = worker_context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, settings, dataset_dir), daemon=True
        )
        self.process.start()
        theirs.close()  # so that its end is noticed
        self.task: _Task | None = None
        self.started = False
        self.deadline = math.inf
        self.ended = False

    def give(self, task: _Task) -> None:
        self.task = task
        if self.started:
            self.deadline = time.monotonic() + LONGEST
        with suppress(OSError):  # it died: `take` tells
            self.connection.send((task.pending.case, task.part))

    def take(self) -> tuple[_Task, PartOutcome] | None:
        """Return the task and how it ended; None where the process has only just started with it.

        Raises:
            PigError: the disk is full.
            OSError: the folder cannot be written.
        """
        task = self.task
        assert task is not None
        try:
            if not self.connection.poll():
                self.end()
                return task, UnusableError(f"it took more than {duration(LONGEST)}", "check the file")
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            return task, _DiedError(
                f"the process that prepared it died ({_how_ended(self.process.exitcode)})",
                "check the file; if memory was short, run the same command again with fewer --workers",
            )
        if answer == _STARTED:
            self.started = True
            self.deadline = time.monotonic() + LONGEST
            return None
        self.task = None
        if isinstance(answer, Exception) and not isinstance(answer, UnusableError):
            raise answer
        return task, answer

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.ended, self.task = True, None
        self.connection.close()
        self.process.kill()
        self.process.join()


def _how_ended(exitcode: int | None) -> str:
    if exitcode is not None and -exitcode in set(signal.Signals):
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


def _serve(connection: Connection, settings: Settings, dataset_dir: Path) -> None:
    """Prepare the parts of cases that come; answer with the outcome or the exception that ends the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # Linux: where memory runs short, of all processes this one goes
        Path("/proc/self/oom_score_adj").write_text("1000")
    connection.send(_STARTED)
    while True:
        try:
            case, part = connection.recv()
        except EOFError:
            return
        outcome: PartOutcome | Exception
        try:
            outcome = prepare_part(case, settings, dataset_dir, part)
        except (PigError, OSError) as cause:
            outcome = cause
        except Exception:
            outcome = RuntimeError(traceback.format_exc())
        connection.send(outcome)


def _end_with_parent() -> None:
    """End this process with its parent, which may be killed: nobody else may write into the folder after it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
