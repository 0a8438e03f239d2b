"""What reading a large volume costs: memory against its number of frames, time against the bare codec, workers.

    python benchmarks/decoding.py [--rows 2457 --columns 1890 --volumes 6]

The volumes are constructed: JPEG 2000, 10 bits, a breast of smooth texture and noise on an empty background. Every
figure is a ratio of two measurements of one run on one machine; times are the best of some rounds, in turn. CPU
seconds tell more where others use the machine. Memory is the largest resident size of a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import openjpeg
from common import print_table
from openjpeg.utils import encode_array
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from scipy.ndimage import zoom

from pig_monai.cli import run_command
from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dicom import open_dicom
from pig_monai.data.phantom_dicom import Geometry, build_dataset

SELECTED = 10  # frames with mask
_PEAK = """
from pathlib import Path
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""
_READ = """
import sys
from pathlib import Path
from pig_monai.data.dicom import open_dicom
volume = open_dicom(Path(sys.argv[1]))
for index in range(volume.grid.size[2]):
    volume.frame(index)
"""
_PREPARE = """
import sys
from pig_monai.data.commands import dicom_to_slices
folder, size = sys.argv[1:]
dicom_to_slices(input=f"{folder}/dicom{size}", masks=f"{folder}/masks{size}", output=f"{folder}/out{size}")
"""


def draw(seed: int, rows: int, columns: int) -> np.ndarray:
    """Return a frame (rows, columns) uint16 of ten bits."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:rows, :columns].astype(np.float32)
    inside = (column / (0.55 * columns)) ** 2 + ((row - rows / 2) / (0.45 * rows)) ** 2 < 1
    values = 500 + 12 * rng.standard_normal((rows, columns), dtype=np.float32)
    for step, contrast in ((8, 30), (32, 60), (128, 100)):
        coarse = rng.standard_normal((rows // step + 2, columns // step + 2), dtype=np.float32)
        values += contrast * zoom(coarse, step, order=1)[:rows, :columns]
    return np.where(inside, np.clip(values, 1, 1023), 0).astype(np.uint16)


def write_volume(folder: Path, name: str, streams: list[bytes], shape: tuple[int, int, int], patient: int) -> Path:
    """Write a volume whose frames repeat ``streams``, and a mask in its middle frames; return its file."""
    frames, rows, columns = shape
    geometry = Geometry(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (0.1, 0.1, 1.0))
    ds: Dataset = build_dataset(np.zeros((frames, 1, 1), np.uint16), geometry, f"{patient}", "lmlo", name)
    ds.Rows, ds.Columns, ds.BitsStored, ds.HighBit = rows, columns, 10, 9
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    ds.PixelData = encapsulate([streams[index % len(streams)] for index in range(frames)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    number = "".join(filter(str.isdigit, name.split("-")[0]))
    path = folder / f"dicom{number}" / f"{name}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    mask = np.zeros((columns, rows, frames), np.uint8)
    first = (frames - SELECTED) // 2
    mask[columns // 8 : columns // 6, rows // 2 : rows // 2 + 100, first : first + SELECTED] = 1
    target = folder / f"masks{number}" / f"{name}.nii.gz"
    target.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(mask, geometry.affine_ras()), target)
    return path


def peak(script: str, *arguments: object) -> float:
    """Return the largest resident size of a process in MB."""
    command = [sys.executable, "-c", script + _PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def best(rounds: int, *actions: Callable[[], object]) -> list[tuple[float, float]]:
    """Return the best wall and CPU time of each action in seconds, of some rounds in turn."""
    seconds = [(float("inf"), float("inf"))] * len(actions)
    for _ in range(rounds):
        for number, action in enumerate(actions):
            wall, cpu = time.perf_counter(), time.process_time()
            with contextlib.redirect_stderr(io.StringIO()):
                action()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            seconds[number] = min(seconds[number][0], spent[0]), min(seconds[number][1], spent[1])
    return seconds


def measure(*, rows: int = 2457, columns: int = 1890, volumes: int = 6, rounds: int = 3) -> None:
    """Print the table.

    Args:
        rows: of a frame.
        columns: of a frame.
        volumes: how many, of ten frames each, for the workers.
        rounds: of every measurement of time.
    """
    streams = [encode_array(draw(seed, rows, columns), bits_stored=16) for seed in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {
            count: write_volume(folder, f"v{count}", streams, (count, rows, columns), 1) for count in (10, 100)
        }
        for number in range(volumes):
            write_volume(folder, f"w2-{number}", streams, (SELECTED, rows, columns), number)
        print_table(["what", "10 frames", "100 frames", "ratio"], memory(folder, paths))
        print_table(["what", "seconds", "ratio", "CPU ratio"], times(folder, paths[100], streams, rounds))


def memory(folder: Path, paths: dict[int, Path]) -> list[list[str]]:
    """Return the rows about peak memory."""
    found = []
    for what, peaks in {
        "reading all frames, MB": [peak(_READ, path) for path in paths.values()],
        "preparing the volume, MB": [peak(_PREPARE, folder, count) for count in paths],
    }.items():
        found.append([what, *(f"{value:.0f}" for value in peaks), f"{peaks[1] / peaks[0]:.2f}"])
    return found


def times(folder: Path, path: Path, streams: list[bytes], rounds: int) -> list[list[str]]:
    """Return the rows about time: against the codec, and of two workers against one."""
    volume = open_dicom(path)
    first = (volume.grid.size[2] - SELECTED) // 2
    selected = range(first, first + SELECTED)

    def prepare(source: str, workers: int) -> None:
        options = {"input": folder / f"dicom{source}", "masks": folder / f"masks{source}"}
        dicom_to_slices(**options, output=folder / "out", workers=workers, overwrite=True)

    def read() -> None:
        opened = open_dicom(path)
        for index in selected:
            opened.frame(index)

    codec, reading, whole = best(
        rounds,
        lambda: [openjpeg.decode(streams[index % len(streams)], reshape=False) for index in selected],
        read,
        lambda: prepare("100", 1),
    )
    (one, _), (two, _) = best(rounds, lambda: prepare("2", 1), lambda: prepare("2", 2))
    named = {
        f"decoding {SELECTED} of 100 frames with the codec alone": codec,
        "opening the volume and reading these frames": reading,
        "preparing these frames: the whole command": whole,
    }
    rows = [
        [what, f"{wall:.2f}", f"{wall / codec[0]:.2f}", f"{cpu / codec[1]:.2f}"]
        for what, (wall, cpu) in named.items()
    ]
    rows.append(["preparing several volumes with one worker", f"{one:.2f}", "1", ""])
    rows.append(["the same with two", f"{two:.2f}", f"{one / two:.2f} times as fast", ""])
    return rows


if __name__ == "__main__":
    run_command(measure)
