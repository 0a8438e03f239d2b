"""A trained autoencoder, frozen: slices to standardised latents and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pig_monai.autoencoder.networks import PatchedAutoencoderKL
from pig_monai.checkpoint import load_weights, to_device, weights_path
from pig_monai.errors import PigError
from pig_monai.files import sha256 as sha256_of
from pig_monai.networks import build_network

ROLE = "autoencoder"

LEAST_SD = 1e-6
"""Keeps a latent channel that is the same everywhere from being divided by nothing."""


class Autoencoder:
    """A frozen autoencoder.

    Latents are posterior means, standardised channel by channel with the mean and the standard deviation of all
    training slices: what a diffusion model learns has mean 0 and variance 1. Slices go through the network one by
    one, so memory is that of one slice and a result has the same bits in any batch.

    Args:
        network: of `pig_monai.autoencoder.networks`, with its weights.
        meta: what its checkpoint says of itself (`pig_monai.checkpoint`); ``meta["latent"]`` has ``factor``,
            ``channels``, and ``mean`` and ``std`` of each channel.
        device: where to run.
        amp: bfloat16 autocast.
        sha256: of the weights' file, for provenance; None where there is none.
    """

    def __init__(
        self,
        network: PatchedAutoencoderKL,
        meta: Mapping[str, Any],
        device: torch.device | str,
        amp: bool = False,
        sha256: str | None = None,
    ) -> None:
        to_device(network, device)
        self.network = network.eval().requires_grad_(False)
        self.meta = dict(meta)
        self.device = torch.device(device)
        self.amp = amp
        self.sha256 = sha256
        latent = self.meta["latent"]
        self.factor: int = latent["factor"]
        """Pixels of a slice for a position of its latents, on either side."""
        self.channels: int = latent["channels"]
        """Of the latents."""
        self.mean = self._of_channels(latent["mean"])
        self.std = self._of_channels(latent["std"]).clamp(min=LEAST_SD)

    def _of_channels(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).reshape(1, -1, 1, 1)

    @classmethod
    def from_content(
        cls,
        content: Mapping[str, Any],
        device: torch.device | str,
        amp: bool = False,
        sha256: str | None = None,
    ) -> Autoencoder:
        """Build it from what a checkpoint holds, ``{"model": state_dict, "meta": dict}``.

        Raises:
            PigError: the weights do not fit the network that the meta describes.
        """
        network = build_network(content["meta"]["network"])
        try:
            network.load_state_dict(content["model"])
        except RuntimeError as cause:
            raise PigError(
                "the autoencoder's weights do not fit their own meta", "the file is damaged; train anew"
            ) from cause
        return cls(network, content["meta"], device, amp, sha256)  # type: ignore[arg-type]

    @property
    def content(self) -> dict[str, Any]:
        """What `from_content` takes: for checkpoints of networks that work on the latents."""
        model = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        return {"model": model, "meta": dict(self.meta)}

    @torch.no_grad()
    def encode(self, slices: Tensor) -> Tensor:
        """Return standardised latents, float32 (B, c, W / f, H / f), of slices in [−1, 1], (B, 1, W, H)."""
        return (self._each(lambda one: self.network.encode(one)[0], slices) - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return slices, float32 (B, 1, W, H) kept in [−1, 1], of standardised latents (B, c, W / f, H / f)."""
        return self._each(self.network.decode, latents * self.std + self.mean).clamp(-1, 1)

    def _each(self, run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
            ones = (one.to(self.device, memory_format=torch.channels_last) for one in images.split(1))
            return torch.cat([run(one).float() for one in ones])


def load_autoencoder(
    path: str | Path, device: torch.device | str, amp: bool = False, name: str = "autoencoder_ckpt"
) -> Autoencoder:
    """Load an autoencoder that ``train_autoencoder.yaml`` wrote.

    Args:
        path: its weights or its run folder.
        device: where to run.
        amp: bfloat16 autocast.
        name: of the id that gave the path, for errors.

    Raises:
        PigError: see `pig_monai.checkpoint.load_weights`; or the weights do not fit their meta.
    """
    model, meta = load_weights(path, ROLE, name)
    path = weights_path(path, ROLE)
    return Autoencoder.from_content({"model": model, "meta": meta}, device, amp, sha256_of(path))


class LatentStatistics:
    """The mean and the standard deviation of each channel over latents that are told one after the other.

    They are streamed in float64: the parts' means and sums of squared deviations are merged (Chan, Golub & LeVeque
    1979), so neither the number of slices nor a mean far from 0 costs digits.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, latents: Tensor) -> None:
        """Take latents, (B, c, W, H); they are not kept."""
        values = latents.double().transpose(0, 1).flatten(1)  # (c, positions)
        n, m = values.shape[1], values.mean(1)
        apart, total = m - self.mean, self.count + n
        within = (values - m[:, None]).square().sum(1)
        self.squares = self.squares + within + apart.square() * self.count * n / total
        self.mean = self.mean + apart * n / total
        self.count = total

    def result(self) -> tuple[list[float], list[float]]:
        """Return means and standard deviations, one a channel; of one part or more."""
        return self.mean.tolist(), (self.squares / self.count).sqrt().tolist()


def latent_statistics(latents: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Return the `LatentStatistics` of latents, (B, c, W, H) each, at least one."""
    statistics = LatentStatistics()
    for part in latents:
        statistics.add(part)
    return statistics.result()
