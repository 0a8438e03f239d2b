"""Noise that depends on what it is for, and on nothing else.

The noise of pair i comes from (seed, i), that of training iteration n from (seed, n), each from a stream of its
own. A pair is then the same in any batch, and a resumed training draws what the uninterrupted one would have
drawn. Noise is drawn on the CPU, so that it is the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What noise is for: without it, pair i would start from the noise that training iteration i has shown."""

    PAIR = 1
    TRAINING = 2
    ORDER = 3
    VALIDATION = 4
    PREVIEW = 5


def seeded_generator(purpose: Purpose, seed: int, number: int) -> torch.Generator:
    """Return a CPU generator for one draw of a stream.

    Args:
        purpose: which stream.
        seed: of the run, ≥ 0.
        number: of the pair, iteration or epoch, ≥ 0.
    """
    state = np.random.SeedSequence((purpose, seed, number)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))  # a signed 64-bit seed


class PairNoise:
    """The noise streams of a batch of pairs, one generator a pair.

    Args:
        seed: of the run, ≥ 0.
        indices: of the pairs in the batch, ≥ 0.
        device: where the noise is needed.
        purpose: what the pairs are for.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], device: torch.device | str, purpose: Purpose = Purpose.PAIR
    ) -> None:
        self.generators = [seeded_generator(purpose, seed, index) for index in indices]
        self.device = device

    def draw(self, *shape: int) -> Tensor:
        """Return the next (B, *shape) standard normal float32."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def __call__(self, like: Tensor) -> Tensor:
        """Return the next noise of the shape of ``like`` (B, …): what solvers that add noise call."""
        return self.draw(*like.shape[1:])
