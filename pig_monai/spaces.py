"""Where diffusion happens: on the pixels, or on an autoencoder's latents.

A space says how slices and masks look to the networks, and turns what these make back into pixels. The paired
loop knows nothing of it. In a latent space the mask lives on the latent's grid: each f × f block of its pixels
becomes the channels of one position (pixel unshuffling), which loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from monai.transforms import Compose, Transform
from torch import Tensor
from torch.nn import functional as F

from pig_monai.data.transforms import load_slices

if TYPE_CHECKING:
    from pig_monai.autoencoder.latents import Autoencoder


class Space(Protocol):
    """The networks' view of slices (B, 1, W, H) in [−1, 1] and of masks (B, 1, W, H)."""

    factor: int
    """Pixels a side of a position."""
    slice_channels: int
    mask_channels: int
    bounded: bool
    """Whether a slice's values stay in [−1, 1], so that an estimate of it may be kept there."""
    content: dict[str, Any] | None
    """What a generator's checkpoint has to bring along, so that its slices can be decoded."""

    def encode_slices(self, slices: Tensor) -> Tensor:
        """Return (B, slice_channels, W / factor, H / factor)."""

    def decode_slices(self, encoded: Tensor) -> Tensor:
        """Return slices in [−1, 1], (B, 1, W, H)."""

    def encode_masks(self, masks: Tensor) -> Tensor:
        """Return (B, mask_channels, W / factor, H / factor), of the same values."""

    def decode_masks(self, encoded: Tensor) -> Tensor:
        """Return (B, 1, W, H)."""

    def to_dict(self) -> dict[str, Any] | None:
        """Return what networks of one space share, for a checkpoint's meta; None for pixels."""


class PixelSpace:
    """Slices and masks as they are."""

    factor = slice_channels = mask_channels = 1
    bounded = True
    content: dict[str, Any] | None = None

    def encode_slices(self, slices: Tensor) -> Tensor:
        """Return the slices."""
        return slices

    def decode_slices(self, encoded: Tensor) -> Tensor:
        """Return the slices, kept in [−1, 1]."""
        return encoded.clamp(-1, 1)

    def encode_masks(self, masks: Tensor) -> Tensor:
        """Return the masks."""
        return masks

    def decode_masks(self, encoded: Tensor) -> Tensor:
        """Return the masks."""
        return encoded

    def to_dict(self) -> None:
        """Return None."""
        return None


class LatentSpace:
    """Slices as an autoencoder's standardised latents, masks unshuffled onto their grid.

    Args:
        autoencoder: frozen.
    """

    bounded = False

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder
        self.factor = autoencoder.factor
        self.slice_channels = autoencoder.channels
        self.mask_channels = self.factor**2
        self.content: dict[str, Any] | None = autoencoder.content

    def encode_slices(self, slices: Tensor) -> Tensor:
        """Return the latents: of mean 0 and standard deviation 1 over the training set, channel by channel."""
        return self.autoencoder.encode(slices)

    def decode_slices(self, encoded: Tensor) -> Tensor:
        """Return the decoded slices, one after the other: what a slice needs of memory, whatever the batch."""
        return self.autoencoder.decode(encoded)

    def encode_masks(self, masks: Tensor) -> Tensor:
        """Return the unshuffled masks: exact."""
        return F.pixel_unshuffle(masks, self.factor)

    def decode_masks(self, encoded: Tensor) -> Tensor:
        """Return the shuffled masks: exact."""
        return F.pixel_shuffle(encoded, self.factor)

    def to_dict(self) -> dict[str, Any]:
        """Return the grid, the channels and which autoencoder made them."""
        return {
            "factor": self.factor,
            "channels": self.slice_channels,
            "autoencoder_sha256": self.autoencoder.sha256,
        }


def space_in_words(space: Mapping[str, Any] | None) -> str:
    """Return how users are told of a space that `to_dict` described: two are the same where their words are."""
    return "pixels" if space is None else f"latents of autoencoder {space['autoencoder_sha256'][:12]}"


class EncodeSliced(Transform):
    """Encodes a loaded slice and its mask for the networks.

    Args:
        space: where they diffuse.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def __call__(self, item: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``item`` with ``image`` and ``label`` (C, W, H) encoded, on the CPU."""
        image = self.space.encode_slices(item["image"][None])[0].cpu()
        return {**item, "image": image, "label": self.space.encode_masks(item["label"][None])[0]}


def load_encoded(space: Space, image_size: int, stored_size: int | None = None) -> Compose:
    """Return the transforms from a datalist's entry to what a training batch is made of.

    Args:
        space: where the networks work.
        image_size: pixels a side.
        stored_size: pixels a side of the stored slices; where given, items have a ``spacing``.

    Returns:
        transforms to ``image``, ``label``, ``labelled`` (a bool: whether the entry has a label; it is all zeros
        where it has none) and perhaps ``spacing`` (2,), mm a pixel at ``image_size``, 0 where unknown.
    """
    steps: list[Any] = [_DescribedItem(load_slices(image_size), image_size, stored_size)]
    return Compose(steps if isinstance(space, PixelSpace) else [*steps, EncodeSliced(space)])


class _DescribedItem(Transform):
    """Loads an entry, and adds what it says besides its pictures."""

    def __init__(self, load: Compose, image_size: int, stored_size: int | None) -> None:
        self.load = load
        self.image_size = image_size
        self.stored_size = stored_size

    def __call__(self, entry: Mapping[str, Any]) -> dict[str, Tensor]:
        item: dict[str, Tensor] = self.load(entry)
        item["labelled"] = torch.tensor("label" in item)
        if "label" not in item:
            item["label"] = torch.zeros_like(item["image"])
        if self.stored_size is not None:
            scale = self.stored_size / self.image_size
            item["spacing"] = torch.tensor([s * scale for s in entry.get("spacing") or (0.0, 0.0)])
        return item
