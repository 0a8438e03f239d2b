"""What a dry run prints: the plan of a run, without the run."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

UNIT_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024
"""Bytes that ``ru_maxrss`` counts in: kibibytes on Linux, bytes on macOS."""


def peak_memory(device: torch.device | str) -> float:
    """Return the most memory used so far, in bytes: the tensors on a GPU, the whole process's on a CPU."""
    if str(device).startswith("cuda"):
        import torch  # takes seconds, and a plan without a GPU can do without

        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT_OF_MAXRSS)


WARM_UP = 3
"""Steps that are not timed: the first ones choose algorithms and allocate memory."""

TIMED = 5


def print_plan(title: str, lines: Mapping[str, Any]) -> None:
    """Print the plan of a dry run to stdout: the title, then ``name: value`` with the values in one column.

    Args:
        title: one line.
        lines: value by name, in order; None is shown as ``none``.
    """
    width = max((len(name) for name in lines), default=0) + 1
    print(f"{title} (a dry run: nothing was written)")
    for name, value in lines.items():
        print(f"  {name + ':':<{width}} {'none' if value is None else value}")
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Say a duration in words: ``0.84 s``, ``12 s``, ``5 min 10 s``, ``3 h 10 min`` or ``2 d 4 h``.

    Args:
        seconds: ≥ 0; two units at most are shown, the smaller one rounded.
    """
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    for size, unit, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        large, small = divmod(round(seconds / part_size), size // part_size)
        if large:
            return f"{large} {unit} {small} {part}" if small else f"{large} {unit}"
    return f"{round(seconds)} s"


def file_size(count: float) -> str:
    """Say a number of bytes in words: ``0 bytes``, ``3.2 MB`` or ``41 GB`` (powers of 1000).

    Args:
        count: ≥ 0.
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
