"""Reads many files in one process, under limits, as `tests/data/test_fuzz.py` starts it.

    python -m tests.data.fuzz_dicom SEED COUNT < paths of files, one a line

Reads the files as they are, then COUNT mutations of them. Prints a line of JSON for each: the file, the mutation
and how it ended. Memory is limited, so that an allocation of what a header claims fails, and so is each file's CPU
time: whoever hangs is killed.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

from pig_monai.data.dicom import open_dicom, read_header
from pig_monai.data.volume import DisplayCurve, UnusableError

SECONDS = 5.0  # of CPU for one file
ROOM = 256 * 2**20  # bytes beyond what the interpreter takes, against files of kilobytes
ABSURD = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(128, min(len(data), 2200))] ^= 1 << rng.randrange(8)


def claim(data: bytearray, rng: random.Random) -> None:
    """Write an absurd number over a length or a value of the header, or over a part of a codestream's header."""
    starts = [at for at in range(len(data) - 3) if data[at : at + 2] == b"\x28\0" or data[at] == 0xFF]
    at = rng.choice(starts or [0]) + rng.choice((2, 4, 6, 8, 10, 12))
    order, size = rng.choice("<>"), rng.choice("HL")
    value = struct.pack(f"{order}{size}", rng.choice(ABSURD) % (2**16 if size == "H" else 2**32))
    data[at : at + len(value)] = value


def nest(data: bytearray, rng: random.Random) -> None:
    opened = struct.pack("<HH2sHLHHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    at = rng.randrange(132, max(133, min(len(data), 600)))
    data[at:at] = opened * rng.choice((1, 50, 1000, 20000))


def splice(data: bytearray, rng: random.Random) -> None:
    """Repeat, drop or move a piece."""
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 400)]
    if rng.random() < 0.5:
        del data[start : start + len(piece)]
    if rng.random() < 0.7:
        at = rng.randrange(len(data) + 1)
        data[at:at] = piece * rng.choice((1, 2, 30))


MUTATIONS = (truncate, flip, flip_header, claim, nest, splice)


def outcome(path: Path) -> dict[str, str]:
    """Read a file as preparation does and say how it ended; only an `UnusableError` may be raised."""
    try:
        header = read_header(path)
        if header.unsupported:
            raise header.unsupported
        volume = open_dicom(path)
        columns, rows, frames = volume.grid.size
        for index in range(min(frames, 4)):
            values = volume.frame(index)
            assert values.shape == (columns, rows)
            assert values.dtype == np.float32
        volume.window_remarks()
        try:
            window = volume.window(0)
        except UnusableError as why:
            assert why.reason
            assert why.remedy
        else:
            if isinstance(window, DisplayCurve):
                window.brightness(values)
    except UnusableError as why:
        assert why.reason
        assert why.remedy
        return {"reason": why.reason, "detail": why.detail[:200]}
    return {"read": "yes"}


def main(seed: int, count: int) -> None:
    paths = [Path(line.strip()) for line in sys.stdin if line.strip()]
    for path in paths:  # decoders load their libraries before the limit is set
        outcome(path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "mutated"
        for number in range(-len(paths), count):
            rng = random.Random(f"{seed} {number}")
            path = paths[number] if number < 0 else rng.choice(paths)
            data = bytearray(path.read_bytes())
            done = [] if number < 0 else rng.sample(MUTATIONS, rng.choice((1, 1, 2)))
            for mutate in done:
                mutate(data, rng)
            scratch.write_bytes(data)
            told = {"file": path.name, "number": number, "mutations": [mutate.__name__ for mutate in done]}
            print(json.dumps(told), end=" ", flush=True)  # the last line tells what killed the process
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            result = outcome(scratch)
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
