"""Ways to draw: the paper's pairs in lockstep, its rivals, and slices for masks that are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pig_monai.denoisers import LoadedDenoiser, check_pair, load_denoiser
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import KnownImage, OnStep, binarise, sample_jointly
from pig_monai.diffusion.solvers import Estimate
from pig_monai.diffusion.training import masks_to_diffusion
from pig_monai.errors import PigError
from pig_monai.pairs.given_masks import GivenMasks
from pig_monai.pairs.sampler import Sampler


def pair_sampler(guider: LoadedDenoiser | None, generator: LoadedDenoiser, **settings: Any) -> Sampler:
    """Return the way to draw that two networks were trained for.

    Args:
        guider: model_x; one that does not see the slice makes the whole mask first. None with a joint generator.
        generator: model_y, or the one net of mask and slice.
        **settings: of `PairSampler`.

    Raises:
        PigError: see the samplers.
    """
    if trained_condition(generator) == "joint":
        if guider is not None:
            raise PigError("guider_ckpt is set and the generator makes the masks itself", "leave guider_ckpt out")
        _check_not_binarised(settings.pop("binarised_condition", False), "is shown no mask")
        return JointSampler(generator, **settings)
    if guider is None:
        raise PigError("guider_ckpt is not set", "name the guider's weights")
    if sees_slice(guider):
        return PairSampler(guider, generator, **settings)
    _check_not_binarised(settings.get("binarised_condition", False), "is shown finished masks, which are binary")
    return TwoStepSampler(guider, generator, **settings)


def find_guider(
    guider_ckpt: str | Path | None, default: str | Path, generator: LoadedDenoiser, **settings: Any
) -> LoadedDenoiser | None:
    """Load the guider that ``infer_pairs`` was given; the default one is not for a joint generator.

    Args:
        guider_ckpt: weights or run folder; None for none.
        default: what ``guider_ckpt`` is where the user did not set it.
        generator: model_y, or the one net of mask and slice.
        **settings: of `load_denoiser`.

    Raises:
        PigError: see `load_denoiser`.
    """
    unasked = trained_condition(generator) == "joint" and str(guider_ckpt) == str(default)
    return None if guider_ckpt is None or unasked else load_denoiser(guider_ckpt, "guider", **settings)


def _check_not_binarised(binarised_condition: bool, why: str) -> None:
    if binarised_condition:
        raise PigError(f"binarised_condition is true and the generator {why}", "give binarised_condition false")


def slice_sampler(generator: LoadedDenoiser, masks: GivenMasks | None, **settings: Any) -> Sampler:
    """Return the way to draw slices with a generator alone, with or without masks.

    Args:
        generator: model_y.
        masks: what it is shown; None for an unconditional one.
        **settings: of `Sampler`.

    Raises:
        PigError: see the samplers.
    """
    if masks is None:
        return UnconditionalSampler(generator, **settings)
    return GivenMaskSampler(generator, masks, **settings)


def trained_condition(generator: LoadedDenoiser) -> str:
    """Return what a generator was shown in training: ``mask``, ``guider``, ``none`` or ``joint``."""
    return str(generator.meta.get("settings", {}).get("condition", "mask"))


def sees_slice(guider: LoadedDenoiser) -> bool:
    """Whether a guider is shown the slice: one that is not is a plain mask diffusion."""
    return bool(guider.meta["network"]["arguments"]["condition_channels"])


def check_condition(generator: LoadedDenoiser, fitting: Sequence[str], use: str) -> None:
    """Refuse a generator that was trained for another use.

    Raises:
        PigError: names what it was trained for.
    """
    found = trained_condition(generator)
    if found not in fitting:
        raise PigError(
            f"the generator was trained with condition {found}, which {use} cannot use",
            f"name one trained with condition {' or '.join(fitting)}",
        )


class PairSampler(Sampler):
    """Algorithm 2: guider and generator in lockstep.

    Args:
        guider: model_x, trained for the same slices as the generator.
        generator: model_y.
        binarised_condition: show the generator x̂₀ made binary, as the authors do, rather than as it is.
        **settings: the other arguments of `Sampler`.

    Raises:
        PigError: see `Sampler`; or networks that do not fit each other.
    """

    def __init__(
        self, guider: LoadedDenoiser, generator: LoadedDenoiser, binarised_condition: bool = False, **settings: Any
    ) -> None:
        check_pair(guider.meta, generator.meta)
        check_condition(generator, ("mask", "guider"), "infer_pairs")
        super().__init__(generator, **settings)
        self.guider = guider
        self.binarised_condition = binarised_condition

    @property
    def networks(self) -> tuple[LoadedDenoiser, ...]:
        """Guider and generator."""
        return (self.guider, self.generator)

    @property
    def provenance(self) -> dict[str, Any]:
        """See `Sampler`."""
        told = {**super().provenance, "binarised_condition": self.binarised_condition}
        if not self.space.bounded:  # ``clamp`` is then False whatever was asked for, and the guider's own
            told["guider_clamp"] = self.guider.denoiser.clamp
        return told

    def _sample(
        self, indices: Sequence[int], noise: PairNoise, on_step: OnStep | None, steps: int | None
    ) -> tuple[Tensor, Tensor]:
        x_T, y_T = self._first_noise(noise)
        condition = self._binarise if self.binarised_condition else None
        return self._walk(self.guider.denoiser, self.predict_slice, x_T, y_T, noise, on_step, steps, condition)

    def _binarise(self, x0: Tensor) -> Tensor:
        return self.space.encode_masks(binarise(self.space.decode_masks(x0)))


class TwoStepSampler(PairSampler):
    """The rival that GenSeg reports to win: a mask diffusion first, then a slice for the finished mask.

    ``on_step`` is told the steps of both walks, counted through. Arguments as of `PairSampler`; the guider does
    not see the slice.
    """

    @property
    def num_steps(self) -> int:
        """See `Sampler`: the mask's walk, and the slice's."""
        return 2 * super().num_steps

    def _sample(
        self, indices: Sequence[int], noise: PairNoise, on_step: OnStep | None, steps: int | None
    ) -> tuple[Tensor, Tensor]:
        x_T, y_T = self._first_noise(noise)
        unseen = KnownImage(torch.zeros_like(y_T), self.schedule)
        x0, _ = self._walk(self.guider.denoiser, unseen, x_T, torch.zeros_like(y_T), noise, on_step, steps)
        finished = torch.where(x0 > 0, 1.0, -1.0)

        def then(index: int, mask: Estimate, slice_: Estimate) -> None:
            if on_step is not None:
                on_step(len(self.grid) + index, mask, slice_)

        return self._walk(KnownImage(finished, self.schedule), self.predict_slice, x_T, y_T, noise, then, steps)


class JointSampler(Sampler):
    """The rival without guidance: one net denoises mask and slice as channels of one image.

    Arguments as of `Sampler`; the generator was trained with condition ``joint``.
    """

    def _sample(
        self, indices: Sequence[int], noise: PairNoise, on_step: OnStep | None, steps: int | None
    ) -> tuple[Tensor, Tensor]:
        x_T, y_T = self._first_noise(noise)
        return sample_jointly(
            self.predict_slice, self.schedule, self.grid[:steps], self.solver.step, x_T, y_T, noise, on_step
        )


class UnconditionalSampler(Sampler):
    """DDPM, DDIM: slices alone, without masks.

    Arguments as of `Sampler`; the generator was trained with condition ``none``.
    """

    things = "slices"
    has_masks = False

    def __init__(self, generator: LoadedDenoiser, **settings: Any) -> None:
        check_condition(generator, ("none",), "infer_slices without masks")
        super().__init__(generator, **settings)

    def _sample(
        self, indices: Sequence[int], noise: PairNoise, on_step: OnStep | None, steps: int | None
    ) -> tuple[Tensor, Tensor]:
        x_T, y_T = self._first_noise(noise)
        nothing = torch.zeros_like(x_T)
        return self._walk(
            KnownImage(nothing, self.schedule), self.predict_slice, nothing, y_T, noise, on_step, steps
        )

    def _masks(self, x0: Tensor) -> Sequence[np.ndarray | None]:
        return [None] * len(x0)


class GivenMaskSampler(Sampler):
    """The generator alone: slices for given masks.

    Args:
        generator: model_y.
        masks: at the generator's image size, by a pair's index.
        **settings: the other arguments of `Sampler`.
    """

    things = "slices"

    def __init__(
        self,
        generator: LoadedDenoiser,
        masks: GivenMasks,
        **settings: Any,
    ) -> None:
        check_condition(generator, ("mask", "guider"), "infer_slices with masks")
        super().__init__(generator, **settings)
        self.given = masks

    @property
    def provenance(self) -> dict[str, Any]:
        """See `Sampler`; and which masks were given."""
        return {**super().provenance, "masks": self.given.fingerprint}

    def _sample(
        self, indices: Sequence[int], noise: PairNoise, on_step: OnStep | None, steps: int | None
    ) -> tuple[Tensor, Tensor]:
        label = torch.stack([self.given.label(index) for index in indices]).to(self.device)
        mask = self.space.encode_masks(masks_to_diffusion(label))
        x_T, y_T = self._first_noise(noise)
        return self._walk(KnownImage(mask, self.schedule), self.predict_slice, x_T, y_T, noise, on_step, steps)

    def _source(self, index: int) -> dict[str, str]:
        return self.given.source(index)
