"""Toy networks as if they came from checkpoints, and what the networks were shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pig_monai.denoisers import LoadedDenoiser
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.schedule import NoiseSchedule, Schedule
from pig_monai.diffusion.solvers import Estimate
from pig_monai.spaces import PixelSpace, Space

SCHEDULE = NoiseSchedule()
SIZE = 8


def loaded(
    role: str, net: nn.Module, space: Space | None = None, blind: bool = False, **more: Any
) -> LoadedDenoiser:
    """A network with the meta that a training would have written; ``more`` is its settings and its meta's keys.

    A blind guider does not see the slice.
    """
    spec = {"name": "concat", "arguments": {"condition_channels": 0 if blind else 1}}
    space = space or PixelSpace()
    schedule: Schedule = more.pop("schedule", SCHEDULE)
    clamp, prediction = space.bounded or role == "guider", more.pop("prediction", "v")
    settings = {key: more.pop(key) for key in ("condition", "mask_dropout", "base_sha256") if key in more}
    meta = {
        "role": role, "network": getattr(net, "spec", spec),
        "schedule": schedule.to_dict(), "image_size": SIZE, "preprocessing": {"size": SIZE}, "fold": 0,
        "data": "d" * 64, "space": space.to_dict(), "spacing": [0.5, 0.25], "origin": ["phantom"],
        "iteration": 7, "settings": settings, **more,
    }  # fmt: skip
    one_at_a_time = meta.pop("one_at_a_time", False)
    denoiser = Denoiser(net, schedule, prediction, clamp=clamp, one_at_a_time=one_at_a_time)
    return LoadedDenoiser(denoiser, meta, role[:5].ljust(64, "0"), space)


class Mix(nn.Module):
    """A v-network whose output is a fixed mix of its image and its condition; it keeps what it was shown."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.noisy: list[Tensor] = []
        self.conditions: list[Tensor] = []
        self.spacings: list[Tensor | None] = []

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, spacing: Tensor | None) -> Tensor:
        self.noisy.append(noisy)
        self.conditions.append(condition)
        self.spacings.append(spacing)
        return self.a * noisy + self.b * condition.mean(dim=1, keepdim=True)


class Knows(nn.Module):
    """A perfect v-network of given clean images (N, C, W, H), one for each pair of a batch."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = x0
        self.conditions: list[Tensor] = []

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, spacing: Tensor | None) -> Tensor:
        self.conditions.append(condition)
        alpha, sigma = SCHEDULE.scales(timesteps.cpu(), noisy)
        return (alpha * noisy - self.x0[: len(noisy)]) / sigma


def first_noise(seed: int, indices: list[int], *channels: int, side: int = SIZE) -> list[Tensor]:
    """The noise that each stream starts from: the mask's channels first, then the slice's."""
    noise = PairNoise(seed, indices, "cpu")
    return [noise.draw(count, side, side) for count in channels]


def from_noise(network: nn.Module, x: Tensor, condition: Tensor, grid: Any, step: Any) -> Tensor:
    """The plain reverse process of one stream with a fixed condition, estimates kept in [−1, 1]."""
    before: tuple[int, Estimate] | None = None
    for t, t_next in grid:
        alpha, sigma = SCHEDULE.scales(t, x)
        v = network(x, torch.full((len(x),), t), condition, None)
        x0 = (alpha * x - sigma * v).clamp(-1, 1)
        now = Estimate(x0, (x - alpha * x0) / sigma)
        x = step(SCHEDULE, x, now, t, t_next, before, None)
        before = (t, now)
    return x
