"""What a guider should predict: how well it finds the mask at each noise level, on pixels or on latents.

    python benchmarks/guider_predictions.py --dataset_dir DATASET --output_dir OUT [--autoencoder_ckpt RUN]

DATASET is `make demo`'s (runs/demo/dataset), RUN an autoencoder of `make demo GENERATOR=maisi`. Guiders of
presets/demo.yaml, or with an autoencoder of presets/maisi_demo.yaml, differ in nothing but `prediction`. Figures
are the mean squared error of x̂₀ (a mask is −1 or 1) on slices of the held-out fold, where image and noise are in
the ratio of the column's head: the same masks, slices and noise for all. The same command again continues where it
was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from common import config_ids, print_table, run_bundle
from monai.data import DataLoader, Dataset
from torch import Tensor

from pig_monai.cli import run_command
from pig_monai.denoisers import load_denoiser, training_space
from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.training import masks_to_diffusion
from pig_monai.heldout import HeldOut
from pig_monai.spaces import load_encoded
from pig_monai.training.validation import validation_entries

FOLD = 0
SLICES = 64
RATIOS = (0.2, 0.5, 1, 2, 5)  # of α_t and σ_t


def compare(
    *,
    dataset_dir: str,
    output_dir: str,
    autoencoder_ckpt: str | None = None,
    patch_size: int | None = None,
    iterations: int = 600,
    predictions: str | Sequence[str] = ("v", "sample", "flow", "flow_sample"),
) -> None:
    """Train the guiders, and print the table.

    Args:
        dataset_dir: the phantom's slices.
        output_dir: receives the runs.
        autoencoder_ckpt: run folder of an autoencoder; None for pixels.
        patch_size: of the network, in pixels or positions of the latents' grid; None for the preset's.
        iterations: of each training.
        predictions: to compare.
    """
    preset = "presets/demo.yaml" if autoencoder_ckpt is None else "presets/maisi_demo.yaml"
    ids = config_ids(preset)
    patch_size = patch_size or ids["patch_size"]
    masks, slices = load(Path(dataset_dir), autoencoder_ckpt, ids["image_size"])
    on_latents = {} if autoencoder_ckpt is None else {"autoencoder_ckpt": Path(autoencoder_ckpt)}
    rows = []
    for prediction in [predictions] if isinstance(predictions, str) else predictions:
        run = run_bundle(
            "training", ["train_guider.yaml", preset], Path(output_dir).resolve() / f"{prediction}-{patch_size}",
            dataset_dir=Path(dataset_dir), fold=FOLD, max_iterations=iterations, preview_interval=0,
            prediction=prediction, patch_size=patch_size, **on_latents,
        )  # fmt: skip
        denoiser = load_denoiser(run, "guider", "cpu").denoiser
        rows.append([prediction, *(f"{error(denoiser, masks, slices, ratio):.3f}" for ratio in RATIOS)])
    print_table(["prediction", *(f"image : noise = {ratio}" for ratio in RATIOS)], rows)


def load(dataset_dir: Path, autoencoder_ckpt: str | None, image_size: int) -> tuple[Tensor, Tensor]:
    """Return masks and slices of the held-out fold, on the latents' grid where there is an autoencoder."""
    space = training_space(autoencoder_ckpt, HeldOut.of(dataset_dir, FOLD), "cpu")
    entries = validation_entries(dataset_dir, FOLD)[:SLICES]
    data = Dataset(entries, transform=load_encoded(space, image_size))
    batch = next(iter(DataLoader(data, batch_size=len(entries))))
    return masks_to_diffusion(batch["label"]), batch["image"]


def error(denoiser: Denoiser, masks: Tensor, slices: Tensor, ratio: float) -> float:
    """Return the mean squared error of x̂₀ at the timestep at which α_t / σ_t is nearest to ``ratio``."""
    schedule, generator = denoiser.schedule, torch.Generator().manual_seed(0)
    t = min(range(schedule.num_train_timesteps), key=lambda t: abs(schedule.half_log_snr(t) - math.log(ratio)))
    x_t, y_t = (
        schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), torch.full((len(clean),), t))
        for clean in (masks, slices)
    )
    with torch.inference_mode():
        return float((denoiser(x_t, y_t, t).x0 - masks).square().mean())


if __name__ == "__main__":
    run_command(compare)
