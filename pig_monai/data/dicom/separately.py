"""Decoding in a process of its own, for a decoder that ends the process on broken input, as GDCM does.

    python -m pig_monai.data.dicom.separately

reads requests from its standard input and writes answers to its standard output, pickled, until the input ends.
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
from typing import IO, Any

import numpy as np
from pydicom.pixels import get_decoder

_child: subprocess.Popen[bytes] | None = None


def decode_separately(syntax: str, content: bytes, options: dict[str, Any]) -> np.ndarray:
    """Decode a frame in the process that waits for it; started at the first frame, and again when it died.

    Args:
        syntax: the transfer syntax.
        content: one encapsulated frame.
        options: of pydicom's decoder.

    Returns:
        the stored numbers (rows, columns).

    Raises:
        ValueError: the frame cannot be decoded, or the decoder died of it.
    """
    child = _started()
    stdin, stdout = _pipes(child)
    try:
        pickle.dump((syntax, content, options), stdin)
        stdin.flush()
        answer = pickle.load(stdout)
    except (OSError, EOFError) as cause:
        _stop()
        raise ValueError("the decoder died of the frame") from cause
    if isinstance(answer, str):
        raise ValueError(answer)
    return answer


def _started() -> subprocess.Popen[bytes]:
    global _child
    if _child is None:
        _child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print what they think of a broken frame
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        )
    return _child


def _pipes(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert child.stdin is not None
    assert child.stdout is not None
    return child.stdin, child.stdout


@atexit.register
def _stop() -> None:
    global _child
    child, _child = _child, None
    if child is not None:
        child.kill()
        for pipe in _pipes(child):
            try:
                pipe.close()
            except OSError:  # it died with a request half read
                continue
        child.wait()


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer each request with an array, or with a text that says why there is none."""
    while True:
        try:
            syntax, content, options = pickle.load(requests)
        except EOFError:
            return
        answer: np.ndarray | str
        try:
            answer = get_decoder(syntax).as_array(content, index=0, **options)[0]
        except Exception as cause:
            answer = f"{type(cause).__name__}: {cause}"
        pickle.dump(answer, answers, protocol=5)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
