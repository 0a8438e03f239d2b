"""Engines that run without a network, and a clock that moves when it is told to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ignite.engine import Engine, Events

from pig_monai.training.handlers import StopAt


class Clock:
    """Stands in for ``time.perf_counter`` in a module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def run(
    step: Callable[[int], Any],
    handlers: Sequence[Any],
    iterations: int,
    resumed_at: int = 0,
    data: Iterable[Any] | None = None,
) -> Engine:
    """Run ``step(iteration)`` with handlers, as a training in epochs of five that goes on after ``resumed_at``.

    Args:
        step: its result is the engine's output.
        handlers: attached in this order; a plain function is called after every iteration.
        iterations: where the engine ends.
        resumed_at: what restoring a state sets the iteration to.
        data: endless batches; by default there is nothing in them.
    """
    engine = Engine(lambda engine, batch: step(engine.state.iteration))

    @engine.on(Events.STARTED)
    def restore(engine: Engine) -> None:
        engine.state.iteration = resumed_at

    for handler in handlers:
        if hasattr(handler, "attach"):
            handler.attach(engine)
        else:
            engine.add_event_handler(Events.ITERATION_COMPLETED, handler)
    StopAt(iterations).attach(engine)
    engine.run(itertools.repeat(0) if data is None else data, max_epochs=1000, epoch_length=5)
    return engine
