"""Memory and time of the presets' networks by image size: a table of dry runs.

    python benchmarks/footprint.py --dataset_dir DATASET [--sizes 64,128,256,512] [--presets demo,fast,paper]

Each row is the plan that ``--dry_run true`` prints for a guider's training, measured on a few real training steps
in a process of its own. On two CPU cores 512 × 512 takes minutes a row.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT, bundle_command, print_table

from pig_monai.cli import run_command

BATCH = 4


def plan(preset: str, **ids: Any) -> dict[str, str]:
    """Return the lines of a dry run's plan of a guider's training by name."""
    command = bundle_command("training", ["train_guider.yaml", f"presets/{preset}.yaml"], **ids, dry_run=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
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
            ids = {"dataset_dir": Path(dataset_dir), "image_size": size, "batch_size": BATCH}
            found = plan(preset, **ids, output_dir="runs/footprint")
            row = [size, preset, found["parameters"], found["an iteration"], found["peak memory"], found["disk"]]
            rows.append(row)
            print(row, file=sys.stderr)
    print_table(
        ["image size", "preset", "parameters", f"an iteration (batch {BATCH})", "peak memory", "disk"], rows
    )


if __name__ == "__main__":
    run_command(table)
