"""Reading large gzip files from the front to the back."""

from __future__ import annotations

import io
import weakref
import zlib
from pathlib import Path
from typing import Any

_PIECE = 2**20  # bytes of the file that are read at a time


class GzipStream(io.RawIOBase):
    """The content of a gzip file, for readers who take large pieces in order.

    Python's ``gzip`` reads 8 KB of the file at a time and copies what it unpacks: a mask of hundreds of megabytes
    takes it twice as long.

    Args:
        path: the file; damage shows as `zlib.error`, a cut-off end as a short read.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        weakref.finalize(self, self._file.close)
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._unpacker = zlib.decompressobj(wbits=31)  # 16 + 15: gzip, whose checksum it tests
        self._position = 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether `seek` works: yes, backwards by beginning anew."""
        return True

    def tell(self) -> int:
        """Return how many bytes of the content lie before the next one."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte of the content, counted from its beginning."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the beginning")
        if offset < self._position:
            self._begin()
        while self._position < offset and self.read(min(_PIECE, offset - self._position)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes: ``size``, or fewer at the end; all that are left where it is negative."""
        parts: list[bytes] = []
        left = size
        while left and (packed := self._packed()):
            parts.append(self._unpacker.decompress(packed, max(left, 0)))
            left -= len(parts[-1]) if size > 0 else 0
        self._position += sum(map(len, parts))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there are bytes, and return how many."""
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def _packed(self) -> bytes:
        """Return packed bytes to go on with; a file may be several gzip files in a row, or end in zeros."""
        if not self._unpacker.eof:
            return self._unpacker.unconsumed_tail or self._file.read(_PIECE)
        packed = self._unpacker.unused_data.lstrip(b"\0")
        while not packed and (piece := self._file.read(_PIECE)):
            packed = piece.lstrip(b"\0")
        if packed:
            self._unpacker = zlib.decompressobj(wbits=31)
        return packed
