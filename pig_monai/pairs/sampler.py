"""Draws candidate pairs from a guider's and a generator's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pig_monai.checkpoint import LoadedDenoiser, check_pair, versions
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import OnStep, binarise, sample_pairs
from pig_monai.diffusion.solvers import find_solver


@dataclass(frozen=True)
class Candidate:
    """A drawn pair, not yet judged.

    Args:
        index: of the pair; with the seed it decides the pair.
        mask: bool (W, H).
        image: the slice, float32 (W, H) in [−1, 1].
    """

    index: int
    mask: np.ndarray
    image: np.ndarray


class PairSampler:
    """Samples pairs by index; pair i depends on (seed, i) and the settings, not on its batch.

    Args:
        guider: model_x.
        generator: model_y, trained for the same slices.
        solver: ``ddim``, ``ddpm`` or ``dpmpp_2m``.
        num_inference_steps: None for the solver's default (256, all, 25).
        binarised_condition: show the generator x̂₀ made binary, as the authors do, rather than as it is.
        seed: ≥ 0.
        device: where to sample.

    Raises:
        PigError: networks that do not fit each other, an unknown solver, a number of steps outside 2 … T.
    """

    def __init__(
        self,
        guider: LoadedDenoiser,
        generator: LoadedDenoiser,
        solver: str = "dpmpp_2m",
        num_inference_steps: int | None = None,
        binarised_condition: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_pair(guider.meta, generator.meta)
        self.guider = guider
        self.generator = generator
        self.solver_name = solver
        self.solver = find_solver(solver)
        self.schedule = generator.denoiser.schedule
        self.grid = self.solver.timesteps(self.schedule, num_inference_steps)
        self.binarised_condition = binarised_condition
        self.seed = seed
        self.device = device
        self.image_size = int(generator.meta["image_size"])

    @property
    def provenance(self) -> dict[str, Any]:
        """What decides a pair besides its index: plain values, for the datalist."""
        return {
            "seed": self.seed,
            "guider_sha256": self.guider.sha256,
            "generator_sha256": self.generator.sha256,
            "generator_fold": self.generator.meta["fold"],
            "solver": self.solver_name,
            "steps": len(self.grid),
            "clamp": self.generator.denoiser.clamp,
            "binarised_condition": self.binarised_condition,
            "amp": self.generator.denoiser.amp,
            "versions": versions(),
        }

    @property
    def exact(self) -> bool:
        """Whether a pair has the same bits in any batch (see `Denoiser`)."""
        return self.guider.denoiser.one_at_a_time and self.generator.denoiser.one_at_a_time

    def draw(
        self, indices: Sequence[int], on_step: OnStep | None = None, steps: int | None = None
    ) -> list[Candidate]:
        """Sample the pairs of these indices in one batch.

        Args:
            indices: ≥ 0.
            on_step: is told the estimates of each step.
            steps: stop after so many, to see what a step costs; None walks the whole grid.
        """
        shape = (1, self.image_size, self.image_size)
        noise = PairNoise(self.seed, indices, shape, self.device)
        x_T, y_T = noise(), noise()
        with _one_thread() if self.exact else nullcontext():
            x0, y0 = sample_pairs(
                self.guider.denoiser,
                self.generator.denoiser,
                self.schedule,
                self.grid[:steps],
                self.solver.step,
                x_T,
                y_T,
                draw=noise,
                condition=binarise if self.binarised_condition else None,
                on_step=on_step,
            )
        # Binary by an absolute rule, halfway between −1 and +1: where no mass was generated, none appears.
        masks = (x0 > 0).cpu().numpy()[:, 0]
        slices = y0.clamp(-1, 1).float().cpu().numpy()[:, 0]
        return [Candidate(i, m, s) for i, m, s in zip(indices, masks, slices, strict=True)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: convolutions share their sums out by the number of threads, and differ in bits."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)
