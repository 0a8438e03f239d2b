"""What a pair costs on latents and on pixels, in one run: seconds and peak memory at 512 × 512.

    python benchmarks/latent_speed.py [--image_size 512 --steps 25]

Both are walked with the same solver, one pair at a time, in the presets' networks with fresh weights: the cost
does not depend on them. A pair on latents includes decoding its slice. Each way is measured in a process of its
own; only a few steps are walked, and the whole is calculated from them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch
from common import LEVELS, config_ids, print_table

from pig_monai.autoencoder.latents import Autoencoder
from pig_monai.autoencoder.networks import autoencoder_kl
from pig_monai.bundle import default_amp
from pig_monai.checkpoint import FRESH_PREDICTION
from pig_monai.cli import run_command
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import Denoiser, sample_pairs
from pig_monai.diffusion.schedule import make_schedule
from pig_monai.diffusion.solvers import SOLVERS
from pig_monai.networks import diffusion_network
from pig_monai.plan import UNIT_OF_MAXRSS
from pig_monai.spaces import LatentSpace, PixelSpace, Space

WARM_UP, TIMED = 1, 4


def preset(name: str) -> dict:
    """Return a preset's ids; those that it leaves out are the training config's own."""
    return config_ids("train_generator.yaml", f"presets/{name}.yaml")


def latent_space() -> Space:
    """Return the latents of an autoencoder with fresh weights."""
    ids = config_ids("train_autoencoder.yaml")
    channels = ids["latent_channels"]
    network = autoencoder_kl(
        channels=ids["autoencoder_channels"],
        latent_channels=channels,
        num_res_blocks=ids["autoencoder_res_blocks"],
        norm_num_groups=ids["autoencoder_norm_groups"],
        patch_size=ids["autoencoder_patch_size"],
    )
    latent = {"factor": network.factor, "channels": channels, "mean": [0.0] * channels, "std": [1.0] * channels}
    return LatentSpace(Autoencoder(network, {"latent": latent}, "cpu", default_amp("cpu")))


def denoiser(ids: dict, generator: str, channels: int, condition: int) -> Denoiser:
    """Return a preset's network with fresh weights."""
    levels = {name: ids[name] for name in LEVELS}
    network = diffusion_network(generator, **levels, image_channels=channels, condition_channels=condition)
    network = network.eval().to(memory_format=torch.channels_last)
    prediction = ids["prediction"] or FRESH_PREDICTION
    return Denoiser(network, make_schedule(prediction), prediction, amp=default_amp("cpu"))


def one(*, name: str, image_size: int, steps: int) -> None:
    """Measure one way, and print it as JSON.

    Args:
        name: of the preset.
        image_size: pixels a side.
        steps: of the solver.
    """
    ids = preset(name)
    space: Space = latent_space() if name.startswith("maisi") else PixelSpace()
    guider = denoiser(ids, "concat", space.mask_channels, space.slice_channels)
    generator = denoiser(ids, ids["generator"], space.slice_channels, space.mask_channels)
    noise, side = PairNoise(0, [0], "cpu"), image_size // space.factor
    x_T, y_T = noise.draw(space.mask_channels, side, side), noise.draw(space.slice_channels, side, side)
    solver = SOLVERS["dpmpp_2m"]
    grid = solver.timesteps(guider.schedule, steps)

    def walk(count: int) -> float:
        begin = time.perf_counter()
        sample_pairs(guider, generator, guider.schedule, grid[:count], solver.step, x_T, y_T, noise)
        return time.perf_counter() - begin

    walk(WARM_UP)
    a_step = walk(TIMED) / TIMED
    begin = time.perf_counter()
    space.decode_slices(y_T)
    decoding = time.perf_counter() - begin
    networks = (guider.network, generator.network)
    print(
        json.dumps(
            {
                "seconds": a_step * steps + decoding,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT_OF_MAXRSS,
                "parameters": sum(p.numel() for network in networks for p in network.parameters()),
            }
        )
    )


def compare(*, image_size: int = 512, steps: int = 25) -> None:
    """Print the table.

    Args:
        image_size: pixels a side.
        steps: of dpmpp_2m.
    """
    rows, first = [], None
    for name, what in (("paper", "pixels, the paper's nets"), ("fast", "2 × 2 patches"), ("maisi", "latents")):
        options = ["--name", name, "--image_size", str(image_size), "--steps", str(steps)]
        told = subprocess.run(
            [sys.executable, __file__, "one", *options], capture_output=True, text=True, check=True
        )
        found = json.loads(told.stdout.splitlines()[-1])
        first = first or found["seconds"]
        rows.append(
            [
                f"`{name}`",
                what,
                f"{found['parameters'] / 1e6:.1f} M",
                f"{found['seconds']:.1f}",
                f"{first / found['seconds']:.1f}",
                f"{found['memory'] / 1e9:.2f} GB",
            ]
        )
    print_table(["preset", "where", "parameters", "seconds a pair", "times faster", "peak memory"], rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        sys.argv.pop(1)
        run_command(one)
    else:
        run_command(compare)
