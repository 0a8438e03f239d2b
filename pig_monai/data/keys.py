"""The key of the case hashes: a secret that stays beside the dataset folder, never in it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from pig_monai.data.outside import refuse_inside
from pig_monai.errors import PigError


class CaseKey:
    """The secret that turns a patient's id into a case hash: HMAC-SHA256, 12 hex digits."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def hash(self, kind: str, text: str) -> str:
        """Return the hash of ``text``; equal texts of different kinds (patient, file …) differ."""
        message = text if kind == "patient" else f"{kind}\0{text}"
        return hmac.new(self.secret, message.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


def load_key(dataset_dir: Path, key_file: Path | None, make: bool = False, write: bool = True) -> CaseKey:
    """Read the key, or make one beside the dataset folder (readable by its owner only) and reuse it.

    Args:
        dataset_dir: the dataset folder; the default key is ``<dataset_dir>.key``.
        key_file: the user's key.
        make: make the user's key, too, where it is absent; of jobs that start at once all get the same.
        write: whether a key that is made is kept; otherwise it is forgotten with the process.

    Raises:
        PigError: the key lies inside the dataset folder, is empty or cannot be read or made.
    """
    dataset_dir = dataset_dir.resolve()
    path = key_file.resolve() if key_file else dataset_dir.with_name(dataset_dir.name + ".key")
    refuse_inside("the key", path, dataset_dir, "it undoes the anonymity")
    doing = "made"
    try:
        if (make or key_file is None) and not path.exists():
            if not write:
                return CaseKey(secrets.token_bytes())
            _make_key(path)
        doing = "read"
        secret = path.read_bytes().strip()
    except OSError as cause:
        raise PigError(f"the key {path} cannot be {doing} ({cause.strerror})", "give another --key") from None
    if not secret:
        raise PigError(f"the key {path} is empty", "put at least 32 random characters in it")
    return CaseKey(secret)


def _make_key(path: Path) -> None:
    """Make a key that is whole from its first moment on, unless another process is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # its owner's only
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")
        _publish(scratch, path)
    finally:
        os.unlink(scratch)


def _publish(scratch: str, path: Path) -> None:
    """Give a file its name, unless there is one of that name."""
    try:
        os.link(scratch, path)
    except FileExistsError:
        return
    except (
        OSError
    ):  # file systems without links (CIFS, exFAT): whoever looks at once may find it empty, and is told
        with suppress(FileExistsError):
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(Path(scratch).read_bytes())
