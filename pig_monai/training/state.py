"""The full state of a training in ``checkpoints/``, to go on from; and the weights to use, beside it."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.optim.swa_utils import AveragedModel

from pig_monai.checkpoint import save_torch, save_weights
from pig_monai.errors import PigError
from pig_monai.training.batches import Seekable
from pig_monai.training.handlers import broken
from pig_monai.training.interrupt import stopping
from pig_monai.training.validation import Best

logger = logging.getLogger(__name__)

STATE_NAME = re.compile(r"state_(\d+)\.pt")


class Stateful(Protocol):
    """A network, optimiser, average or schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state."""


class Meta(Protocol):
    """Makes the meta of a training's weights."""

    role: str

    def __call__(self, iteration: int) -> dict[str, Any]:
        """Return the meta after ``iteration`` optimiser steps."""


def saved_states(folder: Path) -> list[Path]:
    """Return the saved states in ``folder``, the latest first."""
    found = [(int(m[1]), path) for path in folder.glob("state_*.pt") if (m := STATE_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


class RandomState:
    """The states of Python's, NumPy's and torch's global random numbers.

    Noise and order do not use them; transforms that a user adds may.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the states, as tensors and plain types."""
        kind, keys, *rest = np.random.get_state()
        version, words, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [str(kind), [int(key) for key in np.asarray(keys)], *rest],
            "python": [version, list(words), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the states; those of GPUs only where there are as many."""
        torch.set_rng_state(state_dict["torch"])
        if len(state_dict["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state_dict["cuda"])
        kind, keys, *rest = state_dict["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))
        version, words, gauss = state_dict["python"]
        random.setstate((version, tuple(words), gauss))


class TrainingState:
    """Saves what a training needs to go on, and brings a stopped one back.

    ``checkpoints/state_<iteration>.pt`` are the latest states, which a training resumes from;
    ``checkpoints/best.pt`` is the one with the lowest validation loss, which it never resumes from: that would
    rewind it. Batches and noise are functions of (seed, iteration), so the iteration is all that is kept of them.

    Args:
        folder: ``checkpoints/`` of the run.
        objects: what has a state: network, ema, optimizer, lr_scheduler, validation.
        streams: what must go on from the right iteration: the batches and the noise.
        interval: iterations between two states; one is saved at the end, too.
        best: says which state is the best.
        keep: how many of the latest states stay.
    """

    def __init__(
        self,
        folder: str | Path,
        objects: Mapping[str, Stateful],
        streams: Sequence[Seekable],
        interval: int,
        best: Best,
        keep: int = 2,
    ) -> None:
        self.folder = Path(folder)
        self.objects = {**objects, "random": RandomState()}
        self.streams = streams
        self.interval = interval
        self.best = best
        self.keep = keep
        self.kept: tuple[int, int | None] | None = None  # iteration and best of the state last written or read

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
        if self.kept != (engine.state.iteration, self.best.iteration):
            state: dict[str, Any] = {name: thing.state_dict() for name, thing in self.objects.items()}
            if not all(bool(torch.isfinite(value).all()) for value in state["network"].values()):
                raise broken("the weights are no longer numbers", engine)
            state["iteration"] = engine.state.iteration
            state["epoch"] = engine.state.iteration // (engine.state.epoch_length or 1)
            if self.best.iteration == engine.state.iteration:
                save_torch(self.folder / "best.pt", state)
            save_torch(path, state)
            self.kept = (engine.state.iteration, self.best.iteration)
        whole = [found for found in saved_states(self.folder) if found.name <= path.name]  # a later one was torn
        for old in whole[self.keep :]:
            old.unlink()

    def _restore(self, engine: Engine) -> None:
        state = self._latest()
        if state is None:
            return
        missing = next((name for name in self.objects if name not in state), None)
        if missing is not None:
            raise PigError(
                f"the states in {self.folder} hold no {missing}: another version wrote them",
                "start in a new output_dir with --init_ckpt set to this run's folder",
            )
        for name, thing in self.objects.items():
            thing.load_state_dict(state[name])
        engine.state.iteration = int(state["iteration"])
        engine.state.epoch = int(state["epoch"])
        for stream in self.streams:
            stream.iteration = engine.state.iteration
        self.kept = (engine.state.iteration, self.best.iteration)
        logger.info("continuing from iteration %d", engine.state.iteration)

    def _latest(self) -> dict[str, Any] | None:
        found = saved_states(self.folder)
        for path in found:
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as cause:  # torch raises many kinds for a torn file
                logger.warning("%s cannot be read (%s): trying the one before", path.name, type(cause).__name__)
        if found:
            raise PigError(
                f"none of the {len(found)} states in {self.folder} can be read",
                "start in a new output_dir with --init_ckpt set to this run's folder, or give --overwrite true",
            )
        return None


class WeightsExport:
    """Writes the weights to use (the moving average) with the meta that describes them.

    ``model_<role>.pt`` are the latest, ``model_<role>_best.pt`` those with the lowest validation loss.

    Args:
        folder: the run's.
        ema: the average.
        meta: makes the meta of an iteration; knows the role.
        interval: iterations between two exports; one is made at the end, too.
        best: says which weights are the best.
        autoencoder: the content of its checkpoint, for a generator of latents, which brings it along.
        when_stopped: export when a signal ends the training, too. A meta that needs a pass over all slices with
            the weights at hand takes too long for that: the last export stays, and the state is saved.
    """

    def __init__(
        self,
        folder: str | Path,
        ema: AveragedModel,
        meta: Meta,
        interval: int,
        best: Best,
        autoencoder: dict[str, Any] | None = None,
        when_stopped: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.ema = ema
        self.meta = meta
        self.interval = interval
        self.best = best
        self.autoencoder = autoencoder
        self.when_stopped = when_stopped

    def attach(self, engine: Engine) -> None:
        """Listen for the start, for every ``interval`` iterations and for the end."""
        if self.when_stopped:
            engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _end(self, engine: Engine) -> None:
        written = all(_iteration_in(path) == engine.state.iteration for path in self._paths(engine))
        if not written and (self.when_stopped or not stopping(engine)):
            self(engine)

    def _start(self, engine: Engine) -> None:
        # now rather than at the first export: a training that is asked to stop has seconds to save itself
        self.meta(engine.state.iteration)

    def __call__(self, engine: Engine) -> None:
        """Write the weights, unless they are no longer finite: then `TrainingState` ends the training."""
        weights = self.ema.module.state_dict()
        if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
            return
        meta = self.meta(engine.state.iteration)
        for path in self._paths(engine):
            save_weights(path, weights, meta, self.autoencoder)

    def _paths(self, engine: Engine) -> list[Path]:
        names = ["", "_best"] if self.best.iteration == engine.state.iteration else [""]
        return [self.folder / f"model_{self.meta.role}{name}.pt" for name in names]


def _iteration_in(path: Path) -> int | None:
    """Return the iteration of exported weights: those of a finished run stay what other runs know them by."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["meta"]["iteration"])
    except Exception:  # absent, or torn in one of many ways: they are written anew
        return None
