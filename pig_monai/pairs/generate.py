"""From candidates to a pairs folder: draw in index order, judge, write, and go on where a run stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pig_monai.cli import as_bool
from pig_monai.diffusion.solvers import Estimate
from pig_monai.errors import PigError
from pig_monai.pairs.folder import Common, PairsFolder, pairs_run
from pig_monai.pairs.pictures import draw_contact_sheet, draw_film_strip
from pig_monai.pairs.ranks import Ranks
from pig_monai.pairs.rejection import Limits, describe_counts, too_few_accepted
from pig_monai.pairs.sampler import Candidate, Sampler
from pig_monai.runs import Run
from pig_monai.stopping import StopAskedError, StopSignals

FEWEST_JUDGED = 32
"""Candidates that are drawn before the share of accepted ones is held against the user's limit."""

MOST_REJECTED = 512
"""Candidates after which a run that has accepted none ends, whatever the limit."""


class PairsJob:
    """What is wanted of a pairs folder.

    Args:
        output_dir: the pairs folder.
        limits: what a candidate's mask must keep.
        num_pairs: accepted pairs wanted; without ``replace_rejected`` the number of candidates.
        start_index: the first candidate's index.
        batch_size: candidates that a process draws at a time.
        min_accepted: give up when a smaller share of at least 32 candidates is accepted.
        replace_rejected: draw further candidates for those that are rejected.
        overwrite: start afresh.
        inputs: what the run reads, by id (see `Run`).
    """

    def __init__(
        self,
        output_dir: str | Path,
        limits: Limits,
        num_pairs: int = 64,
        start_index: int = 0,
        batch_size: int = 8,
        min_accepted: float = 0.1,
        replace_rejected: bool | str = True,
        overwrite: bool | str = False,
        inputs: Mapping[str, str | Path | None] | None = None,
    ) -> None:
        self.folder = Path(output_dir)
        self.limits = limits
        self.num_pairs = num_pairs
        self.start_index = start_index
        self.batch_size = batch_size
        self.min_accepted = min_accepted
        self.replace_rejected = as_bool(replace_rejected, "replace_rejected")
        self.overwrite = as_bool(overwrite, "overwrite")
        self.inputs = inputs

    def run(self, sampler: Sampler) -> Run:
        """Return the folder with what makes this run what it is: only the same command may continue it."""
        settings = {**sampler.provenance, **self.limits.to_dict(), "start_index": self.start_index}
        return pairs_run(self.folder, settings, self.overwrite, self.inputs)

    def found(self, pairs: PairsFolder) -> int:
        """Return how many of ``num_pairs`` a folder holds."""
        return len(pairs.entries) if self.replace_rejected else pairs.judged


def generate_pairs(sampler: Sampler, job: PairsJob) -> None:
    """Write the accepted candidates in index order, with contact sheet and film strip.

    The result is the same whatever the batch size, the number of processes or the interruptions. A folder that
    holds fewer pairs of the same settings is continued.

    Args:
        sampler: draws the candidates.
        job: what is wanted.

    Raises:
        PigError: another run in the folder, or too few accepted candidates.
        SystemExit: SIGTERM or Ctrl-C asked for it; what was judged is recorded.
    """
    ranks = Ranks()
    if ranks.first:
        with StopSignals() as stop:
            _Leader(sampler, job, ranks, stop).run()
        return
    ranks.join()  # a signal ends this at once: the first process may have failed before it came
    with StopSignals() as stop:
        _follow(sampler, ranks, stop)


def _follow(sampler: Sampler, ranks: Ranks, stop: StopSignals) -> None:
    """Draw what the first process says until it says that all is done; it alone tells of errors."""
    try:
        while (indices := ranks.share()) is not None:
            ranks.draw(partial(_draw, sampler, stop, None), indices)
        ranks.leave()
    except (RuntimeError, PigError):  # the connection is closed: the first process has ended
        sys.exit(1)


