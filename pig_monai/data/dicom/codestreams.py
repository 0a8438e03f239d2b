"""The headers of compressed frames: what a codestream claims must be what the DICOM header claims.

Decoders allocate what a codestream claims before they look at the rest; and what two headers disagree on is not
decoded into something that looks right.
"""

from __future__ import annotations

import struct

from pydicom import uid
from pydicom.dataset import Dataset

from pig_monai.data.dicom.files import EXPORT_AGAIN
from pig_monai.data.volume import UnusableError

_J2K = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
_SOF = {0xFFF7, *range(0xFFC0, 0xFFD0)} - {0xFFC4, 0xFFC8, 0xFFCC}  # JPEG-LS' own, and JPEG's
_MOST_TILES = 4096  # decoders keep kilobytes for each
_RLE_GAIN = 64  # two bytes stand for at most 128
_BROKEN = "the codestream's header is broken"


def check_codestream(content: bytes, syntax: uid.UID, ds: Dataset) -> tuple[bytes, int]:
    """Check a compressed frame and return its bare codestream, and how many bits its numbers have.

    Raises:
        UnusableError: its size is not the header's, or it claims what it cannot hold.
        ValueError, struct.error, IndexError: the codestream is broken.
    """
    pixels = int(ds.Rows) * int(ds.Columns)
    if syntax == uid.RLELossless:
        if len(content) * _RLE_GAIN < pixels * int(ds.BitsAllocated) // 8:
            raise UnusableError("a frame is shorter than its pixels need", EXPORT_AGAIN)
        return content, int(ds.BitsStored)
    if syntax in _J2K:
        content = content[_codestream_start(content) :]
        rows, columns, components, bits = _read_siz(content)
    else:
        rows, columns, components, bits = _read_sof(content)
    if (rows, columns, components) != (ds.Rows, ds.Columns, 1):
        reason = f"a frame's codestream holds {columns} × {rows} pixels of {components} components"
        raise UnusableError(f"{reason}, not {ds.Columns} × {ds.Rows} of one", EXPORT_AGAIN)
    if bits > int(ds.BitsAllocated):
        raise UnusableError(f"a frame's codestream holds {bits} bits, more than are allocated", EXPORT_AGAIN)
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1) and len(content) * 8 < pixels:  # a bit each at least
        raise UnusableError("a frame is shorter than its pixels need", EXPORT_AGAIN)
    return content, bits


def _codestream_start(content: bytes) -> int:
    """Return where the JPEG 2000 codestream begins, past the boxes of a JP2 file that some writers wrap it in."""
    offset = 0
    if content[4:8] != b"jP  ":
        return offset
    while content[offset + 4 : offset + 8] != b"jp2c":
        (length,) = struct.unpack_from(">L", content, offset)
        if length < 8:
            raise ValueError(_BROKEN)
        offset += length
    return offset + 8


def _read_siz(content: bytes) -> tuple[int, int, int, int]:
    """Return rows, columns, components and bits (ISO/IEC 15444-1 A.5.1)."""
    if content[:4] != b"\xff\x4f\xff\x51":
        raise ValueError(_BROKEN)
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack_from(">8LH", content, 8)
    if not (tile_x and tile_y and x1 > x0 >= tile_x0 and y1 > y0 >= tile_y0):
        raise ValueError(_BROKEN)
    if content[43:45] != b"\1\1":  # subsampled
        raise ValueError(_BROKEN)
    tiles = -((tile_x0 - x1) // tile_x) * -((tile_y0 - y1) // tile_y)
    if tiles > _MOST_TILES:
        raise ValueError("more tiles than a frame needs")
    return y1 - y0, x1 - x0, components, (content[42] & 0x7F) + 1


def _read_sof(content: bytes) -> tuple[int, int, int, int]:
    """Return rows, columns, components and bits of a JPEG or JPEG-LS frame header (ISO/IEC 10918-1 B.2.2)."""
    if content[:2] != b"\xff\xd8" or content.rstrip(b"\0")[-2:] != b"\xff\xd9":  # decoders fill up what is missing
        raise ValueError("a codestream without its start or end")
    offset = 2
    while True:
        marker, length = struct.unpack_from(">HH", content, offset)
        if marker == 0xFFFF:  # fill
            offset += 1
        elif marker in _SOF:
            bits, rows, columns, components = struct.unpack_from(">BHHB", content, offset + 4)
            return rows, columns, components, bits
        elif marker < 0xFFC0 or length < 2:
            raise ValueError(_BROKEN)
        else:
            offset += 2 + length
