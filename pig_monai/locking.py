"""One process at a time writes into a folder: it holds a lock on a file there, which goes when it ends in order.

A process that was killed leaves the file but no lock.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pig_monai.errors import PigError, disk_full

LOCK = "run.lock"

_LOCKS: dict[Path, FileLock] = {}
"""The locks that this process keeps until it ends, by file."""


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """Lock a folder, which is made where absent, for a block; what was made goes again if nothing came into it.

    Args:
        folder: where nobody else may write.
        option: what the user named it with, for the error.

    Raises:
        PigError: another process writes there, or the folder cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise disk_full(cause, folder) or unwritable(folder, option, cause.strerror) from cause
    path = folder.resolve() / LOCK
    lock = _new_lock(path)
    _acquire(lock, folder, option)
    try:
        yield
    finally:
        _unlock(path, lock)
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def lock_for_good(folder: Path, option: str) -> None:
    """Lock an existing folder for the rest of this process; otherwise as `locked`."""
    path = folder.resolve() / LOCK
    if path in _LOCKS and path.exists():
        return
    lock = _new_lock(path)
    _acquire(lock, folder, option)
    _LOCKS[path] = lock


def check_free(folder: Path, option: str) -> None:
    """Refuse a folder that another process has locked; leaves nothing behind. Otherwise as `locked`."""
    path = folder.resolve() / LOCK
    if path.exists() and path not in _LOCKS:
        lock = _new_lock(path)
        _acquire(lock, folder, option)
        lock.release()


def unwritable(folder: Path, option: str, why: str | None) -> PigError:
    """Return the error of a folder that cannot be written; arguments as for `locked`."""
    return PigError(f"{option} {folder} cannot be written ({why})", "choose another")


def _new_lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _acquire(lock: FileLock, folder: Path, option: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise PigError(
            f"{folder} is in use by another process", f"wait for it, or choose another {option}"
        ) from None
    except OSError as cause:  # among others a file system that knows no locks
        raise disk_full(cause, folder) or unwritable(folder, option, f"{LOCK}: {cause.strerror}") from cause


def _unlock(path: Path, lock: FileLock) -> None:
    # removed while it is locked: a process that has opened the file already finds it gone, and tries anew
    path.unlink(missing_ok=True)
    lock.release()


@atexit.register
def _unlock_all() -> None:
    for path, lock in _LOCKS.items():
        _unlock(path, lock)
