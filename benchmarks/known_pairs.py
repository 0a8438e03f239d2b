"""Write pairs of which is known what evaluate_pairs should say: real slices that nobody saw, and planted copies.

    python benchmarks/known_pairs.py --dataset_dir DATASET --output_dir runs/known

writes ``unseen/`` (the slices of fold 1 as pairs of a generator that held out fold 0, to be evaluated with
``dataset/``, which lacks them), ``copies/`` (every fourth training slice, disguised by a shift of one pixel, noise
and a change of contrast) and ``mixed/`` (the slices of fold 0 and a few such copies), both to be evaluated with
DATASET.
Then, for each: evaluate_pairs.yaml with ``--pairs_dir runs/known/unseen`` and so on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from pig_monai.cli import run_command
from pig_monai.data.folder import (
    heldout_entries,
    read_datalist,
    read_label,
    read_slice,
    training_entries,
    write_datalist,
    write_label,
    write_slice,
)
from pig_monai.data.patients import digest
from pig_monai.files import write_json

NOISE, CONTRAST, SHIFT = 0.05, 0.97, 1
GENERATOR = "known"
EVERY, MIXED = 4, 60


def disguised(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    moved = CONTRAST * np.roll(image, SHIFT, axis=1) + NOISE * rng.standard_normal(image.shape)
    return np.clip(moved, -1, 1)


def write(folder: Path, entries: list[dict], copies: list[dict], size: int, seen: list[str]) -> None:
    """Write a folder of pairs whose generator saw these patients."""
    rng = np.random.default_rng(0)
    listed = []
    for index, entry in enumerate([*entries, *copies]):
        image = read_slice(entry["image"])
        name = f"synthetic-0-{index:06d}.nii.gz"
        write_slice(folder / "images" / name, image if index < len(entries) else disguised(image, rng))
        write_label(folder / "labels" / name, read_label(entry["label"]))
        listed.append(
            {"image": f"images/{name}", "label": f"labels/{name}", "patient": f"synthetic-0-{index}", "fold": -1,
             "origin": "synthetic", "index": index,
             "provenance": {"generator_fold": 0, "generator_sha256": GENERATOR}}
        )  # fmt: skip
    write_datalist(
        folder, name="known", command="known_pairs", seed=0, preprocessing={"size": size}, entries=listed,
        generators={GENERATOR: {"data": None, "patients": seen}},
    )  # fmt: skip
    print(f"{folder}: {len(entries)} real slices, {len(copies)} disguised copies")


def known_pairs(*, dataset_dir: str, output_dir: str) -> None:
    """Write the three folders of pairs, and the dataset without fold 1.

    Args:
        dataset_dir: dataset folder.
        output_dir: receives dataset/, unseen/, copies/ and mixed/.
    """
    out, datalist = Path(output_dir), read_datalist(dataset_dir)
    size = datalist["preprocessing"]["size"]
    training = training_entries(dataset_dir, 0)
    seen = sorted({digest(entry["patient"]) for entry in training})
    write(out / "copies", [], training[::EVERY], size, seen)
    write(out / "mixed", heldout_entries(dataset_dir, 0), training[::MIXED], size, seen)
    of_dataset = sorted({digest(entry["patient"]) for entry in training if entry["fold"] != 1})
    write(out / "unseen", heldout_entries(dataset_dir, 1), [], size, of_dataset)
    datalist["training"] = [entry for entry in datalist["training"] if entry["fold"] != 1]
    for entry in datalist["training"]:
        for key in {"image", "label"} & set(entry):
            (out / "dataset" / entry[key]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(dataset_dir) / entry[key], out / "dataset" / entry[key])
    write_json(out / "dataset/datalist.json", datalist)


if __name__ == "__main__":
    run_command(known_pairs)
