"""The loss on the held-out fold, always with the same noise, and which weights had the lowest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.metrics import Loss
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys

from pig_monai.choosing import spread_evenly
from pig_monai.data.folder import Entry, heldout_entries
from pig_monai.diffusion.training import DiffusionLoss, Target
from pig_monai.training.batches import Seekable
from pig_monai.training.events import tell_figures
from pig_monai.training.interrupt import stopping

ITEMS = 64
"""Held-out images a validation: enough for a steady mean over the noise levels, a few seconds at most sizes."""


def validation_entries(dataset_dir: str | Path, fold: int, labelled_only: bool = True) -> list[Entry]:
    """Return 64 entries of the held-out fold, evenly spread; a smaller fold's come repeatedly, with other noise.

    Args:
        dataset_dir: the dataset folder.
        fold: held out; none for −1, which holds nothing out.
        labelled_only: slices with a lesion; False takes all slices, for nets that are not shown masks.

    Raises:
        PigError: see `pig_monai.data.folder.heldout_entries`.
    """
    entries = heldout_entries(dataset_dir, fold, labelled_only=labelled_only, lesion_free=not labelled_only)
    return spread_evenly(entries, ITEMS, repeated=True)


def mean_loss(loss: DiffusionLoss) -> Loss:
    """Return the metric: the mean of a training's loss over all images."""
    return Loss(
        loss,
        output_transform=lambda output: (output[CommonKeys.PRED], output[CommonKeys.LABEL]),
        batch_size=_batch_size,
    )


def _batch_size(target: Target) -> int:
    return len(target.timesteps)


class Best:
    """Which iteration had the lowest validation loss; a part of the state that a training resumes from."""

    def __init__(self) -> None:
        self.iteration: int | None = None
        self.loss = math.inf
        self.last: int | None = None  # the last iteration that was validated

    def tell(self, iteration: int, loss: float) -> None:
        """Take the validation loss of an iteration; one that is no number is never the lowest."""
        self.last = iteration
        if loss < self.loss:
            self.iteration, self.loss = iteration, loss

    def state_dict(self) -> dict[str, Any]:
        """Return the three values."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned."""
        vars(self).update(state_dict)


class Validation:
    """Measures ``validation_loss``, and its evaluator's other metrics, every so often and at the end.

    Timesteps and noise are those of iteration 0 of a stream of their own, so that two values differ by the weights
    alone.

    Args:
        evaluator: of the averaged weights, with the metric ``validation_loss``; without data nothing is measured.
        noise: the evaluator's batches; None where they have no noise.
        best: is told the losses.
        interval: iterations between two validations.
    """

    def __init__(self, evaluator: SupervisedEvaluator, noise: Seekable | None, best: Best, interval: int) -> None:
        self.evaluator = evaluator
        self.noise = noise
        self.best = best
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Listen for every ``interval`` iterations and for the end."""
        if self.evaluator.state.epoch_length:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)
            engine.add_event_handler(Events.COMPLETED, self._end)

    def _end(self, engine: Engine) -> None:
        if not stopping(engine):
            self(engine)

    def __call__(self, engine: Engine) -> None:
        """Measure, unless this iteration was measured already.

        One that is due is measured even if the training was asked to stop: resumed, it would not come by again.
        """
        iteration = engine.state.iteration
        if iteration == self.best.last:
            return
        if self.noise is not None:
            self.noise.iteration = 0
        self.evaluator.run(global_epoch=iteration)
        figures = {name: float(value) for name, value in self.evaluator.state.metrics.items()}
        self.best.tell(iteration, figures["validation_loss"])
        tell_figures(engine, figures)
