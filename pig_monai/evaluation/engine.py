"""MONAI's evaluators with what inference.yaml does to a slice: what is measured is what a user gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import EnsembleEvaluator, Evaluator, SupervisedEvaluator
from monai.handlers import ConfusionMatrix, MeanDice, MeanIoUHandler, from_engine
from monai.transforms import (
    Compose,
    CopyItemsd,
    EnsureChannelFirstd,
    MeanEnsembled,
    SqueezeDimd,
    ToDeviced,
    Transform,
)

from pig_monai.data.folder import Entry
from pig_monai.data.transforms import LoadSlicesd
from pig_monai.errors import PigError
from pig_monai.evaluation.segmenters import Segmenter

OnSlice = Callable[[int, np.ndarray, np.ndarray], None]
"""Takes a slice's index, and truth and prediction as bool (W, H)."""


@dataclass(frozen=True)
class Parts:
    """What inference.yaml defines.

    Args:
        preprocessing: from ``{"image": file}`` to the network's input.
        inferer: calls the network.
        activations: from the network's output to the mass's probability, for each of the keys.
        masks: from ``pred``, the probability, to the mask on the stored slice's grid.
    """

    preprocessing: Transform
    inferer: Any
    activations: list[Transform]
    masks: list[Transform]


def read_parts(file: Path, image_size: int, batch_size: int, device: str, keys: Sequence[str]) -> Parts:
    """Read the parts of ``inference.yaml``, so that they have one definition.

    Args:
        file: ``inference.yaml``.
        image_size: of the networks, in place of the file's own.
        batch_size: slices at a time.
        device: where to infer.
        keys: of the networks' outputs.

    Raises:
        PigError: the file's postprocessing has no `Invertd`, which tells probabilities from masks.
    """
    parser = ConfigParser()
    parser.read_config(str(file))
    parser["image_size"], parser["sw_batch_size"], parser["device"] = image_size, batch_size, device
    parser["inferer"]["progress"] = False
    steps: list[dict[str, Any]] = parser["postprocessing"]["transforms"]
    names = [str(step["_target_"]).rsplit(".", 1)[-1] for step in steps]
    if "Invertd" not in names:
        raise PigError(f"{file}#postprocessing has no Invertd", "masks must be brought back onto the slice's grid")
    middle = names.index("Invertd")
    end = names.index("SaveImaged") if "SaveImaged" in names else len(steps)
    parser["postprocessing"]["transforms"] = [
        *({**s, "keys": list(keys)} for s in steps[:middle]),
        *steps[middle:end],
    ]
    made: list[Transform] = parser.get_parsed_content("postprocessing#transforms")
    return Parts(
        preprocessing=parser.get_parsed_content("preprocessing"),
        inferer=parser.get_parsed_content("inferer"),
        activations=made[:middle],
        masks=made[middle:],
    )


class CheckFilesd(Transform):
    """Refuse a broken slice or label by name before MONAI's loading stumbles over it; changes nothing."""

    def __init__(self) -> None:
        self.load = LoadSlicesd(("image", "label"))

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Check the files ``image`` and ``label_file``.

        Raises:
            PigError: see `LoadSlicesd`; or a slice of one value, in which no breast can be found.
        """
        image = self.load({"image": data["image"], "label": data["label_file"]})["image"]
        if image.min() == image.max():
            raise PigError(f"{data['image']} has one value everywhere", "leave it out of the dataset")
        return dict(data)


def make_evaluator(
    segmenters: Sequence[Segmenter],
    entries: Sequence[Entry],
    inference: Path,
    device: str,
    batch_size: int,
    on_slice: OnSlice,
) -> Evaluator:
    """Return MONAI's evaluator for one network, or its ensemble evaluator, which averages probabilities.

    Its ``state.metrics`` are MONAI's Dice, IoU and recall, means over the slices with a lesion.

    Args:
        segmenters: of one image size.
        entries: with absolute paths; each has a label.
        inference: ``inference.yaml``.
        device: where to infer.
        batch_size: slices at a time.
        on_slice: gets each slice's truth and prediction.
    """
    lone = len(segmenters) == 1
    keys = ["pred"] if lone else [f"pred_{number}" for number in range(len(segmenters))]
    parts = read_parts(inference, segmenters[0].image_size, batch_size, device, keys)
    items = [{"image": e["image"], "label_file": e["label"], "index": index} for index, e in enumerate(entries)]
    steps = [
        *parts.activations,
        *([] if lone else [MeanEnsembled(keys, output_key="pred")]),
        *parts.masks,
        ToDeviced("pred", "cpu"),
        CopyItemsd("label_file", names="truth"),
        LoadSlicesd("truth"),
        EnsureChannelFirstd("truth", channel_dim="no_channel"),
        SqueezeDimd(("pred", "truth"), dim=-1),
    ]
    both = from_engine(["pred", "truth"])
    recall = ConfusionMatrix(metric_name="recall", compute_sample=True, output_transform=both)
    settings: dict[str, Any] = {
        "device": torch.device(device),
        "val_data_loader": DataLoader(
            Dataset(items, Compose([CheckFilesd(), parts.preprocessing])), batch_size=batch_size
        ),
        "inferer": parts.inferer,
        "postprocessing": Compose(steps),
        "key_val_metric": {"dice": MeanDice(output_transform=both)},
        "additional_metrics": {"iou": MeanIoUHandler(output_transform=both), "recall": recall},
        "val_handlers": [_HandOver(on_slice)],
    }
    if lone:
        return SupervisedEvaluator(network=segmenters[0].network, **settings)
    return EnsembleEvaluator(networks=[s.network for s in segmenters], pred_keys=keys, **settings)


class _HandOver:
    """Hands each slice's truth and prediction over."""

    def __init__(self, on_slice: OnSlice) -> None:
        self.on_slice = on_slice

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        batch: Any = engine.state.batch  # both are lists of dictionaries since they were decollated
        outputs: Any = engine.state.output
        for item, output in zip(batch, outputs, strict=True):
            truth, prediction = (output[key][0].cpu().numpy() > 0 for key in ("truth", "pred"))
            self.on_slice(int(item["index"]), truth, prediction)
