"""A training's figures: measured every few iterations, kept as a table and for TensorBoard."""

from __future__ import annotations

import csv
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from pig_monai.diffusion.training import DiffusionLoss
from pig_monai.files import write_text
from pig_monai.training.events import TrainingEvents, listen, measured, pictured, tell_figures

BANDS = 4
"""Bands of noise levels, each a quarter of the timesteps: a mean over all hides which of them is not learnt."""

COLUMNS = ("loss", "validation_loss", "learning_rate", "ema_distance", "images_per_second")


class Meter(ABC):
    """Measures, over every ``every`` iterations: losses, learning rate, EMA, throughput.

    ``ema_distance`` is ‖EMA − weights‖ / ‖weights‖. ``images_per_second`` leaves out the time that validation,
    previews and saving take. What losses there are a subclass knows.

    Args:
        network: in training.
        ema: its average.
        optimizer: holds the learning rate.
        every: iterations between two measurements.
    """

    def __init__(self, network: nn.Module, ema: AveragedModel, optimizer: Optimizer, every: int = 50) -> None:
        self.network = network
        self.ema = ema
        self.optimizer = optimizer
        self.every = every
        self.images = 0
        self.since = 0.0
        self.elapsed = 0.0

    @abstractmethod
    def note(self, output: Mapping[str, Any]) -> None:
        """Keep an iteration's losses, on their device."""

    @abstractmethod
    def losses(self) -> dict[str, float]:
        """Return the means of what was kept, by name, and forget it."""

    def attach(self, engine: Engine) -> None:
        """Listen for iterations."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self.since = time.perf_counter()

    def __call__(self, engine: Engine) -> None:
        """Note the iteration's losses; measure when it is time."""
        output: Any = engine.state.output
        self.note(output)
        self.images += len(output[CommonKeys.PRED])
        due = engine.state.iteration % self.every == 0
        figures = self.losses() if due else {}  # reading them waits for a GPU: the clock below is right
        self.elapsed += time.perf_counter() - self.since
        if due:
            figures["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
            figures["images_per_second"] = self.images / self.elapsed
            figures["ema_distance"] = weight_distance(self.ema.module, self.network)
            self.images, self.elapsed = 0, 0.0
            tell_figures(engine, figures)


class Measurements(Meter):
    """The `Meter` of a diffusion training: its loss, and that by noise level.

    ``loss_t0``, ``loss_t256``, … are the means over the images whose timestep lies in that quarter of [0, T), from
    the given one on.

    Args:
        network: in training.
        ema: its average.
        optimizer: holds the learning rate.
        num_train_timesteps: T.
        every: iterations between two measurements.
    """

    def __init__(
        self,
        network: nn.Module,
        ema: AveragedModel,
        optimizer: Optimizer,
        num_train_timesteps: int,
        every: int = 50,
    ) -> None:
        super().__init__(network, ema, optimizer, every)
        self.num_train_timesteps = num_train_timesteps
        self.kept: list[tuple[Tensor, Tensor]] = []

    def note(self, output: Mapping[str, Any]) -> None:
        """Keep each image's loss with its timestep."""
        target = output[CommonKeys.LABEL]
        self.kept.append((DiffusionLoss.per_image(output[CommonKeys.PRED].detach(), target), target.timesteps))

    def losses(self) -> dict[str, float]:
        """Return the mean loss, and that of each quarter of the timesteps of which there were images."""
        losses, timesteps = (torch.cat(parts).cpu() for parts in zip(*self.kept, strict=True))
        self.kept = []
        figures = {"loss": float(losses.mean())}
        band = timesteps * BANDS // self.num_train_timesteps
        for number in range(BANDS):
            if (band == number).any():
                figures[band_name(number, self.num_train_timesteps)] = float(losses[band == number].mean())
        return figures


def band_name(number: int, num_train_timesteps: int) -> str:
    """Return the name of a band's loss, after the first timestep in it: ``loss_t256``."""
    return f"loss_t{-(-number * num_train_timesteps // BANDS)}"


@torch.no_grad()
def weight_distance(one: nn.Module, other: nn.Module) -> float:
    """Return ‖one − other‖ / ‖other‖ over all parameters of two networks of the same kind."""
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    apart = torch.stack([(ours - theirs).square().sum() for ours, theirs in pairs]).sum()
    length = torch.stack([theirs.square().sum() for _, theirs in pairs]).sum()
    return float((apart / length).sqrt())


class MetricsTable:
    """Keeps ``metrics.csv``: a row an iteration at which something was measured.

    Args:
        path: of the csv file.
        num_train_timesteps: T of a diffusion training, for the names of the losses by noise level.
        more: names of figures that this kind of training has beside `COLUMNS`.
    """

    def __init__(self, path: str | Path, num_train_timesteps: int | None = None, more: Sequence[str] = ()) -> None:
        self.path = Path(path)
        by_level = [] if num_train_timesteps is None else [band_name(n, num_train_timesteps) for n in range(BANDS)]
        self.columns = ["iteration", *COLUMNS, *by_level, *more]
        self.rows: dict[int, dict[str, str]] = {}

    def attach(self, engine: Engine) -> None:
        """Listen for the start and for figures."""
        engine.add_event_handler(Events.STARTED, self._start)
        listen(engine, TrainingEvents.MEASURED, self)

    def _start(self, engine: Engine) -> None:
        if self.path.exists():  # a resumed training repeats what came after its last saved state
            rows = list(csv.DictReader(self.path.read_text(encoding="utf-8").splitlines()))
            self.rows = {n: row for row in rows if (n := int(row["iteration"])) <= engine.state.iteration}

    def __call__(self, engine: Engine) -> None:
        """Add the figures to this iteration's row."""
        iteration = engine.state.iteration
        figures = {name: f"{value:.6g}" for name, value in measured(engine).items()}
        self.rows[iteration] = {**self.rows.get(iteration, {}), "iteration": str(iteration), **figures}
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows.values())
        write_text(self.path, text.getvalue())


class TensorBoard:
    """Hands figures and pictures to TensorBoard (``tensorboard --logdir RUN``).

    Args:
        folder: for the event files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def attach(self, engine: Engine) -> None:
        """Listen for start, figures, pictures and end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._end)
        listen(engine, TrainingEvents.MEASURED, self._figures)
        listen(engine, TrainingEvents.PICTURED, self._picture)

    def _start(self, engine: Engine) -> None:
        # what a killed run noted after its last saved state is noted again
        self.writer = SummaryWriter(str(self.folder), purge_step=engine.state.iteration + 1)

    def _figures(self, engine: Engine) -> None:
        for name, value in measured(engine).items():
            self.writer.add_scalar(name, value, engine.state.iteration)
        self.writer.flush()

    def _picture(self, engine: Engine) -> None:
        pixels = np.asarray(pictured(engine).convert("RGB"))
        self.writer.add_image("preview", pixels, engine.state.iteration, dataformats="HWC")
        self.writer.flush()

    def _end(self, engine: Engine) -> None:
        self.writer.close()
