"""What reading a large volume costs: memory against its number of frames, time against the bare codec, workers.

    python benchmarks/decoding.py [--rows 2457 --columns 1890 --volumes 6]

The volumes are constructed: JPEG 2000, 10 bits, a breast of smooth texture and noise on an empty background. Every
figure is a ratio of two measurements of one run on one machine; times are the best of some rounds, in turn. CPU
seconds tell more where others use the machine. Memory is the largest resident size of a process of its own.

The whole command is a process of its own, from the start of the interpreter to its end: imports, headers, the mask
of all frames, report and folds. The codec runs in a process that has started already, so the command's start is
given for itself, too: a process that imports what the command does, and ends.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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
from pig_monai.data.dicom import open_dicom
from pig_monai.data.phantom_dicom import Geometry, build_dataset

FRAMES = 100
SELECTED = (10, 25, 50)  # frames with mask: a mass is seen on some twenty to fifty
COMMAND = [sys.executable, str(Path(__file__).parents[1] / "data_prep/dicom_to_slices.py")]
START_UP = [sys.executable, "-c", "import pig_monai.data.commands, pig_monai.data.prepare"]
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
folder, name = sys.argv[1:]
dicom_to_slices(input=f"{folder}/dicom_{name}", masks=f"{folder}/masks_{name}", output=f"{folder}/out_{name}")
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


def write_volume(
    folder: Path, name: str, streams: list[bytes], shape: tuple[int, int, int], patient: int, selected: int
) -> Path:
    """Write a volume whose frames repeat ``streams``, and a mask in its middle ones; return its file."""
    frames, rows, columns = shape
    geometry = Geometry(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (0.1, 0.1, 1.0))
    ds: Dataset = build_dataset(np.zeros((frames, 1, 1), np.uint16), geometry, f"{patient}", "lmlo", name)
    ds.Rows, ds.Columns, ds.BitsStored, ds.HighBit = rows, columns, 10, 9
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    ds.PixelData = encapsulate([streams[index % len(streams)] for index in range(frames)])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    group = name.split("-")[0]
    path = folder / f"dicom_{group}" / f"{name}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    mask = np.zeros((columns, rows, frames), np.uint8)
    first = (frames - selected) // 2
    mask[columns // 8 : columns // 6, rows // 2 : rows // 2 + 100, first : first + selected] = 1
    target = folder / f"masks_{group}" / f"{name}.nii.gz"
    target.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(mask, geometry.affine_ras()), target)
    return path


def peak(script: str, *arguments: object) -> float:
    """Return the largest resident size of a process in MB."""
    command = [sys.executable, "-c", script + _PEAK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def best(rounds: int, actions: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Return the best wall and CPU time of each action in seconds, of some rounds in turn; processes count."""
    seconds = dict.fromkeys(actions, (float("inf"), float("inf")))
    for _ in range(rounds):
        for what, action in actions.items():
            wall, cpu = time.perf_counter(), sum(os.times()[:4])
            action()
            spent = time.perf_counter() - wall, sum(os.times()[:4]) - cpu
            seconds[what] = min(seconds[what][0], spent[0]), min(seconds[what][1], spent[1])
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
        small = write_volume(folder, "of10", streams, (10, rows, columns), 1, 10)
        large = [write_volume(folder, f"with{n}", streams, (FRAMES, rows, columns), 1, n) for n in SELECTED]
        print_table(["what", "10 frames", f"{FRAMES} frames", "ratio"], memory(folder, [small, large[0]]))
        head = ["what", "seconds", "ratio", "CPU seconds", "CPU ratio"]
        for path, selected in zip(large, SELECTED, strict=True):
            print_table(head, times(folder, path, streams, selected, rounds))
        for number in range(volumes):
            write_volume(folder, f"many-{number}", streams, (10, rows, columns), number, 10)
        print_table(["what", "seconds", "ratio"], workers(folder, rounds))


def run(command: Sequence[str]) -> None:
    """Run a command, without what it says."""
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def prepare(folder: Path, group: str, workers: int = 1) -> None:
    """Give the command for a group of volumes."""
    options = {"input": folder / f"dicom_{group}", "masks": folder / f"masks_{group}"}
    options |= {"output": folder / f"out_{group}"}
    given = [f"--{name}={value}" for name, value in options.items()]
    run([*COMMAND, *given, f"--workers={workers}", "--overwrite=true"])


def memory(folder: Path, paths: Sequence[Path]) -> list[list[str]]:
    """Return the rows about peak memory."""
    found = []
    for what, peaks in {
        "reading all frames, MB": [peak(_READ, path) for path in paths],
        "preparing the volume, MB": [peak(_PREPARE, folder, path.stem) for path in paths],
    }.items():
        found.append([what, *(f"{value:.0f}" for value in peaks), f"{peaks[1] / peaks[0]:.2f}"])
    return found


def times(folder: Path, path: Path, streams: list[bytes], selected: int, rounds: int) -> list[list[str]]:
    """Return the rows about time against the codec's, for the frames that hold mask."""
    first = (FRAMES - selected) // 2
    wanted = range(first, first + selected)

    def read() -> None:
        opened = open_dicom(path)
        for index in wanted:
            opened.frame(index)

    codec = f"decoding {selected} of {FRAMES} frames with the codec alone"
    whole, start_up = "preparing these frames: the whole command", "starting the command: interpreter and imports"
    shared = "the whole command with two workers, which share the volume"
    actions = {
        codec: lambda: [openjpeg.decode(streams[index % len(streams)], reshape=False) for index in wanted],
        "opening the volume and reading these frames": read,
        whole: lambda: prepare(folder, path.stem),
        shared: lambda: prepare(folder, path.stem, workers=2),
        start_up: lambda: run(START_UP),
    }
    found = best(rounds, actions)
    found["the whole command without its start"] = (
        found[whole][0] - found[start_up][0],
        found[whole][1] - found[start_up][1],
    )
    found[shared] = found[shared][0], math.nan  # its workers are not our children: their CPU time is not known
    return [
        [what, f"{wall:.2f}", f"{wall / found[codec][0]:.2f}", f"{cpu:.2f}", f"{cpu / found[codec][1]:.2f}"]
        for what, (wall, cpu) in found.items()
    ]


def workers(folder: Path, rounds: int) -> list[list[str]]:
    """Return the rows about two workers against one."""
    found = best(rounds, {f"{n}": lambda n=n: prepare(folder, "many", workers=n) for n in (1, 2)})
    (one, _), (two, _) = found.values()
    return [
        ["preparing several volumes with one worker", f"{one:.2f}", "1"],
        ["the same with two", f"{two:.2f}", f"{one / two:.2f} times as fast"],
    ]


if __name__ == "__main__":
    run_command(measure)
