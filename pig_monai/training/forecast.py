"""After the first minutes: how long it will take and what memory it needs, said once."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta

import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from pig_monai.plan import duration, file_size, peak_memory

SETTLING = 5
"""First iterations, which choose algorithms and fill caches, and say nothing of the others."""


class Forecast:
    """Prints one line after 100 iterations or 60 seconds, whichever comes first: rate, time to go, peak memory.

    Args:
        name: what is trained.
        iterations: of the whole training.
        device: where it runs.
        after_iterations: when to speak.
        after_seconds: when to speak.
    """

    def __init__(
        self,
        name: str,
        iterations: int,
        device: torch.device | str,
        after_iterations: int = 100,
        after_seconds: float = 60,
    ) -> None:
        self.name = name
        self.iterations = iterations
        self.device = device
        self.after_iterations = after_iterations
        self.after_seconds = after_seconds
        self.started = 0
        self.since: float | None = None
        self.said = False

    def attach(self, engine: Engine) -> None:
        """Listen for start and iterations."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self.started = engine.state.iteration

    def __call__(self, engine: Engine) -> None:
        """Speak when it is time."""
        done = engine.state.iteration - self.started
        if self.said or done < SETTLING:
            return
        if self.since is None:
            self.since = time.perf_counter()
            return
        elapsed = time.perf_counter() - self.since
        if done >= self.after_iterations or elapsed >= self.after_seconds:
            self.said = True
            left = self.iterations - engine.state.iteration
            tqdm.write(self.line(left, elapsed / (done - SETTLING)), file=sys.stderr)

    def line(self, left: int, seconds: float) -> str:
        """Return the forecast for ``left`` iterations of ``seconds`` each."""
        end = datetime.now() + timedelta(seconds=left * seconds)
        return (
            f"{self.name}: {duration(seconds)} an iteration, about {duration(left * seconds)} to go "
            f"(until {end:%a %d %b %H:%M}) without validation and previews; "
            f"peak memory {file_size(peak_memory(self.device))}"
        )
