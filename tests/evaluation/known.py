"""Slices whose prediction is known, and the networks that make it: a logit that is linear in the brightness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet

from pig_monai.data.folder import write_datalist, write_label, write_slice
from pig_monai.evaluation.evaluate import Evaluation
from pig_monai.files import sha256
from tests.conftest import ROOT

BUNDLE = ROOT / "bundles/pig_dbt"
SIZE = 64
SPACING = [0.5, 0.25]

LINEAR: dict[str, Any] = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [1, 1], "strides": [1],
    "num_res_units": 0, "act": None, "norm": None,
}  # fmt: skip

Box = tuple[int, int, int, int]


def boxes(*corners: Box) -> np.ndarray:
    """Return a mask of boxes, each (x, y, width, height)."""
    mask = np.zeros((SIZE, SIZE), bool)
    for x, y, width, height in corners:
        mask[x : x + width, y : y + height] = True
    return mask


def write_segmenter(folder: Path, gain: float, offset: float, **meta: Any) -> Path:
    """Write weights whose logit of a mass is gain · x + offset, and their model.json; return the weights' path."""
    network = UNet(**LINEAR)
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    state["model.0.conv.weight"][0, 0, 1, 1] = 1
    state["model.2.conv.weight"][0, 1, 1, 1] = gain
    state["model.2.conv.bias"][1] = offset
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "model.pt")
    described = {
        "role": "segmenter",
        "network": {"_target_": "UNet", **LINEAR},
        "image_size": SIZE,
        "fold": 0,
        "patients": ["c"],
        "weights_sha256": sha256(folder / "model.pt"),
    }
    (folder / "model.json").write_text(json.dumps({**described, **meta}))
    return folder / "model.pt"


class Known:
    """A dataset folder whose slices hold bright boxes; in ``truths`` and ``spots`` the masks, by name.

    ``spots`` has the pixels brighter than 0, which a network of gain 1 and offset 0 predicts.

    Args:
        folder: to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.truths: dict[str, np.ndarray] = {}
        self.spots: dict[str, np.ndarray] = {}
        self.entries: list[dict[str, Any]] = []

    def add(
        self, name: str, patient: str, fold: int, truth: np.ndarray | None, *spots: tuple[float, Box], **more: Any
    ) -> None:
        """Write a slice of spots (brightness, box) in a breast of −0.5, with dark fat of −1 in it.

        The network sees the breast as −1 and the brightest spots as 1; what is stored as 0.55 it sees as 0.4.
        """
        image = np.full((SIZE, SIZE), -0.5)
        image[20:44, 40:44] = -1
        for brightness, box in spots:
            image[boxes(box)] = brightness
        self.write(name, patient, fold, image, truth, **more)

    def write(
        self, name: str, patient: str, fold: int, image: np.ndarray, truth: np.ndarray | None, **more: Any
    ) -> None:
        """Write any slice."""
        spacing = more.setdefault("spacing", SPACING)
        write_slice(self.folder / f"images/{name}.nii.gz", image, spacing)
        entry = {"image": f"images/{name}.nii.gz", "patient": patient, "fold": fold, "view": "lcc", "slice": 3}
        if truth is not None:
            write_label(self.folder / f"labels/{name}.nii.gz", truth, spacing)
            entry["label"] = f"labels/{name}.nii.gz"
            self.truths[name] = truth
        self.spots[name] = image > 0
        self.entries.append({**entry, "origin": "real", **more})

    def finish(self) -> Path:
        """Write the datalist."""
        settings = {"name": "known", "command": "test", "seed": 0, "preprocessing": {"size": SIZE}}
        write_datalist(self.folder, entries=self.entries, **settings)
        return self.folder


def make_dataset(folder: Path) -> Known:
    """Write slices of three patients in fold 0, one of them without a lesion, and what is no test of that fold."""
    known = Known(folder)
    known.add("same", "a", 0, boxes((10, 10, 8, 8)), (1.0, (10, 10, 8, 8)))
    known.add("shifted", "a", 0, boxes((10, 10, 8, 8)), (1.0, (12, 11, 8, 8)))
    known.add("two", "b", 0, boxes((5, 5, 8, 6), (30, 20, 6, 6)), (1.0, (5, 5, 6, 6)), (0.55, (50, 50, 6, 6)))
    known.add("free", "b", 0, boxes(), (1.0, (5, 5, 6, 6)), (0.55, (50, 50, 6, 6)), lesion=False)
    known.add("unknown", "d", 0, boxes((40, 8, 9, 5)), (1.0, (38, 8, 9, 5)), spacing=None, label_kind="box")
    known.add("unannotated", "d", 0, None, (1.0, (10, 10, 8, 8)))
    known.add("trained", "c", 1, boxes((10, 10, 8, 8)), (1.0, (10, 10, 8, 8)))
    known.add("generated", "synthetic-0-0", -1, boxes((9, 9, 8, 8)), (1.0, (9, 9, 8, 8)), origin="synthetic")
    known.finish()
    return known


def evaluate(known: Known, output_dir: Path, ckpt: Any = None, ckpts: Any = None, **more: Any) -> dict[str, Any]:
    given = {"fold": 0, "batch_size": 3, **more}
    paths = None if ckpts is None else [str(path) for path in ckpts]
    Evaluation(BUNDLE, known.folder, ckpt=ckpt and str(ckpt), ckpts=paths, output_dir=output_dir, **given).run()
    summary: dict[str, Any] = json.loads((output_dir / "summary.json").read_text())
    return summary
