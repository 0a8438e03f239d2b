"""A training step of the autoencoder and its discriminator, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from pig_monai.autoencoder.latents import ROLE, latent_statistics
from pig_monai.autoencoder.losses import PARTS, AutoencoderLoss
from pig_monai.autoencoder.networks import PatchedAutoencoderKL
from pig_monai.data.folder import Entry
from pig_monai.diffusion.noise import Purpose, seeded_generator
from pig_monai.diffusion.training import AutocastInferer
from pig_monai.training.meta import describe_training
from pig_monai.training.monitor import Meter

FIGURES = (*PARTS, "discriminator", "psnr", "ssim")
"""Columns of metrics.csv beside those of every training; psnr (dB) and ssim are of the held-out fold."""


class AutoencoderStep:
    """One iteration for `SupervisedTrainer`: a step of the autoencoder, then one of the discriminator.

    The noise of the latents' samples in iteration n depends on (seed, n) alone: a resumed training draws what the
    uninterrupted one would have drawn.

    Args:
        discriminator: MONAI's `PatchDiscriminator`: returns its layers' outputs, the last of which judges.
        optimizer: of the discriminator.
        loss: of both networks.
        adversary_start: iterations in which the autoencoder learns alone; the discriminator, which would tell its
            first blurred slices at a glance, joins after them.
        seed: of the noise, ≥ 0.
        amp: bfloat16 autocast.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        optimizer: Optimizer,
        loss: AutoencoderLoss,
        adversary_start: int,
        seed: int,
        amp: bool,
    ) -> None:
        self.discriminator = discriminator
        self.optimizer = optimizer
        self.loss = loss
        self.adversary_start = adversary_start
        self.seed = seed
        self.amp = amp

    def __call__(self, engine: SupervisedTrainer, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Train on ``{"image": slices −1 … 1, (B, 1, W, H)}``.

        Returns:
            the slices, ``pred`` (B, 1, W, H), the ``loss``, and ``parts``, the losses by name, unweighted.
        """
        slices = batch[CommonKeys.IMAGE].to(engine.state.device, memory_format=torch.channels_last)
        adversarial = engine.state.iteration > self.adversary_start
        network: Any = engine.network.train()
        mu, sigma = self._run(network.encode, slices)
        z = mu + sigma * self._noise(mu, engine.state.iteration)
        (reconstruction,) = self._run(network.decode, z)
        parts = self.loss.parts(slices, reconstruction, mu, sigma)
        if adversarial:
            self.discriminator.requires_grad_(False)  # its layers pass the gradient on and take none
            layers = self._run(self.discriminator, slices), self._run(self.discriminator, reconstruction)
            parts |= self.loss.adversarial_parts(*layers)
        loss = self.loss(parts)
        engine.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        if adversarial:
            parts["discriminator"] = self._train_discriminator(slices, reconstruction.detach())
        return {
            CommonKeys.IMAGE: slices,
            CommonKeys.PRED: reconstruction.detach(),
            CommonKeys.LOSS: loss.detach(),
            "parts": {name: part.detach() for name, part in parts.items()},
        }

    def _train_discriminator(self, slices: Tensor, fakes: Tensor) -> Tensor:
        self.discriminator.requires_grad_(True).train()
        loss = self.loss.of_discriminator(
            self._run(self.discriminator, slices), self._run(self.discriminator, fakes)
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss

    def _noise(self, like: Tensor, iteration: int) -> Tensor:
        generator = seeded_generator(Purpose.TRAINING, self.seed, iteration)
        return torch.randn(like.shape, generator=generator).to(like.device)

    def _run(self, network: Callable[[Tensor], Tensor | Sequence[Tensor]], inputs: Tensor) -> list[Tensor]:
        """Return a network's outputs in float32, in which the losses are computed."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.amp):
            outputs = network(inputs)
        return [output.float() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]


class AutoencoderMeter(Meter):
    """The `Meter` of an autoencoder: its loss and the parts of it, unweighted; see `Meter` for the arguments."""

    def __init__(self, network: nn.Module, ema: AveragedModel, optimizer: Optimizer, every: int = 50) -> None:
        super().__init__(network, ema, optimizer, every)
        self.kept: dict[str, list[Tensor]] = {}

    def note(self, output: Mapping[str, Any]) -> None:
        """Keep the loss and its parts."""
        for name, value in {"loss": output[CommonKeys.LOSS], **output["parts"]}.items():
            self.kept.setdefault(name, []).append(value)

    def losses(self) -> dict[str, float]:
        """Return the means over the iterations; a part that came in later, over those that had it."""
        means = {name: float(torch.stack(values).mean()) for name, values in self.kept.items()}
        self.kept = {}
        return means


class AutoencoderMeta:
    """Makes the meta of an autoencoder's weights, for which it encodes all training slices.

    Args:
        network: made by `pig_monai.networks`.
        ema: its average, whose weights are exported.
        image_size: pixels a side.
        dataset_dir: the dataset folder.
        fold: the fold held out; −1 for none.
        entries: trained on.
        settings: of the training, by id; ``data`` is the fingerprint of the training slices.
        slices: batches of all training slices, ``{"image": (B, 1, W, H)}``, each slice once.
        device: where to encode.
        amp: bfloat16 autocast.

    Raises:
        PigError: see `describe_training`.
    """

    role = ROLE

    def __init__(
        self,
        network: PatchedAutoencoderKL,
        ema: AveragedModel,
        image_size: int,
        dataset_dir: str | Path,
        fold: int,
        entries: Sequence[Entry],
        settings: Mapping[str, Any],
        slices: DataLoader,
        device: torch.device | str,
        amp: bool,
    ) -> None:
        self.ema = ema
        self.slices = slices
        self.device = device
        self.encode = AutocastInferer(amp)
        self.shape = {"factor": network.factor, "channels": network.latent_channels}
        self._described = describe_training(ROLE, network, image_size, dataset_dir, fold, entries, settings)

    def __call__(self, iteration: int) -> dict[str, Any]:
        """Return the meta of the averaged weights after ``iteration`` optimiser steps."""
        mean, std = self._statistics()
        return {**self._described, "iteration": iteration, "latent": {**self.shape, "mean": mean, "std": std}}

    @torch.no_grad()
    def _statistics(self) -> tuple[list[float], list[float]]:
        network: Any = self.ema.module
        network.eval()
        return latent_statistics(
            self.encode(batch[CommonKeys.IMAGE].to(self.device), lambda x: network.encode(x)[0])
            for batch in self.slices
        )
