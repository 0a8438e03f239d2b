"""Algorithm 1: what a training step shows the guider and the generator, and what it asks of them.

Both are MONAI `PrepareBatch` callables for `SupervisedTrainer`: they turn a batch of clean (mask, slice) pairs
into the network's inputs and targets. The noise of iteration n depends on (seed, n) alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import torch
from monai.engines import PrepareBatch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn import functional as F

from pig_monai.diffusion.noise import Purpose, seeded_generator
from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.schedule import Prediction, Schedule, check_prediction
from pig_monai.errors import PigError


class Target(NamedTuple):
    """What a training step asks of the network.

    Args:
        value: ε, v, the sample or the flow, (B, C, W, H).
        weight: of each pixel's squared error, broadcast to it; None weighs all alike.
        timesteps: (B,), the noise levels that the batch was shown.
    """

    value: Tensor
    weight: Tensor | None
    timesteps: Tensor


PreparedBatch = tuple[Tensor, Target, tuple[()], dict[str, Tensor | None]]
"""(noisy image, target, no more positional inputs, {"timesteps", "condition", "spacing"})."""


def antithetic_timesteps(batch_size: int, T: int, generator: torch.Generator) -> Tensor:
    """Return (B,) timesteps, uniform in {0 … T − 1}: t for one half of the batch, T − 1 − t for the other.

    Every batch then holds as much of the noisy as of the clean end, which steadies the loss.
    """
    t = torch.randint(T, ((batch_size + 1) // 2,), generator=generator)
    return torch.cat([t, T - 1 - t])[:batch_size]


def masks_to_diffusion(label: Tensor) -> Tensor:
    """Map masks from 0 / 1, as they are stored, to −1 / +1, as they are diffused."""
    return label * 2 - 1


class _DiffusionBatch(PrepareBatch):
    """Draws t, ε₁ and ε₂ and noises both images (Algorithm 1, lines 2 to 4).

    A batch is ``{"image": slices −1 … 1 or their latents (B, C, W, H), "label": masks 0 / 1 (B, C', W, H)}``,
    with ``"labelled"`` (B,) where some masks are unknown and ``"spacing"`` (B, 2) where the networks ask for it.
    """

    def __init__(self, schedule: Schedule, prediction: Prediction = "epsilon", seed: int = 0) -> None:
        check_prediction(prediction, schedule)
        self.schedule = schedule
        self.prediction = prediction
        self.seed = seed
        self.purpose = Purpose.TRAINING
        self.iteration = 0  # of the next batch; a resumed training sets it

    def for_validation(self) -> Self:
        """Return a twin whose noise has nothing to do with the training's; set its ``iteration`` to repeat it."""
        twin = copy.copy(self)
        twin.purpose = Purpose.VALIDATION
        twin.iteration = 0
        return twin

    def _noisy_pair(self, batch: Mapping[str, Tensor], device: Any) -> dict[str, Tensor]:
        x0 = masks_to_diffusion(batch["label"])
        y0 = batch["image"]
        generator = seeded_generator(self.purpose, self.seed, self.iteration)
        self.iteration += 1
        t = antithetic_timesteps(len(x0), self.schedule.num_train_timesteps, generator)
        eps_1 = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        eps_2 = torch.randn(y0.shape, generator=generator, dtype=y0.dtype)
        dropout = torch.rand(len(x0), generator=generator)
        x0, y0, eps_1, eps_2 = (z.to(device) for z in (x0, y0, eps_1, eps_2))
        return {
            "x0": x0,
            "y0": y0,
            "eps_1": eps_1,
            "eps_2": eps_2,
            "x_t": self.schedule.add_noise(x0, eps_1, t),
            "y_t": self.schedule.add_noise(y0, eps_2, t),
            "t": t,  # on the CPU, where the schedule looks its scales up without making a GPU wait
            "timesteps": t.to(x0.device),
            "dropout": dropout.to(x0.device),
        }

    def _target(self, z0: Tensor, eps: Tensor, pair: Mapping[str, Tensor]) -> Target:
        """Return what is asked of a network that is shown z0 with the noise eps."""
        value = self.schedule.target(z0, eps, pair["t"], self.prediction)
        return Target(value, self.schedule.error_weight(pair["t"], z0, self.prediction), pair["timesteps"])


class GuiderBatch(_DiffusionBatch):
    """Algorithm 1: the guider is shown (x_t, y_t, t) and asked for the mask's noise ε₁ (or v, x₀, or the flow).

    Args:
        schedule: the noise schedule.
        prediction: ``epsilon`` (the paper), ``v`` or ``sample``; on a rectified flow ``flow`` or ``flow_sample``.
        seed: of the training's noise, ≥ 0.
    """

    def __call__(
        self, batchdata: Mapping[str, Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> PreparedBatch:
        """Return the training step for a batch of labelled slices."""
        pair = self._noisy_pair(batchdata, device)
        shown = {"timesteps": pair["timesteps"], "condition": pair["y_t"], "spacing": None}
        return pair["x_t"], self._target(pair["x0"], pair["eps_1"], pair), (), shown


class GeneratorBatch(_DiffusionBatch):
    """The generator is shown (y_t, mask, t) and asked for the slice's noise ε₂ (or v, y₀, or the flow).

    A mask that is unknown, because nobody drew it or because it was dropped, is shown as zeros: halfway between
    −1 and +1, which no mask is.

    Args:
        schedule: the noise schedule.
        prediction: ``epsilon`` (the paper), ``v`` or ``sample``; on a rectified flow ``flow`` or ``flow_sample``.
        seed: of the training's noise, ≥ 0.
        condition: ``mask`` shows the clean mask x₀; ``guider`` shows the frozen guider's x̂₀ from (x_t, y_t, t),
            which is what sampling will show (the authors' code); ``none`` trains an unconditional net.
        guider: the frozen guider; needed with ``condition: guider``.
        loss_weight: ``none``, or ``lesion`` for the authors' sigmoid of the condition (0.73 inside the lesion,
            0.27 outside).
        mask_dropout: share of the masks that are not shown, 0 to 1: for guidance.

    Raises:
        PigError: an unknown option, ``condition: guider`` without a guider, or a lesion weight without masks.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: Prediction = "epsilon",
        seed: int = 0,
        condition: str = "mask",
        guider: Denoiser | None = None,
        loss_weight: str = "none",
        mask_dropout: float = 0.0,
    ) -> None:
        super().__init__(schedule, prediction, seed)
        if condition not in CONDITIONS:
            raise PigError(f"condition is {condition!r}", f"give {', '.join(CONDITIONS[:-1])} or {CONDITIONS[-1]}")
        if condition == "guider" and guider is None:
            raise PigError("condition is guider but guider_ckpt is not set", "name the guider's weights")
        if loss_weight not in ("none", "lesion"):
            raise PigError(f"loss_weight is {loss_weight!r}", "give none or lesion")
        if condition == "none":
            _check_left_alone(condition, loss_weight=(loss_weight, "none"), mask_dropout=(mask_dropout, 0))
            _check_no_guider(condition, guider)
        self.condition = condition
        self.guider = guider if condition == "guider" else None
        self.loss_weight = loss_weight
        self.mask_dropout = mask_dropout

    def __call__(
        self, batchdata: Mapping[str, Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> PreparedBatch:
        """Return the training step for a batch of slices, with or without masks."""
        pair = self._noisy_pair(batchdata, device)
        mask = pair["x0"]
        if self.guider is not None:
            with torch.no_grad():
                mask = self.guider(pair["x_t"], pair["y_t"], pair["t"]).x0
        mask = mask * self._shown(pair, batchdata).reshape(-1, 1, 1, 1)
        target = self._target(pair["y0"], pair["eps_2"], pair)
        if self.loss_weight == "lesion":
            weight = torch.sigmoid(mask).mean(dim=1, keepdim=True)
            target = target._replace(weight=weight if target.weight is None else weight * target.weight)
        shown = {"timesteps": pair["timesteps"], "condition": mask, "spacing": _spacing(batchdata, device)}
        return pair["y_t"], target, (), shown

    def _shown(self, pair: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return 1 for each mask that is shown and 0 for each that is not, (B,)."""
        shown = pair["dropout"] >= (1.0 if self.condition == "none" else self.mask_dropout)
        if "labelled" in batch:
            shown = shown & batch["labelled"].to(shown.device)
        return shown.to(pair["x0"].dtype)


class JointBatch(_DiffusionBatch):
    """The rival of guidance: one net is shown mask and slice as channels of one image, and asked for both noises.

    Args:
        schedule: the noise schedule.
        prediction: ``epsilon``, ``v`` or ``sample``; on a rectified flow ``flow`` or ``flow_sample``.
        seed: of the training's noise, ≥ 0.
    """

    def __call__(
        self, batchdata: Mapping[str, Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> PreparedBatch:
        """Return the training step for a batch of labelled slices."""
        pair = self._noisy_pair(batchdata, device)
        z0, eps, z_t = (torch.cat([pair[x], pair[y]], dim=1) for x, y in _JOINT)
        nothing, spacing = torch.zeros_like(pair["x0"]), _spacing(batchdata, device)
        shown = {"timesteps": pair["timesteps"], "condition": nothing, "spacing": spacing}
        return z_t, self._target(z0, eps, pair), (), shown


def _spacing(batch: Mapping[str, Tensor], device: Any) -> Tensor | None:
    """Return the spacing of a batch's slices, (B, 2) in mm a pixel, or None where it has none."""
    return batch["spacing"].to(device) if "spacing" in batch else None


_JOINT = (("x0", "y0"), ("eps_1", "eps_2"), ("x_t", "y_t"))

CONDITIONS = ("mask", "guider", "none", "joint")
"""What a generator may be shown in training; ``joint`` makes it the one net of mask and slice."""


def generator_batch(condition: str, learn_from: str, **settings: Any) -> GeneratorBatch | JointBatch:
    """Return what prepares a generator's batches.

    Args:
        condition: one of `CONDITIONS`.
        learn_from: ``lesion`` or ``all`` (see `pig_monai.data.folder.generator_entries`).
        **settings: the other arguments of `GeneratorBatch`; ``joint`` uses its first three.

    Raises:
        PigError: see `GeneratorBatch`; or a setting that has no meaning with this condition.
    """
    if condition != "joint":
        return GeneratorBatch(condition=condition, **settings)
    _check_left_alone(
        condition,
        learn_from=(learn_from, "lesion"),
        loss_weight=(settings["loss_weight"], "none"),
        mask_dropout=(settings["mask_dropout"], 0),
    )
    _check_no_guider(condition, settings.get("guider"))
    return JointBatch(settings["schedule"], settings["prediction"], settings["seed"])


def _check_left_alone(condition: str, **settings: tuple[Any, Any]) -> None:
    """Refuse settings, given as (value, the only one that makes sense), which a condition has no use for."""
    for name, (value, only) in settings.items():
        if value != only:
            raise PigError(f"{name} is {value} and condition is {condition}", f"give {name} {only}")


def _check_no_guider(condition: str, guider: Denoiser | None) -> None:
    if guider is not None:
        raise PigError(f"guider_ckpt is set and condition is {condition}", "leave guider_ckpt out")


class DiffusionLoss(nn.Module):
    """Mean squared error (Algorithm 1, line 6), weighted pixel by pixel where the batch says so."""

    def forward(self, prediction: Tensor, target: Target) -> Tensor:
        """Return the scalar loss of ``prediction`` (B, C, W, H)."""
        return self.per_image(prediction, target).mean()

    @staticmethod
    def per_image(prediction: Tensor, target: Target) -> Tensor:
        """Return the loss of each image, (B,): what tells the noise levels apart."""
        error = F.mse_loss(prediction, target.value, reduction="none")
        if target.weight is not None:
            error = target.weight * error
        return error.mean(dim=(1, 2, 3))


class AutocastInferer(Inferer):
    """Runs the network in bfloat16 autocast on whatever device the inputs are on.

    The engines' own ``amp=True`` names CUDA and does nothing on a CPU, without a word. bfloat16 has float32's
    range, so no gradient scaler is needed, and clipping sees true gradients.

    Args:
        amp: False keeps float32.
    """

    def __init__(self, amp: bool = True) -> None:
        self.amp = amp

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return the network's output in float32."""
        inputs = inputs.to(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.amp):
            output = network(inputs, *args, **kwargs)
        return output.float()
