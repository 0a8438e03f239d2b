"""The moving average of the weights, and the learning rate over a training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from pig_monai.errors import PigError

WARM_UP_ITERATIONS = 100

Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_decay_at(update: int, decay: float) -> float:
    """Return min(decay, (1 + n) / (10 + n)): without this warm-up a short run would keep its first weights."""
    return min(decay, (1 + update) / (10 + update))


def exponential_moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return an average of the network's weights, to be told of every optimiser step.

    Args:
        network: the network in training; the average starts from its present weights.
        decay: in [0, 1); 0 keeps the latest weights (no averaging).

    Raises:
        PigError: a decay outside its range.
    """
    if not 0 <= decay < 1:
        raise PigError(f"ema_decay is {decay}", "give 0 (none) up to, but not including, 1")

    count: int | None = None

    @torch.no_grad()
    def average(ema: Tensors, latest: Tensors, updates: Tensor | int) -> None:
        nonlocal count
        count = int(updates) if count is None else count + 1  # reading it every time would make a GPU wait
        torch._foreach_lerp_(ema, latest, 1 - ema_decay_at(count, decay))

    def forget(module: nn.Module, keys: Any) -> None:
        nonlocal count
        count = None

    averaged = AveragedModel(network, multi_avg_fn=average)
    averaged.register_load_state_dict_post_hook(forget)
    return averaged


class EpochPlateau(ReduceLROnPlateau):
    """The authors' schedule: × 1/4 when an epoch's mean training loss has not improved for 4 epochs.

    Is told every iteration's loss; the losses of the epoch so far are part of its state.

    Args:
        optimizer: holds the learning rate.
        epoch_length: iterations an epoch.
        start: iterations whose losses do not count.
    """

    def __init__(self, optimizer: Optimizer, epoch_length: int, start: int = 0) -> None:
        super().__init__(optimizer, factor=0.25, patience=4)
        self.epoch_length = epoch_length
        self.waiting = start
        self.losses: list[float] = []

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Note the loss of an iteration; step at the end of the epoch."""
        if self.waiting:
            self.waiting -= 1
            return
        self.losses.append(float(metrics))
        if len(self.losses) == self.epoch_length:
            super().step(sum(self.losses) / self.epoch_length)
            self.losses.clear()


def learning_rate_schedule(
    optimizer: Optimizer, kind: str, max_iterations: int, epoch_length: int, start: int = 0
) -> LambdaLR | EpochPlateau:
    """Return the learning rate's schedule, to be stepped after every iteration (`EpochPlateau` with its loss).

    Args:
        optimizer: holds the peak learning rate.
        kind: ``constant``; ``cosine`` (100 iterations of warm-up, then a cosine to 0 at ``max_iterations``); or
            ``plateau`` (`EpochPlateau`).
        max_iterations: where the cosine ends.
        epoch_length: iterations an epoch.
        start: iterations before the schedule begins; it is stepped in them, too, so that its state counts them.

    Raises:
        PigError: an unknown kind.
    """
    if kind == "plateau":
        return EpochPlateau(optimizer, epoch_length, start)
    if kind == "constant":
        return LambdaLR(optimizer, lambda iteration: 1.0)
    if kind == "cosine":

        def factor(iteration: int) -> float:
            done, whole = max(0, iteration - start), max(1, max_iterations - start)
            warm = min(1.0, (done + 1) / WARM_UP_ITERATIONS)
            return warm * (1 + math.cos(math.pi * min(1.0, done / whole))) / 2

        return LambdaLR(optimizer, factor)
    raise PigError(f"lr_schedule is {kind!r}", "give constant, cosine or plateau")
