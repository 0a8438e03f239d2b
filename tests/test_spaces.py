"""Pixels and latents: masks to the latents' grid and back without loss, and what a training item holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pig_monai.data.folder import read_datalist, stored_size, training_entries, write_datalist
from pig_monai.data.transforms import load_slices
from pig_monai.spaces import LatentSpace, PixelSpace, load_encoded
from tests.autoencoder.known import autoencoder
from tests.diffusion.toy import rng

SPACE = LatentSpace(autoencoder())  # 4 × 4 pixels a position, 3 channels


def blocks(mask: np.ndarray, factor: int) -> np.ndarray:
    """Pixel (f·i + a, f·j + b) of a mask (W, H) becomes channel f·a + b at position (i, j)."""
    width, height = (side // factor for side in mask.shape)
    found = np.empty((factor**2, width, height), mask.dtype)
    for a in range(factor):
        for b in range(factor):
            for i in range(width):
                for j in range(height):
                    found[factor * a + b, i, j] = mask[factor * i + a, factor * j + b]
    return found


@pytest.mark.parametrize("shape", [(16, 16), (8, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_on_the_latents_grid_lose_nothing(shape, dtype):
    masks = torch.randn(3, 1, *shape, generator=rng(1), dtype=torch.float64).to(dtype)
    encoded = SPACE.encode_masks(masks)
    for mask, code in zip(masks, encoded, strict=True):
        np.testing.assert_array_equal(code.double().numpy(), blocks(mask[0].double().numpy(), 4))
    assert torch.equal(SPACE.decode_masks(encoded), masks)
    noise = torch.randn(encoded.shape, generator=rng(2)).to(dtype)  # … and back from any point of the grid
    assert torch.equal(SPACE.encode_masks(SPACE.decode_masks(noise)), noise)


def test_a_latent_space_says_what_its_networks_must_share():
    assert (SPACE.factor, SPACE.mask_channels, SPACE.slice_channels, SPACE.bounded) == (4, 16, 3, False)
    assert SPACE.to_dict() == {"factor": 4, "channels": 3, "autoencoder_sha256": "e" * 64}
    assert set(SPACE.content) == {"model", "meta"}
    slices = torch.rand(2, 1, 8, 8, generator=rng(3)) * 2 - 1
    assert torch.equal(SPACE.encode_slices(slices), SPACE.autoencoder.encode(slices))
    latents = torch.randn(2, 3, 2, 2, generator=rng(4))
    assert torch.equal(SPACE.decode_slices(latents), SPACE.autoencoder.decode(latents))


def test_in_the_space_of_pixels_all_stays_as_it_is():
    space = PixelSpace()
    assert (space.factor, space.mask_channels, space.slice_channels, space.bounded) == (1, 1, 1, True)
    assert space.to_dict() is None
    assert space.content is None
    images = 3 * torch.randn(2, 1, 4, 4, generator=rng(5))
    for keep in (space.encode_slices, space.encode_masks, space.decode_masks):
        assert torch.equal(keep(images), images)
    assert torch.equal(space.decode_slices(images), images.clamp(-1, 1))


@pytest.fixture(scope="module")
def entry(phantom_dataset):
    return training_entries(phantom_dataset, fold=0)[0]


def test_an_encoded_item_is_the_loaded_slice_in_its_space(entry, phantom_dataset):
    loaded = load_slices(32)(entry)
    item = load_encoded(SPACE, 32, stored_size(phantom_dataset))(entry)
    assert sorted(item) == ["image", "label", "labelled", "spacing"]
    np.testing.assert_array_equal(item["label"].numpy(), blocks(loaded["label"][0].numpy(), 4))
    assert 0 < float(item["label"].sum()) < item["label"].numel()
    assert torch.equal(item["image"], SPACE.autoencoder.encode(loaded["image"][None])[0])
    assert item["image"].shape == (3, 8, 8)
    assert item["labelled"].item() is True
    scaled = [side * 64 / 32 for side in entry["spacing"]]  # half as many pixels, twice as large
    assert item["spacing"].tolist() == pytest.approx(scaled, rel=1e-6)
    (2 * item["image"]).requires_grad_()  # a plain tensor, which a training may use


def test_an_item_of_pixels_is_the_loaded_slice_and_has_a_spacing_only_where_asked(entry):
    loaded, item = load_slices(32)(entry), load_encoded(PixelSpace(), 32)(entry)
    assert sorted(item) == ["image", "label", "labelled"]
    for key in ("image", "label"):
        assert torch.equal(item[key], loaded[key])


@pytest.mark.parametrize("space", [PixelSpace(), SPACE])
def test_a_slice_without_a_label_has_an_empty_mask_and_says_so(entry, space):
    unlabelled = {name: value for name, value in entry.items() if name != "label"}
    item, labelled = (load_encoded(space, 32)(one) for one in (unlabelled, entry))
    assert item["labelled"].item() is False
    assert not item["label"].any()
    assert item["label"].shape == labelled["label"].shape
    assert torch.equal(item["image"], labelled["image"])
    batch = torch.utils.data.default_collate([item, labelled])
    assert batch["labelled"].tolist() == [False, True]


@pytest.mark.parametrize("spacing", [None, ...])
def test_an_unknown_spacing_is_zero(entry, spacing):
    unknown = {name: value for name, value in entry.items() if name != "spacing"}
    if spacing is None:
        unknown["spacing"] = None
    assert load_encoded(PixelSpace(), 32, 64)(unknown)["spacing"].tolist() == [0, 0]


def test_labelled_and_unlabelled_entries_of_a_folder_are_told_apart(phantom_dataset, tmp_path):
    """A dataset folder in which every other slice of the training has lost its label."""
    datalist = read_datalist(phantom_dataset)
    entries = []
    for number, entry in enumerate(datalist["training"]):
        kept = {k: v for k, v in entry.items() if k != "label" or number % 2}
        for key in {"image", "label"} & set(kept):
            (tmp_path / kept[key]).parent.mkdir(exist_ok=True)
            (tmp_path / kept[key]).symlink_to(Path(phantom_dataset) / kept[key])
        entries.append(kept)
    write_datalist(
        tmp_path, name="half", command="test", seed=0, preprocessing=datalist["preprocessing"], entries=entries
    )
    load = load_encoded(PixelSpace(), 16)
    found = {Path(e["image"]).name: bool(load(e)["labelled"]) for e in training_entries(tmp_path, 0, False)}
    wanted = {Path(e["image"]).name: "label" in e for e in entries if e["fold"] != 0}
    assert found == wanted
    assert 0 < sum(found.values()) < len(found)