def _draw(sampler: Sampler, stop: StopSignals, bar: tqdm[Any] | None, indices: Sequence[int]) -> list[Candidate]:
    def on_step(index: int, mask: Estimate, slice_: Estimate) -> None:
        stop.check()
        if bar is not None:
            bar.update()

    if bar is not None:
        bar.reset()
    return sampler.draw(indices, on_step)


class _Leader:
    """The process that judges and writes, and tells the others what to draw."""

    def __init__(self, sampler: Sampler, job: PairsJob, ranks: Ranks, stop: StopSignals) -> None:
        self.sampler = sampler
        self.job = job
        self.ranks = ranks
        self.stop = stop
        self.pairs = PairsFolder(job.folder, Common.of(sampler, job.limits), job.start_index)
        self.drawn, self.seconds = 0, 0.0  # candidates of this run, and what drawing them took

    def run(self) -> None:
        job, pairs = self.job, self.pairs
        job.run(self.sampler).open()
        pairs.read()
        pairs.remove_unrecorded()
        self.ranks.join()
        try:
            self._draw_rounds()
            pairs.save(job.num_pairs)
            self.ranks.share(None)
            self.ranks.leave()
            self._draw_pictures()
        except StopAskedError as asked:
            pairs.save(job.num_pairs)
            print(f"stopped with {self._found()}{self._cost()}; the same command continues", file=sys.stderr)
            sys.exit(asked.status)
        except BaseException:
            pairs.save(job.num_pairs)
            raise
        self._tell()

    def _draw_rounds(self) -> None:
        job, pairs = self.job, self.pairs
        spacing, things = self.sampler.spacing, self.sampler.things
        with (
            tqdm(total=job.num_pairs, initial=job.found(pairs), desc=things, unit=things.rstrip("s")) as bar,
            tqdm(total=self.sampler.num_steps, desc="steps", leave=False, position=1) as steps,
        ):
            while (wanted := job.num_pairs - job.found(pairs)) > 0:
                self.stop.check()
                # at least as many candidates as pairs are needed: none is drawn in vain
                count = min(wanted, job.batch_size * self.ranks.size)
                indices = self.ranks.share(range(pairs.next_index, pairs.next_index + count))
                for candidate in self._draw_round(indices, steps):
                    pairs.judge(candidate, job.limits, spacing)
                    bar.update(job.found(pairs) - bar.n)
                    self._check_share()
                bar.set_postfix(rejected=pairs.rejected.total())
                pairs.save(job.num_pairs, at_once=False)

    def _draw_round(self, indices: Sequence[int], steps: tqdm[Any]) -> list[Candidate]:
        begin = time.perf_counter()
        candidates = self.ranks.draw(partial(_draw, self.sampler, self.stop, steps), indices)
        self.seconds += time.perf_counter() - begin
        self.drawn += len(candidates)
        return candidates

    def _check_share(self) -> None:
        accepted, judged = len(self.pairs.entries), self.pairs.judged
        too_few = judged >= FEWEST_JUDGED and accepted < self.job.min_accepted * judged
        if self.job.replace_rejected and (too_few or (judged >= MOST_REJECTED and not accepted)):
            raise too_few_accepted(accepted, self.pairs.rejected, self.job.limits)

    def _draw_pictures(self) -> None:
        if self.pairs.entries:
            draw_contact_sheet(self.pairs.folder, self.pairs.entries)
            draw_film_strip(self.pairs.folder, self.pairs.entries, self.sampler, self.stop.check)

    def _found(self) -> str:
        pairs = self.pairs
        return f"{len(pairs.entries)} {self.sampler.things} of {pairs.judged} candidates in {self.job.folder}"

    def _cost(self) -> str:
        return f"; {self.seconds / self.drawn:.3f} s a candidate ({self.drawn} drawn)" if self.drawn else ""

    def _tell(self) -> None:
        pairs, job = self.pairs, self.job
        print(f"{self._found()}{self._cost()}; rejected: {describe_counts(pairs.rejected)}", file=sys.stderr)
        if not job.replace_rejected and len(pairs.entries) < job.min_accepted * pairs.judged:
            error = too_few_accepted(len(pairs.entries), pairs.rejected, job.limits)
            print(f"warning: {error}", file=sys.stderr)
