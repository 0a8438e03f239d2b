"""One-line errors: what is wrong, and what to do about it."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from multiprocessing.dummy import DummyProcess
from pathlib import Path
from types import TracebackType

# no blocks, no blocks within the user's quota, larger than files may be
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

PATIENCE = 60.0
"""Seconds that a failed command waits for a thread which still reads a slice."""


class PigError(Exception):
    """A mistake the user can mend, told in one line.

    Args:
        what: what is wrong; names the file, id or value at fault.
        remedy: what to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(f"{self.what}; {self.remedy}".split())


def find_user_error(exception: BaseException | None) -> PigError | None:
    """Return the `PigError` inside an exception that wraps it, as MONAI does while it evaluates a config.

    What only the user can mend counts as one: a full GPU, a full disk, a package that is not installed.
    """
    for cause in _causes(exception):
        error = _as_user_error(cause)
        if error is not None:
            return error
    return None


def _as_user_error(cause: BaseException) -> PigError | None:
    if isinstance(cause, PigError):
        return cause
    kind = type(cause).__name__  # of other packages, named here without importing them
    if kind == "OutOfMemoryError":  # torch's
        return PigError("the GPU's memory is full", "lower batch_size or image_size")
    if kind == "OptionalImportError":  # MONAI's
        return _not_installed(str(cause))
    if isinstance(cause, OSError):
        return disk_full(cause)
    # a worker process of torch's DataLoader sends its exception as the text of a traceback
    sent = re.search(rf"^{PigError.__module__}\.PigError: (.+); (.+)$", str(cause), re.MULTILINE)
    return PigError(sent[1], sent[2]) if sent else None


def _not_installed(message: str) -> PigError | None:
    missing = re.search(r"No module named '(\w+)", message)
    return PigError(f"{missing[1]} is not installed", f"pip install {missing[1]}") if missing else None


def disk_full(cause: OSError, folder: str | Path | None = None) -> PigError | None:
    """Return the error of a write that found no space, or None for any other cause.

    Args:
        cause: why a file could not be written.
        folder: where; by default that of the file that ``cause`` names.
    """
    if cause.errno not in _DISK_FULL:
        return None
    if folder is None and isinstance(cause.filename, str):
        folder = Path(cause.filename).parent
    where = "on the disk" if folder is None else f"in {folder}"
    return PigError(f"no space left {where}", "free some and run the same command again: it continues")


def _causes(exception: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        yield exception
        exception = exception.__cause__ or exception.__context__


def report_user_error(error: PigError) -> None:
    """Print the one line that ends a failed command."""
    sys.stdout.flush()
    print(f"error: {error}", file=sys.stderr, flush=True)


def _await_pool_threads() -> None:
    """Let the threads of a pool finish the item they are at.

    They are left behind when another item raises, as in MONAI's caching of a dataset. One that is inside torch
    when Python shuts down aborts the process: exit status 134, and another last line.
    """
    for thread in threading.enumerate():
        if isinstance(thread, DummyProcess):
            thread.join(PATIENCE)


def debugging() -> bool:
    """Whether the user asked for tracebacks with ``PIG_DEBUG=1``."""
    return os.environ.get("PIG_DEBUG", "0") not in ("", "0")


def install_excepthook() -> None:
    """End the process with one line instead of a traceback when a `PigError` reaches the top.

    Anything else keeps the hook that was there. ``PIG_DEBUG=1`` shows the traceback first.
    """
    if getattr(sys.excepthook, "is_pig_hook", False):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], exception: BaseException, trace: TracebackType | None) -> None:
        error = find_user_error(exception)
        if error is None or debugging():
            previous(kind, exception, trace)
        if error is not None:
            _await_pool_threads()
            report_user_error(error)

    hook.is_pig_hook = True  # type: ignore[attr-defined]
    sys.excepthook = hook
