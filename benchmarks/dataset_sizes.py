"""What 30, 300 and 3,000 slices are good for: latest and best weights of short trainings, and how much they copy.

    python benchmarks/dataset_sizes.py --dataset_dir DATASET --output_dir OUT [--iterations 3000]

Trains guider and generator (the demo's networks at 32 × 32) with the bundle's own commands on the first 30, 300
and 3,000 slices outside fold 0, and on 3,000 for 100 iterations only. Compares 256 pairs of the latest and of the
best weights (lowest validation loss) with the slices of fold 0, and draws OUT/<slices>_<iterations>_<weights>.png:
pairs above, below each the training slice that is nearest to it. Runs that are there are continued.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import copy_entries, frechet_distance, load_dataset, print_table, run_bundle
from torch import Tensor

from pig_monai.bundle import default_amp
from pig_monai.cli import run_command
from pig_monai.data.folder import read_datalist
from pig_monai.denoisers import load_denoiser
from pig_monai.pairs.ways import PairSampler
from pig_monai.pictures import contact_sheet
from pig_monai.report import lesion_contrast

SIZE, PAIRS, BATCH, SHOWN = 32, 256, 32, 8


def subset(dataset_dir: Path, folder: Path, count: int) -> None:
    """Copy fold 0 and the first ``count`` slices of the other folds."""
    labelled = [entry for entry in read_datalist(dataset_dir)["training"] if "label" in entry]
    training = [entry for entry in labelled if entry["fold"] != 0][:count]
    heldout = [entry for entry in labelled if entry["fold"] == 0]
    copy_entries(dataset_dir, folder, [*training, *heldout], "benchmarks/dataset_sizes.py")


def train(role: str, dataset: Path, run: Path, iterations: int) -> None:
    """Run the bundle's training at 32 × 32."""
    run_bundle(
        "training", [f"train_{role}.yaml", "presets/demo.yaml"], run, dataset_dir=dataset, image_size=SIZE,
        max_iterations=iterations, preview_interval=0, checkpoint_interval=100, prediction="v",
    )  # fmt: skip


def nearest(images: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, float]:
    """Return each image's nearest training slice, and the median distance (RMSE) to it."""
    a, b = images.reshape(len(images), -1), training.reshape(len(training), -1)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return squared.argmin(1), float(np.median(np.sqrt(np.clip(squared.min(1), 0, None) / a.shape[1])))


def judge(runs: Path, which: str, real: dict[str, Tensor], training: dict[str, Tensor], sheet: Path) -> list[str]:
    """Compare 256 pairs with the held-out slices, and draw a few beside what they may have been copied from."""
    networks = [load_denoiser(runs / role / f"model_{role}{which}.pt", role, "cpu", amp=default_amp("cpu"))
                for role in ("guider", "generator")]  # fmt: skip
    sampler = PairSampler(*networks, seed=1)
    pairs = [pair for start in range(0, PAIRS, BATCH) for pair in sampler.draw(range(start, start + BATCH))]
    slices, masks = np.stack([pair.image for pair in pairs]), np.stack([pair.mask for pair in pairs])
    trained_on, trained_masks = (training[key].numpy()[:, 0] for key in ("image", "label"))
    found, distance = nearest(slices, trained_on)
    shown = range(0, PAIRS, PAIRS // SHOWN)
    tiles = [slices[i] for i in shown] + [trained_on[found[i]] for i in shown]
    outlines = [masks[i] for i in shown] + [trained_masks[found[i]] > 0.5 for i in shown]
    contact_sheet(tiles, outlines, columns=SHOWN, scale=4).save(sheet)
    contrasts = [lesion_contrast(s, m, ring=2) for s, m in zip(slices, masks, strict=True) if m.any()]
    return [
        " / ".join(str(network.meta["iteration"]) for network in networks),
        f"{frechet_distance(real['image'].numpy()[:, 0], slices):.1f}",
        f"{frechet_distance(2 * real['label'].numpy()[:, 0], 2.0 * masks):.1f}",
        f"{np.median(contrasts):.2f}" if contrasts else "none",
        str(int((~masks.any((1, 2))).sum())),
        f"{distance:.3f}",
    ]


def compare(*, dataset_dir: str, output_dir: str, iterations: int = 3000) -> None:
    """Train on 30, 300 and 3,000 slices and print the table.

    Args:
        dataset_dir: dataset folder with five folds.
        output_dir: for the subsets and the runs.
        iterations: of every training.
    """
    out = Path(output_dir)
    rows = []
    for count, steps in ((30, iterations), (300, iterations), (3000, iterations), (3000, 100)):
        dataset, runs = out / f"dataset_{count}", out / f"runs_{count}_{steps}"
        subset(Path(dataset_dir), dataset, count)
        for role in ("guider", "generator"):
            train(role, dataset, runs / role, steps)
        training = load_dataset(str(dataset), SIZE, fold=0)
        real = load_dataset(str(dataset), SIZE, fold=0, held_out=True)
        _, between = nearest(real["image"].numpy()[:, 0], training["image"].numpy()[:, 0])
        for name, which in (("latest", ""), ("best", "_best")):
            row = judge(runs, which, real, training, out / f"{count}_{steps}_{name}.png")
            rows.append([len(training["image"]), name, *row, f"{between:.3f}"])
            print(rows[-1], file=sys.stderr)
    head = ["slices", "weights", "iterations (guider / generator)", "slice distance", "mask distance",
            "lesion contrast", f"empty masks of {PAIRS}", "to the nearest training slice",
            "the same for held-out slices"]  # fmt: skip
    print_table(head, rows)


if __name__ == "__main__":
    run_command(compare)
