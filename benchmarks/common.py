"""What the benchmarks share: the bundle's commands, datasets in memory, a distance of sets of images, tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from pig_monai.data.folder import (
    DATALIST,
    Entry,
    heldout_entries,
    read_datalist,
    training_entries,
    write_datalist,
)
from pig_monai.data.transforms import load_slices
from pig_monai.errors import PigError
from pig_monai.evaluation.results import markdown
from pig_monai.files import read_rows
from pig_monai.metrics.frechet import frechet_distance as distance_of_features
from pig_monai.metrics.projection import fit_projection

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundles/pig_dbt/configs"
LEVELS = ("channels", "attention_levels", "num_res_blocks", "num_head_channels", "norm_num_groups", "patch_size")
"""The ids that say how large a diffusion network is."""


def config_ids(*names: str) -> dict[str, Any]:
    """Return the ids of files in the bundle's ``configs/``, later ones on top."""
    files = [yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")) for name in names]
    return {name: value for ids in files for name, value in ids.items()}


def bundle_command(run_id: str, configs: Sequence[str], **ids: object) -> list[str]:
    """Return a command of the bundle as users type it, to be run in `ROOT`.

    Args:
        run_id: such as ``"training"``.
        configs: files in the bundle's ``configs/``, later ones on top.
        ids: what else is given; relative paths are of the working directory.
    """
    given = {"config_file": [str((CONFIGS / name).relative_to(ROOT)) for name in configs], **ids}
    values = {name: value.resolve() if isinstance(value, Path) else value for name, value in given.items()}
    options = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "monai.bundle", "run", run_id, *options]


def run_bundle(run_id: str, configs: Sequence[str], output_dir: Path, **ids: object) -> Path:
    """Run a command of the bundle, and return its folder; arguments as for `bundle_command`."""
    print(f"{run_id} {output_dir}", flush=True)
    subprocess.run(bundle_command(run_id, configs, **ids, output_dir=output_dir), cwd=ROOT, check=True)
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
    run_bundle("evaluate_pairs", ["evaluate_pairs.yaml"], output_dir, **ids)
    rows = read_rows(output_dir / "metrics.csv", "run the evaluation again")
    return {
        row["sample"]: "{:.1f} ({:.1f} to {:.1f})".format(*(100 * float(row[x]) for x in ("value", "low", "high")))
        for row in rows
        if row["metric"] == "pair_consistency"
    }


def load_dataset(dataset_dir: str, image_size: int, fold: int = -1, held_out: bool = False) -> dict[str, Tensor]:
    """Return the slices trained on when ``fold`` is held out, or those held out: {key: (N, 1, size, size)}."""
    load = load_slices(image_size)
    entries = (heldout_entries if held_out else training_entries)(dataset_dir, fold)
    items: list[Any] = [load(entry) for entry in entries]
    return {key: torch.stack([item[key] for item in items]) for key in ("image", "label")}


def copy_entries(source: Path, target: Path, entries: list[Entry], command: str) -> Path:
    """Write a dataset folder of these entries of ``source``, with their files.

    Raises:
        PigError: the folder holds other entries.
    """
    if (target / DATALIST).exists():
        if read_datalist(target)["training"] != entries:
            raise PigError(f"{target} was made with other arguments", "choose another output_dir")
        return target
    for path in (Path(entry[key]) for entry in entries for key in ("image", "label") if key in entry):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if not (target / path).exists():
            shutil.copyfile(source / path, target / path)
    datalist = read_datalist(source)
    write_datalist(
        target,
        name=target.name,
        command=command,
        seed=datalist["seed"],
        preprocessing=datalist["preprocessing"],
        entries=entries,
    )
    return target


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
    print(markdown(head, [[str(cell) for cell in row] for row in rows]), end="", flush=True)
