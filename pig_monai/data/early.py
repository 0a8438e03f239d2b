"""Starting worker processes before this process has imported anything heavy."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Sequence
from multiprocessing.context import BaseContext


def worker_context() -> BaseContext:
    """Return how workers start: from a process that has imported all they need, and whose threads are none."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pig_monai.data.workers"])
    return context


def start_early(arguments: Sequence[str]) -> None:
    """Begin to import what workers need where a command line asks for several; call it before other imports.

    Both processes then import at the same time, which takes each more than a second.

    Args:
        arguments: of the command line; what is wrong with them is told later.
    """
    asked = re.search(r"--workers[= ](\S+)", " ".join(arguments))
    if asked and asked[1] != "1" and isinstance(worker_context(), multiprocessing.context.ForkServerContext):
        from multiprocessing import forkserver

        forkserver.ensure_running()
