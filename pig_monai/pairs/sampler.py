"""Draws candidate pairs from the checkpoints of their networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pig_monai.checkpoint import versions
from pig_monai.denoisers import LoadedDenoiser
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import Denoiser, OnStep, Predictor, sample_pairs
from pig_monai.diffusion.solvers import Estimate, find_solver
from pig_monai.pairs.wishes import check_guidance, takes_spacing, wished_spacing


@dataclass(frozen=True)
class Candidate:
    """A drawn pair, not yet judged.

    Args:
        index: of the pair; with the seed it decides the pair.
        mask: bool (W, H); None for a slice that was made without one.
        image: the slice, float32 (W, H) in [−1, 1].
        source: of a given mask: the patient it was drawn for, and its file's name.
    """

    index: int
    mask: np.ndarray | None
    image: np.ndarray
    source: dict[str, str] | None = None


class Sampler(ABC):
    """Samples pairs by index; pair i depends on (seed, i) and the settings, not on its batch.

    Args:
        generator: model_y.
        solver: ``ddim``, ``ddpm`` or ``dpmpp_2m``.
        num_inference_steps: None for the solver's default (256, all, 25).
        guidance: of the generator (see `Denoiser`).
        spacing: (x, y), mm a pixel wished for, for a generator that is told it; None: its training set's median.
        seed: ≥ 0.
        device: where to sample.

    Raises:
        PigError: an unknown solver, a number of steps outside 2 … T, or a wish that the generator cannot hear.
    """

    things = "pairs"
    """What users are told that it makes."""

    has_masks = True
    """Whether its slices come with masks, generated or given."""

    def __init__(
        self,
        generator: LoadedDenoiser,
        solver: str = "dpmpp_2m",
        num_inference_steps: int | None = None,
        guidance: float = 1.0,
        spacing: Sequence[float] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spacing = wished_spacing(generator, spacing)
        told = torch.tensor(self.spacing or (0.0, 0.0)) if takes_spacing(generator) else None
        check_guidance(generator, guidance)
        self.generator = generator
        self.predict_slice: Denoiser = replace(generator.denoiser, spacing=told, guidance=float(guidance))
        self.space = generator.space
        self.solver_name = solver
        self.solver = find_solver(solver)
        self.schedule = generator.denoiser.schedule
        self.grid = self.solver.timesteps(self.schedule, num_inference_steps)
        self.seed = seed
        self.device = device
        self.image_size = int(generator.meta["image_size"])

    @property
    def networks(self) -> tuple[LoadedDenoiser, ...]:
        """The networks that take part."""
        return (self.generator,)

    @property
    def provenance(self) -> dict[str, Any]:
        """What decides a pair besides its index: plain values, for the datalist."""
        return {
            "seed": self.seed,
            **{f"{network.meta['role']}_sha256": network.sha256 for network in self.networks},
            "generator_fold": self.generator.meta["fold"],
            "solver": self.solver_name,
            "steps": len(self.grid),
            "clamp": self.generator.denoiser.clamp,
            "guidance": self.predict_slice.guidance,
            "spacing": self.spacing,
            "amp": self.generator.denoiser.amp,
            "versions": versions(),
        }

    @property
    def generators(self) -> dict[str, dict[str, Any]]:
        """What the generator was trained on, by the SHA-256 of its weights; of a guider it is the same.

        It follows from the weights, so it is no setting of a run: folders begun without it are continued.
        """
        meta = self.generator.meta
        return {self.generator.sha256: {key: meta[key] for key in ("data", "patients") if key in meta}}

    @property
    def num_steps(self) -> int:
        """How often `draw` calls ``on_step`` for a batch."""
        return len(self.grid)

    @property
    def exact(self) -> bool:
        """Whether a pair has the same bits in any batch (see `Denoiser`)."""
        return all(network.denoiser.one_at_a_time for network in self.networks)

    def draw(
        self, indices: Sequence[int], on_step: OnStep | None = None, steps: int | None = None
    ) -> list[Candidate]:
        """Sample the pairs of these indices in one batch.

        Args:
            indices: ≥ 0.
            on_step: is told the estimates of each step, as the networks see them.
            steps: of a walk; stop after so many, to see what a step costs; None walks the whole grid.
        """
        noise = PairNoise(self.seed, indices, self.device)
        with _one_thread() if self.exact else nullcontext():
            x0, y0 = self._sample(indices, noise, on_step, steps)
            slices = self.space.decode_slices(y0).float().cpu().numpy()[:, 0]
        return [
            Candidate(i, mask, image, self._source(i))
            for i, mask, image in zip(indices, self._masks(x0), slices, strict=True)
        ]

    def _masks(self, x0: Tensor) -> Sequence[np.ndarray | None]:
        """Return the masks (W, H) by an absolute rule: where no mass was generated, none appears."""
        return list((self.space.decode_masks(x0) > 0).cpu().numpy()[:, 0])

    @abstractmethod
    def _sample(
        self, indices: Sequence[int], noise: PairNoise, on_step: OnStep | None, steps: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return masks and slices as the networks see them: (B, C, …) in the sampler's space."""

    def _source(self, index: int) -> dict[str, str] | None:
        return None

    def _first_noise(self, noise: PairNoise) -> tuple[Tensor, Tensor]:
        """Return x_T and y_T, drawn in this order."""
        side = self.image_size // self.space.factor
        x_T = noise.draw(self.space.mask_channels, side, side)
        return x_T, noise.draw(self.space.slice_channels, side, side)

    def _walk(
        self,
        predict_mask: Predictor,
        predict_slice: Predictor,
        x_T: Tensor,
        y_T: Tensor,
        noise: PairNoise,
        on_step: OnStep | None,
        steps: int | None,
        condition: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        return sample_pairs(
            predict_mask,
            predict_slice,
            self.schedule,
            self.grid[:steps],
            self.solver.step,
            x_T,
            y_T,
            draw=noise,
            condition=condition,
            on_step=on_step,
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: convolutions share their sums out by the number of threads, and differ in bits."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def decoded(sampler: Sampler, mask: Estimate, slice_: Estimate) -> tuple[np.ndarray, np.ndarray]:
    """Return the first pair of two estimates as pictures, float32 (W, H): what a film strip shows."""
    x0 = sampler.space.decode_masks(mask.x0[:1])
    y0 = sampler.space.decode_slices(slice_.x0[:1])
    return x0[0, 0].float().cpu().numpy(), y0[0, 0].float().cpu().numpy()
