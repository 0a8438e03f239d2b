"""The full state of a training in ``checkpoints/``, to go on from; and the weights to use, beside it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch.optim.swa_utils import AveragedModel

from pig_monai.checkpoint import save_weights
from pig_monai.files import atomic_path
from pig_monai.training.handlers import broken

logger = logging.getLogger(__name__)

STATE_NAME = re.compile(r"state_(\d+)\.pt")


class Stateful(Protocol):
    """A network, optimiser, average or schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state."""


class Seekable(Protocol):
    """A stream whose n-th draw depends on n alone."""

    iteration: int


def saved_states(folder: Path) -> list[Path]:
    """Return the saved states in ``folder``, the latest first."""
    found = [(int(m[1]), path) for path in folder.glob("state_*.pt") if (m := STATE_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


class TrainingState:
    """Saves what a training needs to go on, and brings a stopped one back.

    Batches and noise are functions of (seed, iteration), so the iteration is all that is kept of them.

    Args:
        folder: ``checkpoints/`` of the run.
        objects: what has a state: network, ema, optimizer, lr_scheduler.
        streams: what must go on from the right iteration: the batches and the noise.
        interval: iterations between two states; one is saved at the end, too.
        keep: how many states stay.
    """

    def __init__(
        self,
        folder: str | Path,
        objects: Mapping[str, Stateful],
        streams: Sequence[Seekable],
        interval: int,
        keep: int = 2,
    ) -> None:
        self.folder = Path(folder)
        self.objects = objects
        self.streams = streams
        self.interval = interval
        self.keep = keep

    def attach(self, engine: Engine) -> None:
        """Listen for the start, for every ``interval`` iterations, and for the end."""
        engine.add_event_handler(Events.STARTED, self._restore)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the state of this iteration; drop the oldest ones.

        Raises:
            PigError: the weights are no longer finite.
        """
        path = self.folder / f"state_{engine.state.iteration:08d}.pt"
        if not path.exists():
            state: dict[str, Any] = {name: thing.state_dict() for name, thing in self.objects.items()}
            if not all(bool(torch.isfinite(value).all()) for value in state["network"].values()):
                raise broken("the weights are no longer numbers", engine)
            state["iteration"] = engine.state.iteration
            with atomic_path(path) as scratch:
                torch.save(state, scratch)
        for old in saved_states(self.folder)[self.keep :]:
            old.unlink()

    def _restore(self, engine: Engine) -> None:
        state = self._latest()
        if state is None:
            return
        for name, thing in self.objects.items():
            thing.load_state_dict(state[name])
        iteration = int(state["iteration"])
        engine.state.iteration = iteration
        engine.state.epoch = iteration // (engine.state.epoch_length or 1)
        for stream in self.streams:
            stream.iteration = iteration
        logger.info("continuing from iteration %d", iteration)

    def _latest(self) -> dict[str, Any] | None:
        for path in saved_states(self.folder):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as cause:  # torch raises many kinds for a torn file
                logger.warning("%s cannot be read (%s): trying the one before", path.name, type(cause).__name__)
        return None


class WeightsExport:
    """Writes the weights to use (the moving average) with the meta that describes them.

    Args:
        path: of the weights, such as ``model_guider.pt``.
        ema: the average.
        meta: makes the meta of an iteration.
        interval: iterations between two exports; one is made at the end, too.
    """

    def __init__(
        self, path: str | Path, ema: AveragedModel, meta: Callable[[int], dict[str, Any]], interval: int
    ) -> None:
        self.path = Path(path)
        self.ema = ema
        self.meta = meta
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Listen for every ``interval`` iterations and for the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the weights."""
        save_weights(self.path, self.ema.module.state_dict(), self.meta(engine.state.iteration))
