"""A training that ends in good order when a signal asks for it."""

from __future__ import annotations

import signal
from typing import Any

from ignite.engine import Engine, Events
from monai.data.utils import worker_init_fn

from pig_monai.stopping import SIGNALS, StopSignals


def stopping(engine: Engine) -> signal.Signals | None:
    """Return the signal that asked the training to stop, or None."""
    signals: StopSignals | None = getattr(engine.state, "stop_signals", None)
    return signal.Signals(signals.asked) if signals and signals.asked else None


def start_worker(worker: int) -> None:
    """Leave the signals to the training's own process: set up a process that loads its slices.

    Schedulers and terminals signal all processes at once; a loader that ended on its own would break the training
    before it could save its state.

    Args:
        worker: the process's number.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    worker_init_fn(worker)


class StopOnSignal:
    """Ends a training after the iteration at hand when SIGTERM or Ctrl-C asks for it, with its state saved."""

    def attach(self, engine: Engine) -> None:
        """Listen for start, iterations and the end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        state: Any = engine.state
        self.signals = state.stop_signals = StopSignals()
        self.signals.listen()

    def __call__(self, engine: Engine) -> None:
        """Terminate the engine when a signal came."""
        if stopping(engine):
            engine.terminate()

    def _end(self, engine: Engine) -> None:
        self.signals.restore()
