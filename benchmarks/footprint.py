"""Memory and time of the presets' networks by image size: a table of dry runs.

    python benchmarks/footprint.py --dataset_dir DATASET [--sizes 64,128,256,512] [--presets demo,fast,paper]

Each row is the plan that ``--dry_run true`` prints for a guider's training, measured on a few real training steps
in a process of its own. On two CPU cores 512 × 512 takes minutes a row.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from common import print_table

from pig_monai.cli import run_command

CONFIGS = "bundles/pig_dbt/configs"
BATCH = 4


def plan(run_id: str, config: str, preset: str, **ids: Any) -> dict[str, str]:
    """Return the lines of a dry run's plan by name."""
    files = f"['{CONFIGS}/{config}','{CONFIGS}/presets/{preset}.yaml']"
    options = [text for name, value in ids.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", files, *options]
    done = subprocess.run([*command, "--dry_run", "true"], capture_output=True, text=True, check=True)
    return dict(re.findall(r"^  ([^:]+): +(.+)$", done.stdout, re.MULTILINE))


def table(*, dataset_dir: str, sizes: Any = (64, 128, 256, 512), presets: Any = ("demo", "fast", "paper")) -> None:
    """Print the table.

    Args:
        dataset_dir: dataset folder.
        sizes: pixels a side.
        presets: whose networks.
    """
    rows = []
    for size in [sizes] if isinstance(sizes, int) else sizes:
        for preset in [presets] if isinstance(presets, str) else presets:
            found = plan("training", "train_guider.yaml", preset, dataset_dir=dataset_dir, image_size=size,
                         batch_size=BATCH, output_dir="runs/footprint")  # fmt: skip
            row = [size, preset, found["parameters"], found["an iteration"], found["peak memory"], found["disk"]]
            rows.append(row)
            print(row, file=sys.stderr)
    print_table(
        ["image size", "preset", "parameters", f"an iteration (batch {BATCH})", "peak memory", "disk"], rows
    )


if __name__ == "__main__":
    run_command(table)
