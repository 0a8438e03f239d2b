"""What slices without masks are worth: a few annotated slices alone, against the same with all others unannotated.

    python benchmarks/unannotated.py --dataset_dir DATASET --output_dir OUT --segmenter_ckpt RUN [--annotated 50]

Each arm trains the MAISI-style generator with the commands that a user types: an autoencoder and an unconditional
net on all slices that the arm has, then the branch on those with a mask. Both arms get the same networks,
iterations and seeds; fold 0 is held out of everything, the segmenter included. Then each makes slices for the
held-out fold's masks, which no network has seen, and they are compared with real slices: by their distance to the
training slices, by how much brighter the lesions are than what is around them, and by whether the segmenter finds
the mask that a slice was made for. The same command again continues where it was stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import consistency, copy_entries, frechet_distance, load_dataset, print_table, run_bundle

from pig_monai.cli import run_command
from pig_monai.data.folder import has_lesion, read_datalist
from pig_monai.report import lesion_contrast

FOLD = 0
COMMAND = "benchmarks/unannotated.py"


def arms(source: Path, output: Path, annotated: int) -> dict[str, Path]:
    """Write the datasets: ``alone``, ``with_others``, and ``masks``, those of the held-out fold."""
    entries = [entry for entry in read_datalist(source)["training"] if has_lesion(entry)]
    heldout = [entry for entry in entries if entry["fold"] == FOLD]
    training = sorted((e for e in entries if e["fold"] != FOLD), key=lambda e: (e["patient"], e["image"]))
    known, others = training[:annotated], training[annotated:]
    unannotated = [{key: value for key, value in e.items() if key != "label"} for e in others]
    return {
        "alone": copy_entries(source, output / "alone", [*known, *heldout], COMMAND),
        "with_others": copy_entries(source, output / "with_others", [*known, *unannotated, *heldout], COMMAND),
        "masks": copy_entries(source, output / "masks", [{**e, "fold": -1} for e in heldout], COMMAND),
    }


def train(folder: Path, data: Path, masks: Path, sizes: dict[str, Any], iterations: dict[str, int]) -> Path:
    """Train one arm, and return its slices for the held-out masks."""
    common = {"dataset_dir": data, "fold": FOLD, "image_size": sizes["image_size"], "preview_interval": 0}
    autoencoder = run_bundle(
        "training", ["train_autoencoder.yaml"], folder / "autoencoder", **common, batch_size=4,
        autoencoder_channels="[32,64]", autoencoder_res_blocks=1, learning_rate=5e-4,
        max_iterations=iterations["autoencoder"], adversary_start=iterations["autoencoder"],
        checkpoint_interval=200,
    )  # fmt: skip
    levels = {
        "generator": "maisi", "channels": sizes["channels"], "attention_levels": "[False,False,True]",
        "num_res_blocks": 1, "num_head_channels": 32, "norm_num_groups": 16, "batch_size": 8,
        "learning_rate": 4e-4, "autoencoder_ckpt": autoencoder, "checkpoint_interval": 200,
    }  # fmt: skip
    base = run_bundle(
        "training", ["train_generator.yaml"], folder / "base", **common, **levels,
        condition="none", learn_from="all", max_iterations=iterations["base"], prediction="v",
    )  # fmt: skip
    branch = run_bundle(
        "training", ["train_generator.yaml"], folder / "branch", **common, **levels,
        base_ckpt=base, max_iterations=iterations["branch"],
    )  # fmt: skip
    return run_bundle(
        "infer_slices", ["infer_slices.yaml"], folder / "slices", generator_ckpt=branch, masks_dir=masks, fold=-1,
        num_pairs=sizes["slices"], seed=0, batch_size=16, amp="false",
    )  # fmt: skip


def compare(
    *,
    dataset_dir: str,
    output_dir: str,
    segmenter_ckpt: str,
    annotated: int = 50,
    image_size: int = 128,
    slices: int = 256,
    autoencoder: int = 1000,
    base: int = 2000,
    branch: int = 1000,
) -> None:
    """Train both arms and print the table.

    Args:
        dataset_dir: dataset folder, all of it annotated; fold 0 is held out.
        output_dir: receives datasets, runs and slices.
        segmenter_ckpt: of a segmenter that was trained on the other folds' real slices.
        annotated: slices that keep their masks.
        image_size: pixels a side.
        slices: to generate an arm, for the held-out masks in turn.
        autoencoder: its iterations.
        base: iterations of the unconditional net.
        branch: iterations of the branch.
    """
    source, output = Path(dataset_dir).resolve(), Path(output_dir).resolve()
    found = arms(source, output, annotated)
    sizes = {"image_size": image_size, "channels": "[32,64,96]", "slices": slices}
    iterations = {"autoencoder": autoencoder, "base": base, "branch": branch}
    training, heldout = (load_dataset(str(source), image_size, FOLD, h)["image"].numpy() for h in (False, True))
    rows = []
    for arm in ("alone", "with_others"):
        made = train(output / f"runs/{arm}", found[arm], found["masks"], sizes, iterations)
        images = load_dataset(str(made), image_size)["image"].numpy()
        found_masks = consistency(source, made, Path(segmenter_ckpt), output / f"evaluations/{arm}")
        if not rows:
            distance = frechet_distance(training, heldout)
            of_real = contrast(source, image_size, True)
            rows.append(["real, held out", len(heldout), f"{distance:.1f}", of_real, found_masks["heldout"]])
        distance = frechet_distance(training, images)
        rows.append([arm, len(images), f"{distance:.1f}", contrast(made, image_size), found_masks["generated"]])
    head = [
        "slices",
        "n",
        "Fréchet distance to real training slices",
        "median lesion contrast",
        "Dice, % (95 % CI)",
    ]
    print_table(head, rows)


def contrast(folder: Path, image_size: int, held_out: bool = False) -> str:
    """Return the median lesion contrast of a folder's slices."""
    data = load_dataset(str(folder), image_size, FOLD if held_out else -1, held_out)
    pairs = zip(data["image"].numpy()[:, 0], data["label"].numpy()[:, 0] > 0.5, strict=True)
    return f"{np.median([lesion_contrast(image, mask) for image, mask in pairs if mask.any()]):.3f}"


if __name__ == "__main__":
    run_command(compare)
