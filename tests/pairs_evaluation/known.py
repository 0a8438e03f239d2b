"""Pairs folders made of given slices, as if a generator that held out a fold had made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pig_monai.data.folder import write_datalist, write_label, write_slice
from pig_monai.pairs_evaluation.evaluate import PairsEvaluation
from tests.evaluation.known import BUNDLE

Pair = tuple[np.ndarray, np.ndarray]
"""Slice float (W, H) in [−1, 1] and mask bool (W, H)."""


def write_pairs(
    folder: Path, pairs: Sequence[Pair], fold: int | None = 0, generator: dict[str, Any] | None = None, **more: Any
) -> Path:
    """Write a pairs folder; ``fold`` None leaves the provenance out; ``generator`` is what it was trained on."""
    entries = []
    for index, (image, mask) in enumerate(pairs):
        name = f"synthetic-0-{index:06d}"
        write_slice(folder / f"images/{name}.nii.gz", image)
        write_label(folder / f"labels/{name}.nii.gz", mask)
        entry = {
            "image": f"images/{name}.nii.gz",
            "label": f"labels/{name}.nii.gz",
            "patient": f"synthetic-0-{index}",
            "fold": -1,
            "origin": "synthetic",
            "index": index,
            **({} if fold is None else {"provenance": {"generator_fold": fold, "generator_sha256": "g"}}),
        }
        entries.append({**entry, **more})
    preprocessing, generators = {"size": len(pairs[0][0])}, None if generator is None else {"g": generator}
    write_datalist(
        folder,
        name="pairs",
        command="test",
        seed=0,
        preprocessing=preprocessing,
        entries=entries,
        generators=generators,
    )
    return folder


def evaluate_pairs(dataset_dir: Path, pairs_dir: Path, output_dir: Path, **more: Any) -> dict[str, Any]:
    """Evaluate and return metrics.json."""
    given = {key: str(value) if isinstance(value, Path) else value for key, value in more.items()}
    PairsEvaluation(BUNDLE, dataset_dir, pairs_dir, output_dir, **given).run()
    found: dict[str, Any] = json.loads((output_dir / "metrics.json").read_text())
    return found


def value(found: dict[str, Any], metric: str, features: str, region: str, sample: str = "generated") -> Any:
    """Return the value of a figure of metrics.json; an error where there is none."""
    wanted = (metric, features, region, sample)
    rows = [f for f in found["figures"] if (f["metric"], f["features"], f["region"], f["sample"]) == wanted]
    assert len(rows) == 1, (wanted, len(rows))
    return rows[0]["value"]
