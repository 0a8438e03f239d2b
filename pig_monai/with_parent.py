"""Runs a module that ends with whoever started it: ``python -m pig_monai.with_parent MODULE [ARGUMENTS]``.

Its stdin must be a pipe of which only that process holds the other end: the system closes it however the process
ends, by kill −9, too, and on every system.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass  # nothing is said there
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
