"""What the bundle's configs call before they run: errors of one line, and ids that are checked."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml

from pig_monai import processes
from pig_monai.cli import as_number, as_whole, check_flags
from pig_monai.errors import PigError, install_excepthook

RUNNER_OPTIONS = (
    "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
    "tracking_uri", "experiment_name", "run_name", "save_execute_config",
)  # fmt: skip


def find_root() -> str:
    """Return the bundle's root: the working directory, ``bundles/pig_dbt`` in it, or that of this checkout."""
    candidates = [Path(), Path("bundles/pig_dbt"), Path(__file__).resolve().parents[1] / "bundles/pig_dbt"]
    for root in candidates:
        if (root / "configs" / "train_guider.yaml").is_file():
            return str(root)
    return "."


def start(argv: Sequence[str] | None = None) -> None:
    """Set up a workflow: one-line errors, no warnings about settings of ours, and a checked command line.

    Where ``amp`` is false, float32 is float32 on a GPU, too: PyTorch would let convolutions round to TF32.

    Args:
        argv: the process's own arguments by default.

    Raises:
        PigError: an option that the config does not know.
    """
    install_excepthook()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.backends.cudnn.allow_tf32 = False
    check_command_line(sys.argv if argv is None else argv)


def check_command_line(argv: Sequence[str]) -> None:
    """Refuse mistyped ids and tell which ids of a merged preset the config has no use for.

    MONAI's runner takes an override of an unknown id without a word. The first config file says which ids
    exist; the others, presets, may bring ids that are meant for another workflow.

    Raises:
        PigError: an ``--id`` that the first config file lacks.
    """
    files = config_files(argv)
    if not files:
        return  # started from Python, not from the runner's command line
    known = list(_ids_of(files[0]))
    roots = [argument.split("#")[0].split("::")[0] for argument in argv]
    check_flags(roots, [*known, *RUNNER_OPTIONS], hint=f"the ids are explained at the top of {files[0]}")
    ignored = [name for file in files[1:] for name in _ids_of(file) if name not in known]
    if ignored:
        print(f"ignored, not of this workflow: {', '.join(ignored)}", file=sys.stderr)


def config_files(argv: Sequence[str]) -> list[str]:
    """Return what follows ``--config_file`` on the runner's command line: one path, or a list of them."""
    values = [a.split("=", 1)[1] for a in argv if a.startswith("--config_file=")]
    values += [after for option, after in pairwise(argv) if option == "--config_file"]
    if not values:
        return []
    try:
        listed = ast.literal_eval(values[-1])
    except (ValueError, SyntaxError):
        listed = values[-1].strip("[]").split(",")  # fire reads [a.yaml,b.yaml] without quotes, too
    return [str(listed)] if isinstance(listed, str) else [str(item).strip() for item in listed]


def _ids_of(file: str) -> list[str]:
    content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return list(content) if isinstance(content, dict) else []


def check_whole(least: int, **values: Any) -> None:
    """Refuse any of the named values that is not a whole number of at least ``least``."""
    for name, value in values.items():
        as_whole(value, name, least)


def check_numbers(**values: Any) -> None:
    """Refuse any of the named values that is not a number of at least 0."""
    for name, value in values.items():
        as_number(value, name)


def check_shares(**values: Any) -> None:
    """Refuse any of the named values that is not a number from 0 to 1."""
    for name, value in values.items():
        as_number(value, name, most=1)


def default_device() -> str:
    """Return the GPU where there is one, each process of torchrun its own, and the CPU elsewhere."""
    if not torch.cuda.is_available():
        return "cpu"
    return "cuda" if processes.local_rank() is None else f"cuda:{processes.local_rank()}"


def default_amp(device: Any) -> bool:
    """Return whether the device multiplies bfloat16 numbers itself.

    A CPU without such instructions imitates them, and is eight times slower than in float32 (measured on AVX2).
    """
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def check_device(device: Any) -> None:
    """Refuse a device that torch does not know or that this machine lacks."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError, ValueError) as cause:
        raise PigError(
            f"device is {device!r} ({str(cause).splitlines()[0]})", "give cpu, or cuda where it is there"
        ) from cause
