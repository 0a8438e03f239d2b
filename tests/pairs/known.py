"""A sampler whose candidates are known: every third mask is empty, the others are two pixels in a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pig_monai.diffusion.solvers import Estimate
from pig_monai.pairs.generate import PairsJob, generate_pairs
from pig_monai.pairs.rejection import Limits
from pig_monai.pairs.sampler import Candidate
from pig_monai.spaces import PixelSpace

NO_LIMITS = Limits(min_mask_area=0, max_mask_area=1, max_components=64, min_inside_breast=0)

SIZE = 8


class KnownSampler:
    things, has_masks = "pairs", True

    def __init__(self, every: int = 3) -> None:
        self.every = every
        self.seed, self.image_size, self.grid, self.device = 5, SIZE, [(1, 0), (0, -1)], "cpu"
        self.provenance = {"seed": 5}
        self.generators = {"g": {"data": "d", "patients": ["p"]}}
        self.spacing, self.space = [0.5, 0.25], PixelSpace()
        meta = {"preprocessing": {"size": 512}, "origin": ["phantom"]}
        self.generator = SimpleNamespace(meta=meta)
        self.drawn: list[int] = []

    @property
    def num_steps(self) -> int:
        return len(self.grid)

    def draw(self, indices: Sequence[int], on_step: Any = None, steps: int | None = None) -> list[Candidate]:
        self.drawn += indices
        for step in range(len(self.grid[:steps])):
            if on_step is not None:
                x0 = torch.full((1, 1, SIZE, SIZE), indices[0] / 100)
                on_step(step, Estimate(x0, x0), Estimate(x0, x0))
        return [self.candidate(index) for index in indices]

    def candidate(self, index: int) -> Candidate:
        mask = np.zeros((SIZE, SIZE), bool)
        mask[index % SIZE, 2:4] = index % self.every != 0
        return Candidate(index, mask, np.full((SIZE, SIZE), index / 100, np.float32))


def generate(sampler: Any, folder: Path, limits: Limits = NO_LIMITS, **ids: Any) -> None:
    generate_pairs(sampler, PairsJob(folder, limits, **ids))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a finished folder by its name; the lock goes when the process that wrote it ends."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}
