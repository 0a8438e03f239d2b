"""One-line errors: what is wrong, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import TracebackType


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

    A GPU that ran out of memory counts as one: the remedy is the user's.
    """
    for cause in _causes(exception):
        if isinstance(cause, PigError):
            return cause
        if type(cause).__name__ == "OutOfMemoryError":  # torch's, named here without importing torch
            return PigError("the GPU's memory is full", "lower batch_size or image_size")
    return None


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
            report_user_error(error)

    hook.is_pig_hook = True  # type: ignore[attr-defined]
    sys.excepthook = hook
