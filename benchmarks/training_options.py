"""Compare ε, v and the clean image, clean mask and guider, with and without the lesion weight, in short trainings.

    python benchmarks/training_options.py --dataset_dir DATASET [--iterations 1500] [--predictions epsilon,v]

Trains the demo's network at 32 × 32 with each option, same seeds, and compares 256 sampled pairs with the slices
trained on. A first look at a small size: repeat it at yours before you rely on it.
"""

from __future__ import annotations

import numpy as np
import torch
from common import frechet_distance, load_dataset, print_table
from torch import nn
from tqdm import tqdm

from pig_monai.bundle import default_amp
from pig_monai.cli import run_command
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import Denoiser, sample_pairs
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.diffusion.solvers import SOLVERS
from pig_monai.diffusion.training import AutocastInferer, DiffusionLoss, GeneratorBatch, GuiderBatch
from pig_monai.networks import diffusion_network
from pig_monai.report import lesion_contrast
from pig_monai.training.batches import ShuffledBatches
from pig_monai.training.optimisation import exponential_moving_average, learning_rate_schedule

SIZE, BATCH, PAIRS = 32, 16, 256
SCHEDULE = NoiseSchedule()


def train(name: str, prepare: GuiderBatch | GeneratorBatch, data: dict, iterations: int) -> Denoiser:
    torch.manual_seed(0)
    network: nn.Module = diffusion_network(
        "concat", [64, 64, 96], [False, False, True], 1, 32, norm_num_groups=16, patch_size=2
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-4)
    schedule = learning_rate_schedule(optimizer, "cosine", iterations, epoch_length=1)
    ema = exponential_moving_average(network, 0.999)
    infer, loss_function = AutocastInferer(default_amp("cpu")), DiffusionLoss()
    batches = iter(ShuffledBatches(len(data["image"]), BATCH, seed=0))
    for _ in tqdm(range(iterations), desc=name):
        chosen = next(batches)
        inputs, target, _, kwargs = prepare({key: value[chosen] for key, value in data.items()}, "cpu")
        loss = loss_function(infer(inputs, network, **kwargs), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update_parameters(network)
    return Denoiser(ema.module.eval(), SCHEDULE, prepare.prediction, amp=default_amp("cpu"))


def judge(guider: Denoiser, generator: Denoiser, data: dict) -> list[str]:
    noise = PairNoise(1, range(PAIRS), "cpu")
    solver = SOLVERS["dpmpp_2m"]
    x0, y0 = sample_pairs(
        guider,
        generator,
        SCHEDULE,
        solver.timesteps(SCHEDULE, 50),
        solver.step,
        *(noise.draw(1, SIZE, SIZE) for _ in range(2)),
        noise,
    )
    masks, slices = (x0 > 0).numpy()[:, 0], y0.clamp(-1, 1).numpy()[:, 0]
    contrasts = [lesion_contrast(s, m, ring=2) for s, m in zip(slices, masks, strict=True) if m.any()]
    real = data["image"].numpy()[:, 0]
    real_masks = data["label"].numpy()[:, 0]
    return [
        f"{frechet_distance(real, slices):.1f}",
        f"{frechet_distance(2 * real_masks, 2.0 * masks):.1f}",
        f"{np.median(contrasts):.3f}" if contrasts else "none",
        f"{np.mean(np.array(contrasts) > 0):.2f}" if contrasts else "none",
        str(int((~masks.any((1, 2))).sum())),
    ]


def compare(
    *, dataset_dir: str, iterations: int = 1500, predictions: str | tuple[str, ...] = ("epsilon", "v", "sample")
) -> None:
    """Train every option and print the table.

    Args:
        dataset_dir: dataset folder; fold 0 is left out.
        iterations: of every training.
        predictions: what the networks predict, with commas between.
    """
    data = load_dataset(dataset_dir, SIZE, fold=0)
    images, labels = (data[key].numpy()[:, 0] for key in ("image", "label"))
    real = [lesion_contrast(s, m > 0.5, ring=2) for s, m in zip(images, labels, strict=True)]
    print(f"{len(data['image'])} slices, median lesion contrast {np.median(real):.3f}")
    rows = []
    for prediction in (predictions,) if isinstance(predictions, str) else predictions:
        guider = train(f"guider {prediction}", GuiderBatch(SCHEDULE, prediction), data, iterations)
        options = [("mask", "none")]
        if prediction != "epsilon":
            options += [("mask", "lesion"), ("guider", "none"), ("guider", "lesion")]
        for condition, weight in options:
            prepare = GeneratorBatch(SCHEDULE, prediction, 1, condition, guider, weight)
            generator = train(f"generator {prediction} {condition} {weight}", prepare, data, iterations)
            rows.append([prediction, condition, weight, *judge(guider, generator, data)])
            print(rows[-1], flush=True)
    head = ["prediction", "condition", "loss_weight", "slice distance", "mask distance", "lesion contrast",
            "brighter inside", "empty masks"]  # fmt: skip
    print_table(head, rows)


if __name__ == "__main__":
    run_command(compare)
