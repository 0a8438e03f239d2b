"""Starting worker processes before this process has imported anything heavy."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext


def worker_context() -> BaseContext:
    """Return how workers start: from a process that has imported all they need, and whose threads are none.

    That process runs already. Ctrl-C reaches neither it nor a worker at its very beginning: the parent ends them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pig_monai.data.workers"])
    resource_tracker.ensure_running()  # which unblocks what follows, where it has yet to start
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    return context


def start_early(arguments: Sequence[str]) -> None:
    """Begin to import what workers need where a command line asks for several; call it before other imports.

    Both processes then import at the same time, which takes each more than a second.

    Args:
        arguments: of the command line; what is wrong with them is told later.
    """
    asked = re.search(r"--workers[= ](\S+)", " ".join(arguments))
    if asked and asked[1] != "1":
        worker_context()
