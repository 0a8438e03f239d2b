"""What segmenting a whole volume costs: peak memory and time of inference.yaml against the number of frames.

    python benchmarks/whole_volume.py [--rows 2457 --columns 1890]

The volumes are constructed: a breast of smooth texture on an empty background, as float32 NIfTI. Memory is the
largest resident size of the command's process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, bundle_command, print_table
from scipy.ndimage import zoom

from pig_monai.cli import run_command
from pig_monai.data.nifti_command import write_volume
from pig_monai.data.volume import Grid, Volume


def draw(rows: int, columns: int, seed: int) -> np.ndarray:
    """Return a frame (columns, rows) float32."""
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[:columns, :rows].astype(np.float32)
    inside = (x / (0.55 * columns)) ** 2 + ((y - rows / 2) / (0.45 * rows)) ** 2 < 1
    coarse = rng.standard_normal((columns // 64 + 2, rows // 64 + 2), dtype=np.float32)
    texture = 500 + 100 * zoom(coarse, 64, order=1)[:columns, :rows]
    return np.where(inside, np.rint(texture).clip(1, 1023), 0).astype(np.float32)


def infer(images: Path, output: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory, in MB, of the command on ``images``."""
    command = bundle_command("run", ["inference.yaml"], images=images, output_dir=output, device="cpu")
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"inference ended with status {status}")
    assert isinstance(usage, resource.struct_rusage)
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def measure(*, rows: int = 2457, columns: int = 1890) -> None:
    """Print the table.

    Args:
        rows: of a frame.
        columns: of a frame.
    """
    table = []
    with tempfile.TemporaryDirectory() as name:
        for frames in (1, 15, 60):
            drawn = [draw(rows, columns, seed) for seed in range(4)]
            volume = Volume(Grid((columns, rows, frames)), (0.1, 0.1), lambda index, all_=drawn: all_[index % 4])
            path = Path(name) / f"of{frames}.nii.gz"
            write_volume(path, volume)
            seconds, peak = infer(path, Path(name) / "masks")
            size = 4 * rows * columns * frames / 1e6
            table.append([str(frames), f"{size:.0f}", f"{peak:.0f}", f"{seconds:.0f}", f"{seconds / frames:.2f}"])
    print_table(["frames", "volume as float32, MB", "peak memory, MB", "seconds", "seconds a frame"], table)


if __name__ == "__main__":
    run_command(measure)
