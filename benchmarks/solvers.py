"""How many steps of which solver: error against a converged solution, and time, on trained weights.

    python benchmarks/solvers.py [--guider_ckpt … --generator_ckpt …] [--pairs 32]

The reference is dpmpp_2m with 512 steps from the same noise. The median pair counts: where a pair stands on the
border between two outcomes, any solver may end in the other one, and one such pair outweighs the rest in a mean.
Times are ratios to ddim with 256 steps in one run.
"""

from __future__ import annotations

import time

import torch
from common import print_table

from pig_monai.bundle import default_amp
from pig_monai.cli import run_command
from pig_monai.denoisers import load_denoiser
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import sample_pairs
from pig_monai.diffusion.solvers import SOLVERS

MODELS = "bundles/pig_dbt/models"
TRIALS = [
    ("ddim", 256), ("ddim", 64), ("ddim", 25),
    ("dpmpp_2m", 50), ("dpmpp_2m", 35), ("dpmpp_2m", 25), ("dpmpp_2m", 15), ("dpmpp_2m", 10),
]  # fmt: skip


def compare(
    *,
    guider_ckpt: str = f"{MODELS}/model_guider.pt",
    generator_ckpt: str = f"{MODELS}/model_generator.pt",
    pairs: int = 32,
    clamp: bool = True,
) -> None:
    """Sample the same pairs with every trial and print the table.

    Args:
        guider_ckpt: the guider's weights.
        generator_ckpt: the generator's weights.
        pairs: how many.
        clamp: keep the estimates in [-1, 1].
    """
    guider = load_denoiser(guider_ckpt, "guider", "cpu", clamp=clamp, amp=default_amp("cpu"))
    generator = load_denoiser(generator_ckpt, "generator", "cpu", clamp=clamp, amp=default_amp("cpu"))
    schedule, size = generator.denoiser.schedule, generator.meta["image_size"]

    def draw(solver: str, steps: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        noise = PairNoise(0, range(pairs), "cpu")
        grid = SOLVERS[solver].timesteps(schedule, steps)
        start = time.perf_counter()
        x0, y0 = sample_pairs(
            guider.denoiser,
            generator.denoiser,
            schedule,
            grid,
            SOLVERS[solver].step,
            noise.draw(1, size, size),
            noise.draw(1, size, size),
            draw=noise,
        )
        return x0 > 0, y0.clamp(-1, 1), time.perf_counter() - start

    masks, slices, _ = draw("dpmpp_2m", 512)
    rows, baseline = [], None
    for solver, steps in TRIALS:
        mask, slice_, seconds = draw(solver, steps)
        baseline = baseline or seconds
        errors = (slice_ - slices).square().mean(dim=(1, 2, 3)).sqrt()
        wrong = float((mask != masks).float().mean())
        median, worst = f"{float(errors.median()):.4f}", f"{float(errors.max()):.3f}"
        rows.append([solver, steps, median, worst, f"{wrong:.4f}", f"{seconds / baseline:.2f}"])
        print(rows[-1], flush=True)
    print_table(
        ["solver", "steps", "slice RMSE, median pair", "worst pair", "mask pixels that differ", "time"], rows
    )


if __name__ == "__main__":
    run_command(compare)
