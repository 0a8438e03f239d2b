"""Shared fixtures: a small phantom dataset, and the runner as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pig_monai.checkpoint import load_weights, save_weights
from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.phantom_dicom import write_phantom

ROOT = Path(__file__).resolve().parents[1]

TINY = {  # a network that trains in milliseconds
    "image_size": 16,
    "batch_size": 4,
    "channels": "[16,32]",
    "attention_levels": "[False,True]",
    "num_res_blocks": 1,
    "num_head_channels": 16,
    "norm_num_groups": 8,
    "device": "cpu",
}

ANY_MASK = {"min_mask_area": 0, "max_mask_area": 1, "max_components": 1000, "min_inside_breast": 0}

Runner = Callable[..., subprocess.CompletedProcess[str]]


def run_bundle(run_id: str, config: str, cwd: Path = ROOT, **ids: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m monai.bundle run`` as a user does; ``config`` is relative to the bundle's root."""
    prefix = "" if (cwd / "configs").is_dir() else "bundles/pig_dbt/"
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", prefix + config]
    for name, value in ids.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIG_DEBUG": "0"}
    # a command that hangs is a failure, not a reason to wait for ever
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment, check=False, timeout=900
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line on stderr."""
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder prepared from small phantom volumes."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "phantom", patients=12, seed=0, slices=8, rows=96, columns=64)
    dicom_to_slices(
        input=str(folder / "phantom/dicom"),
        masks=str(folder / "phantom/masks"),
        output=str(folder / "dataset"),
        size=64,
    )
    return folder / "dataset"


@pytest.fixture(scope="session")
def trained(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with guider/ and generator/, each trained for three iterations by the runner's command.

    They predict v: a net that predicts the sample and knows nothing says that there is no lesion anywhere.
    """
    folder = tmp_path_factory.mktemp("trained")
    common = {**TINY, "dataset_dir": phantom_dataset, "max_iterations": 3, "prediction": "v"}
    guider = run_bundle("training", "configs/train_guider.yaml", output_dir=folder / "guider", **common)
    assert guider.returncode == 0, guider.stderr
    generator = run_bundle("training", "configs/train_generator.yaml", output_dir=folder / "generator", **common)
    assert generator.returncode == 0, generator.stderr
    return folder


@pytest.fixture(scope="session")
def scrambled(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained networks with random weights: after three iterations a net still says almost nothing."""
    folder = tmp_path_factory.mktemp("scrambled")
    for seed, role in enumerate(("guider", "generator")):
        state, meta = load_weights(trained / role, role)
        noise = torch.Generator().manual_seed(seed)
        state = {name: 0.08 * torch.randn(value.shape, generator=noise) for name, value in state.items()}
        save_weights(folder / role / f"model_{role}.pt", state, meta)
    return folder
