"""An endless, seekable stream of shuffled batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch.utils.data import Sampler

from pig_monai.diffusion.noise import Purpose, seeded_generator


class Seekable(Protocol):
    """A stream whose n-th draw depends on n alone."""

    iteration: int


class ShuffledBatches(Sampler[list[int]]):
    """Batches cut from permutations laid end to end; permutation e depends on (seed, e) alone.

    Every batch is full, also where the data set is smaller than a batch, and batch n can be found without
    walking to it: a resumed training goes on with the very batch that the stopped one would have drawn.

    Args:
        num_items: size of the data set, at least 1.
        batch_size: items a batch.
        seed: of the order, ≥ 0.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int = 0) -> None:
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.iteration = 0  # of the next batch; a resumed training sets it

    def __len__(self) -> int:
        """Return the number of batches that show every item once: an epoch."""
        return math.ceil(self.num_items / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches without end, from ``iteration`` on."""
        position = self.iteration * self.batch_size
        epoch = position // self.num_items
        pending = self._permutation(epoch)[position % self.num_items :]
        while True:
            while len(pending) < self.batch_size:
                epoch += 1
                pending = pending + self._permutation(epoch)
            yield pending[: self.batch_size]
            pending = pending[self.batch_size :]

    def _permutation(self, epoch: int) -> list[int]:
        order = torch.randperm(self.num_items, generator=seeded_generator(Purpose.ORDER, self.seed, epoch))
        return [int(i) for i in order]
