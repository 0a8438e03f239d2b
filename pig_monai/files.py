"""Files that are either whole or absent: written aside, then renamed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pig_monai.errors import PigError, disk_full

SCRATCH = ".writing-"
"""What the names of files begin with that are not whole yet."""


@contextmanager
def atomic_path(target: str | Path, private: bool = False) -> Iterator[Path]:
    """Yield a scratch path beside ``target`` (same suffixes); rename it if the block succeeds.

    Args:
        target: the file.
        private: whether its owner alone may read it, instead of whom the umask lets.

    Raises:
        PigError: the disk is full; what ``target`` was, it still is.
    """
    target = Path(target)
    try:
        with _scratch_file(target) as scratch:
            yield scratch
            if not private:  # mkstemp makes private files; a dataset is shared like any other file
                umask = os.umask(0)
                os.umask(umask)
                scratch.chmod(0o666 & ~umask)
            os.replace(scratch, target)
    except OSError as cause:
        full = disk_full(cause, target.parent)
        if full is None:
            raise
        raise full from cause


@contextmanager
def _scratch_file(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=SCRATCH, suffix="".join(target.suffixes[-2:]), dir=target.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def remove_scratch_files(folders: Iterable[Path]) -> None:
    """Remove what a process that was killed left unfinished; nobody else may be writing there."""
    for folder in folders:
        for scratch in folder.glob(f"{SCRATCH}*"):
            scratch.unlink(missing_ok=True)


def write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(target: str | Path, content: Any) -> None:
    """Write JSON atomically, indented by one space, with a final newline."""
    write_text(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def save_torch(path: str | Path, content: Any) -> None:
    """Write what ``torch.save`` takes, atomically and with bytes that depend on the content alone.

    Given a path, torch would write the scratch file's name into the bytes, and tell of a full disk as if it were
    a bug of its own.
    """
    import torch  # takes seconds, and few who write files need it

    serialised = io.BytesIO()
    torch.save(content, serialised)
    with atomic_path(path) as scratch:
        scratch.write_bytes(serialised.getbuffer())


def read_json(source: str | Path, remedy: str) -> Any:
    """Read a JSON file.

    Raises:
        PigError: the file is missing or is not JSON; ``remedy`` says what the user can do.
    """
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PigError(f"{source} does not exist", remedy) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise PigError(f"{source} cannot be read as JSON ({cause})", remedy) from None


def sha256(source: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_rows(path: str | Path, remedy: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file by the names in its head.

    Raises:
        PigError: it cannot be read; ``remedy`` says what to do.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except OSError as cause:
        raise PigError(f"{path} cannot be read ({cause.strerror})", remedy) from None
