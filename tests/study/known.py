"""A study for tests, and folders as its nodes leave them, with figures that are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pig_monai.study.settings import Study

VERSIONS = {"torch": "2"}


def study(dataset: Path, output: Path, **settings: Any) -> Study:
    """Return a study; what is not given is the least that there can be."""
    least = {"methods": ["joint"], "num_pairs": [4], "num_evaluated": 4, "folds": [0], "seeds": [0]}
    return Study.read({"output": str(output), "dataset_dir": str(dataset), **least, **settings})


def write_evaluation(folder: Path, dice: Mapping[str, float], patients: Mapping[str, str], pairs: int = 0) -> None:
    """Write what train.yaml and evaluate.yaml leave; the other overlaps are fixed parts of Dice.

    Args:
        folder: of the segmenter.
        dice: by slice.
        patients: whose each is.
        pairs: what it was trained with.
    """
    out = folder / "evaluation"
    out.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"pairs": pairs, "versions": VERSIONS}))
    (out / "summary.json").write_text(json.dumps({"versions": VERSIONS}))
    rows = [
        {
            "name": name,
            "patient": patients[name],
            "dice": value,
            "iou": value / 2,
            "precision": value / 4,
            "recall": value / 8,
        }
        for name, value in dice.items()
    ]
    rows.append({"name": "clean", "patient": "p0", "dice": "", "iou": "", "precision": "", "recall": ""})
    with open(out / "metrics.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_quality(folder: Path, figures: Sequence[Mapping[str, Any]], generated: int = 4) -> None:
    """Write what evaluate_pairs.yaml leaves, asked for four slices."""
    folder.mkdir(parents=True)
    content = {
        "figures": list(figures),
        "counts": {"generated": generated},
        "settings": {"max_pairs": 4},
        "image_size": 32,
        "versions": VERSIONS,
    }
    (folder / "metrics.json").write_text(json.dumps(content))


def write_training(folder: Path, role: str, parameters: int, rates: Mapping[int, float], batch: int = 2) -> None:
    """Write what a diffusion training leaves.

    Args:
        folder: of the training.
        role: of the network.
        parameters: so many it has.
        rates: images a second, by iteration.
        batch: slices a step.
    """
    folder.mkdir(parents=True)
    content = {
        "model": {"weight": torch.zeros(parameters)},
        "meta": {"iteration": max(rates, default=1), "versions": VERSIONS},
    }
    torch.save(content, folder / f"model_{role}.pt")
    (folder / "run.json").write_text(json.dumps({"settings": {"batch_size": batch}}))
    lines = [f"{iteration},{rate}" for iteration, rate in rates.items()]
    (folder / "metrics.csv").write_text("\n".join(["iteration,images_per_second", *lines]) + "\n")
