"""What the benchmarks share: the bundle's commands, datasets in memory, a distance of sets of images, tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pig_monai.data.folder import heldout_entries, training_entries
from pig_monai.data.transforms import load_slices
from pig_monai.files import read_rows
from pig_monai.metrics.frechet import frechet_distance as distance_of_features
from pig_monai.metrics.projection import fit_projection

ROOT = Path(__file__).parents[1]
CONFIGS = "bundles/pig_dbt/configs"


def run_bundle(run_id: str, configs: str | Sequence[str], output_dir: Path, **ids: object) -> Path:
    """Run a command of the bundle as users type it, and return its folder.

    Args:
        run_id: such as ``"training"``.
        configs: a file in the bundle's ``configs/``, or several, later ones on top.
        output_dir: what ``--output_dir`` gets.
        ids: what else is given.
    """
    files = [f"{CONFIGS}/{name}" for name in ([configs] if isinstance(configs, str) else configs)]
    given = {"config_file": files if len(files) > 1 else files[0], **ids, "output_dir": output_dir}
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    print(f"{run_id} {output_dir}", flush=True)
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", run_id, *options], cwd=ROOT, check=True)
    return output_dir


def consistency(dataset_dir: Path, pairs_dir: Path, segmenter_ckpt: Path, output_dir: Path) -> dict[str, str]:
    """Run `evaluate_pairs`, and return a segmenter's Dice in per cent, with intervals, on pairs and real slices.

    Args:
        dataset_dir: of the real slices.
        pairs_dir: of the pairs.
        segmenter_ckpt: of a segmenter trained on real slices.
        output_dir: receives the evaluation.

    Returns:
        the text to show for ``"generated"`` and for ``"heldout"``.
    """
    ids = {"dataset_dir": dataset_dir, "pairs_dir": pairs_dir, "segmenter_ckpt": segmenter_ckpt}
    run_bundle("evaluate_pairs", "evaluate_pairs.yaml", output_dir, **ids)
    rows = read_rows(output_dir / "metrics.csv", "run the evaluation again")
    return {
        row["sample"]: f"{100 * float(row['value']):.1f} ({row['note'].split(';')[0]})"
        for row in rows
        if row["metric"] == "pair_consistency"
    }


def load_dataset(dataset_dir: str, image_size: int, fold: int = -1, held_out: bool = False) -> dict[str, Tensor]:
    """Return the slices trained on when ``fold`` is held out, or those held out: {key: (N, 1, size, size)}."""
    load = load_slices(image_size)
    entries = (heldout_entries if held_out else training_entries)(dataset_dir, fold)
    items: list[Any] = [load(entry) for entry in entries]
    return {key: torch.stack([item[key] for item in items]) for key in ("image", "label")}


def frechet_distance(real: np.ndarray, other: np.ndarray, components: int = 48) -> float:
    """Return the Fréchet distance of two sets in the leading principal components of the real pixels.

    No network's features are involved: it is not an FID.

    Args:
        real: (N, …), flattened.
        other: (M, …), flattened.
        components: how many.
    """
    real, other = real.reshape(len(real), -1), other.reshape(len(other), -1)
    project = fit_projection(real, components)
    return distance_of_features(project(real), project(other))


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()
