"""Features of networks trained on photographs, through torch-fidelity: InceptionV3 (FID, KID) and DINOv2.

torch-fidelity is an extra (``pip install 'pig-monai[fid]'``), since it needs torchvision. Weights come from a
path: nothing is ever downloaded, and nothing stands in for what is not there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pig_monai.errors import PigError
from pig_monai.features.space import FeatureSpace

_DINOV2 = re.compile(r"dinov2_vit([sblg])14_pretrain\.pth")
_DINOV2_CODE = ("facebookresearch_dinov2_main", "facebookresearch_dinov2_master")


def inception_space(weights: str | Path, device: str = "cpu", batch_size: int = 8) -> FeatureSpace:
    """Return the 2048 features of which the FID is made.

    Args:
        weights: ``weights-inception-2015-12-05-6726825d.pth`` of torch-fidelity's releases: those that the FID was
            defined with, for PyTorch.
        device: where to compute.
        batch_size: slices at a time.

    Raises:
        PigError: torch-fidelity cannot be imported, or the file is no such weights.
    """
    fidelity = _import_fidelity("inception_weights")
    path = _existing(weights, "inception_weights")
    _check_plain(path, "inception_weights")  # torch-fidelity would run code that a file brings
    try:
        network = fidelity.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    except RuntimeError as cause:
        raise PigError(
            f"inception_weights {path} does not fit InceptionV3 ({str(cause).splitlines()[0]})",
            "give weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases",
        ) from cause
    return FeatureSpace("inception", "InceptionV3", _Photographs(network, device, batch_size), fid=True)


def dinov2_space(weights: str | Path, device: str = "cpu", batch_size: int = 8) -> FeatureSpace:
    """Return DINOv2's features of the whole picture (384 of ViT-S, 768 of B, 1024 of L, 1536 of G).

    torch-fidelity takes the network's code and weights from a folder of torch.hub, which is named here by the
    weights in it: ``HUB/checkpoints/dinov2_vits14_pretrain.pth`` beside ``HUB/facebookresearch_dinov2_main/``.

    Args:
        weights: the file in ``HUB/checkpoints/``; its name says which network it is.
        device: where to compute.
        batch_size: slices at a time.

    Raises:
        PigError: torch-fidelity cannot be imported, or the folder is not as described.
    """
    fidelity = _import_fidelity("dinov2_weights")
    path = _existing(weights, "dinov2_weights").resolve()
    match, hub = _DINOV2.fullmatch(path.name), path.parent.parent
    code = any((hub / name / "hubconf.py").is_file() for name in _DINOV2_CODE)
    if not match or path.parent.name != "checkpoints" or not code:
        raise PigError(
            f"dinov2_weights {path} is no file of a torch.hub folder with DINOv2",
            f"give HUB/checkpoints/dinov2_vits14_pretrain.pth, with DINOv2's code in HUB/{_DINOV2_CODE[0]}",
        )
    former = torch.hub.get_dir()
    torch.hub.set_dir(str(hub))
    try:
        network = fidelity.FeatureExtractorDinoV2(f"dinov2-vit-{match[1]}-14", ["dinov2"])
    finally:
        torch.hub.set_dir(former)
    return FeatureSpace("dinov2", f"DINOv2 ViT-{match[1].upper()}/14", _Photographs(network, device, batch_size))


class _Photographs:
    """Shows slices to a network of torch-fidelity's as pictures: RGB of 8 bits, which it resizes itself."""

    def __init__(self, network: nn.Module, device: str, batch_size: int) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.batch_size = batch_size

    def __call__(self, slices: np.ndarray) -> np.ndarray:
        grey = np.rint((np.clip(slices, -1, 1) + 1) * 127.5).astype(np.uint8)
        upright = torch.from_numpy(np.ascontiguousarray(grey.transpose(0, 2, 1)))
        found: list[Tensor] = []
        for batch in upright.split(self.batch_size):
            with torch.no_grad():
                rgb = batch[:, None].expand(-1, 3, -1, -1).contiguous().to(self.device)
                found.append(self.network(rgb)[0].cpu())
        return torch.cat(found).double().numpy()


def _import_fidelity(name: str) -> Any:
    try:
        import torch_fidelity  # only where asked for: it imports torchvision, which not every torch has beside it
    except Exception as cause:  # torchvision beside another torch raises RuntimeError and others
        raise PigError(
            f"{name} needs torch-fidelity, which cannot be imported ({type(cause).__name__}: {cause})",
            f"pip install 'pig-monai[fid]', or leave {name} out",
        ) from cause
    return torch_fidelity


def _existing(weights: str | Path, name: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise PigError(f"{name} {path} does not exist", "give a file of weights: nothing is downloaded")
    return path


def _check_plain(path: Path, name: str) -> None:
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # torch raises many kinds for a torn or foreign file
        raise PigError(
            f"{name} {path} cannot be read as weights ({type(cause).__name__})", "give a file of plain weights"
        ) from cause
