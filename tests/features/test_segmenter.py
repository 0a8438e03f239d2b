"""The segmenter on arrays does what inference.yaml does to files, and its features are the bottom of its U-Net."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import UNet

from pig_monai.data.folder import read_slice
from pig_monai.errors import PigError
from pig_monai.evaluation.segmenters import Segmenter, load_segmenter
from pig_monai.features.segmenter import SliceSegmenter
from pig_monai.files import sha256
from tests.evaluation.known import BUNDLE, SIZE, make_dataset, write_segmenter

INFERENCE = BUNDLE / "configs/inference.yaml"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("known") / "dataset")


@pytest.fixture(scope="module")
def slices(known) -> np.ndarray:
    return np.stack([read_slice(known.folder / entry["image"]) for entry in known.entries])


def network(folder: Path, channels: list[int], strides: list[int]) -> Segmenter:
    """Write a U-Net with random weights and read it back."""
    torch.manual_seed(0)
    spec = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": channels, "strides": strides,
            "num_res_units": 1, "norm": "instance"}  # fmt: skip
    folder.mkdir()
    torch.save(UNet(**spec).state_dict(), folder / "model.pt")
    meta = {"role": "segmenter", "network": {"_target_": "UNet", **spec}, "image_size": 32, "fold": 0,
            "patients": ["c"], "weights_sha256": sha256(folder / "model.pt")}  # fmt: skip
    (folder / "model.json").write_text(json.dumps(meta))
    return load_segmenter(folder / "model.pt", "cpu")


def preprocessed(files: list[Path], size: int) -> torch.Tensor:
    """Read files as inference.yaml does."""
    parser = ConfigParser()
    parser.read_config(str(INFERENCE))
    parser["image_size"] = size
    steps = parser.get_parsed_content("preprocessing")
    return torch.stack([steps({"image": str(file)})["image"].as_tensor()[..., 0] for file in files])


def test_features_are_the_channel_means_at_the_bottom(known, slices, tmp_path):
    segmenter = network(tmp_path / "run", [4, 8, 16], [2, 2])
    found = SliceSegmenter(segmenter, INFERENCE, batch_size=3).features(slices)
    with torch.no_grad():
        inputs = preprocessed([known.folder / entry["image"] for entry in known.entries], 32)
        first, skip, _ = segmenter.network.model
        second, inner, _ = skip.submodule
        bottom = inner.submodule(second(first(inputs)))
    assert bottom.shape == (len(slices), 16, 8, 8)
    np.testing.assert_allclose(found, bottom.mean(dim=(2, 3)).numpy(), atol=1e-5)
    assert found.dtype == np.float64
    assert found.std(axis=0).min() > 1e-4


def test_masks_are_those_of_the_known_network(known, slices, tmp_path):
    """A network of gain 1 and offset 0 predicts what is brighter than 0, on the slice's own grid."""
    copier = load_segmenter(write_segmenter(tmp_path / "copier", gain=4.0, offset=0.0), "cpu")
    found = SliceSegmenter(copier, INFERENCE, batch_size=3).masks(slices)
    names = [Path(entry["image"]).name.removesuffix(".nii.gz") for entry in known.entries]
    assert found.shape == (len(slices), SIZE, SIZE)
    for name, mask in zip(names, found, strict=True):
        np.testing.assert_array_equal(mask, known.spots[name], err_msg=name)


def test_a_network_without_a_bottom_is_refused(tmp_path):
    copier = load_segmenter(write_segmenter(tmp_path / "copier", gain=4.0, offset=0.0), "cpu")
    other = Segmenter(copier.path, torch.nn.Conv2d(1, 2, 1), copier.meta, copier.sha256)
    with pytest.raises(PigError, match="is a Conv2d; give a UNet"):
        SliceSegmenter(other, INFERENCE)
