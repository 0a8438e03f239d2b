"""What the kinds of generators cost: parameters, a training step and a network call, in one run.

    python benchmarks/generators.py [--preset maisi_demo --positions 16 --batch_size 16]

All kinds get a preset's levels and the latents of one autoencoder (4 channels, masks of 16). Times are CPU time of
the process, the median of several rounds in which the kinds take turns, so that other work on the machine weighs
on all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from common import LEVELS, config_ids, print_table
from torch import nn

from pig_monai.bundle import default_amp
from pig_monai.cli import run_command
from pig_monai.networks import GENERATORS, diffusion_network

LATENT, MASK = 4, 16
ROUNDS = 5


def cpu_seconds(work: Callable[[], None]) -> float:
    """Return the CPU time that ``work`` takes, of all threads."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def compare(*, preset: str = "maisi_demo", positions: int = 16, batch_size: int = 16) -> None:
    """Print the table.

    Args:
        preset: whose levels the networks have.
        positions: of the latents, a side.
        batch_size: of a training step; a network call takes one image.
    """
    ids = config_ids(f"presets/{preset}.yaml")
    levels = {name: ids[name] for name in LEVELS}
    noisy, mask = (
        torch.randn(batch_size, LATENT, positions, positions),
        torch.ones(batch_size, MASK, positions, positions),
    )
    timesteps, amp = torch.full((batch_size,), 500), default_amp("cpu")
    networks: dict[str, nn.Module] = {
        name: diffusion_network(name, **levels, image_channels=LATENT, condition_channels=MASK).to(
            memory_format=torch.channels_last
        )
        for name in GENERATORS
    }

    def step(network: nn.Module) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            output = network(noisy, timesteps, mask, None)
        output.float().square().mean().backward()

    def call(network: nn.Module) -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            for _ in range(8):
                network(noisy[:1], timesteps[:1], mask[:1], None)

    times: dict[tuple[str, str], list[float]] = {}
    for number in range(ROUNDS + 1):  # the first round chooses algorithms
        for name, network in networks.items():
            for what, work in (("step", step), ("call", call)):
                seconds = cpu_seconds(lambda work=work, network=network: work(network))
                if number:
                    times.setdefault((name, what), []).append(seconds)
    rows = []
    for name, network in networks.items():
        relative = [np.median(times[name, what]) / np.median(times["concat", what]) for what in ("step", "call")]
        parameters = sum(p.numel() for p in network.parameters())
        rows.append([f"`{name}`", f"{parameters / 1e6:.2f} M", *(f"{value:.2f}" for value in relative)])
    print_table(["generator", "parameters", "training step", "network call"], rows)


if __name__ == "__main__":
    run_command(compare)
