"""Networks trained on photographs: what is refused without them, and what they are shown where they are there."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from pig_monai.errors import PigError
from pig_monai.features.pretrained import dinov2_space, inception_space

GREY = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 4, 3)


class Shown(torch.nn.Module):
    """Stands for a network of torch-fidelity's: its features are the first picture's pixels."""

    def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str | None = None) -> None:
        super().__init__()
        self.asked = (name, features, feature_extractor_weights_path, torch.hub.get_dir())

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor]:
        assert pictures.dtype == torch.uint8
        assert pictures.shape[1] == 3
        assert torch.equal(pictures[:, 0], pictures[:, 2])
        return (pictures[:, 1].flatten(1).float(),)


@pytest.fixture
def fidelity(monkeypatch):
    module = types.ModuleType("torch_fidelity")
    module.FeatureExtractorInceptionV3 = module.FeatureExtractorDinoV2 = Shown
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)


@pytest.mark.parametrize("space", [inception_space, dinov2_space])
def test_without_torch_fidelity_the_extra_is_named(space, tmp_path):
    if importlib.util.find_spec("torch_fidelity"):
        pytest.skip("torch-fidelity is installed")
    with pytest.raises(PigError, match=r"cannot be imported .*; pip install 'pig-monai\[fid\]', or leave"):
        space(tmp_path / "weights.pth")


def test_a_torchvision_that_does_not_fit_is_named_too(monkeypatch, tmp_path):
    """It fails with a RuntimeError beside another torch."""
    (tmp_path / "torch_fidelity.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    with pytest.raises(PigError, match=r"inception_weights needs .*RuntimeError: operator torchvision::nms"):
        inception_space(tmp_path / "weights.pth")


def test_inception_gets_upright_pictures_of_8_bits_and_weights_by_path(fidelity, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    space = inception_space(tmp_path / "weights.pth")
    assert (space.name, space.fid) == ("inception", True)
    assert space.extract.network.asked[:3] == ("inception-v3-compat", ["2048"], str(tmp_path / "weights.pth"))
    found = space.extract(np.concatenate([GREY, -GREY]))
    expected = np.rint((GREY[0] + 1) * 127.5).T.ravel()  # rows first: index 0 of a slice is the column
    np.testing.assert_array_equal(found, [expected, 255 - expected])


def hub(folder: Path, code: bool = True) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    weights = folder / "checkpoints/dinov2_vitl14_pretrain.pth"
    weights.write_bytes(b"")
    if code:
        (folder / "facebookresearch_dinov2_main").mkdir()
        (folder / "facebookresearch_dinov2_main/hubconf.py").write_text("")
    return weights


def test_dinov2_comes_from_the_given_folder_of_torch_hub(fidelity, tmp_path):
    before = torch.hub.get_dir()
    space = dinov2_space(hub(tmp_path / "hub"))
    assert (space.name, space.fid, space.title) == ("dinov2", False, "DINOv2 ViT-L/14")
    asked = space.extract.network.asked
    assert asked == ("dinov2-vit-l-14", ["dinov2"], None, str(tmp_path / "hub"))
    assert torch.hub.get_dir() == before


def test_weights_that_are_not_there_or_are_none_are_named(fidelity, tmp_path):
    with pytest.raises(PigError, match=r"inception_weights .*no\.pth does not exist; .*nothing is downloaded"):
        inception_space(tmp_path / "no.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(PigError, match=r"inception_weights .*text\.pth cannot be read as weights"):
        inception_space(tmp_path / "text.pth")
    with pytest.raises(PigError, match=r"dinov2_weights .* is no file of a torch\.hub folder with DINOv2; "):
        dinov2_space(hub(tmp_path / "hub", code=False))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/other.pth").write_bytes(b"")
    with pytest.raises(PigError, match="is no file of a torch"):
        dinov2_space(tmp_path / "checkpoints/other.pth")
