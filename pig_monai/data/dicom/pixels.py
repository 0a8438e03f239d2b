"""Pixel data: where each frame lies in a file, and its decoding, one frame at a time."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, parse_fragments
from pydicom.pixels import get_decoder

from pig_monai.data.dicom.codestreams import check_codestream
from pig_monai.data.dicom.files import EXPORT_AGAIN, reading, transfer_syntax
from pig_monai.data.dicom.separately import decode_separately
from pig_monai.data.volume import UnusableError

PIXEL_TAGS = ["NumberOfFrames", "SamplesPerPixel", "HighBit", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
_LARGEST_FRAME = (
    2**25
)  # pixels, above any detector's: a header that claims more is broken, and would fill the memory
_PLUGINS = {  # one for each syntax, so that what else is installed never changes a pixel
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
_PACKAGES = {"gdcm": "python-gdcm", "pyjpegls": "pyjpegls", "pylibjpeg": "pylibjpeg-openjpeg", "pillow": "pillow"}

_TRANSFER_AGAIN = "copy it again, or ask the site to send it again: the transfer was cut off"

Parts = list[tuple[int, int]]
"""The (offset, length) of the pieces of a file that hold one frame."""


@dataclass(frozen=True)
class PixelData:
    """The frames of one object.

    Args:
        path: its file.
        ds: its header.
        syntax: its transfer syntax; of a deflated file the one inside.
        parts: of each stored frame.
    """

    path: Path
    ds: Dataset
    syntax: uid.UID
    parts: Sequence[Parts]

    def decode(self, frame: int, file: BinaryIO) -> np.ndarray:
        """Decode a stored frame.

        Args:
            frame: its stored index.
            file: the open file.

        Returns:
            the stored numbers (rows, columns).

        Raises:
            UnusableError: it cannot be decoded.
        """
        with reading(f"a frame cannot be decoded from {self.syntax.name}"):
            content = b"".join(_read(file, part) for part in self.parts[frame])
            options = _options(self.ds)
            if self.syntax.is_compressed:
                codestream, bits = check_codestream(content, self.syntax, self.ds)
                if _PLUGINS[self.syntax] == "pillow" and bits > 8:
                    reason = f"its transfer syntax, {self.syntax.name}, cannot be decoded with {bits} bits"
                    raise UnusableError(reason, "export it uncompressed")
                content = encapsulate([codestream], has_bot=False)
                # some headers understate the bits; a decoder would cut them off
                options |= {"decoding_plugin": _PLUGINS[self.syntax], "bits_stored": max(bits, self.ds.BitsStored)}
            if options.get("decoding_plugin") == "gdcm":
                pixels = decode_separately(str(self.syntax), content, options)
            else:
                pixels, _ = get_decoder(self.syntax).as_array(content, index=0, **options)
            if pixels.shape != (self.ds.Rows, self.ds.Columns):
                raise ValueError(f"a frame of {pixels.shape} instead of {(self.ds.Rows, self.ds.Columns)}")
            return pixels


def _read(file: BinaryIO, part: tuple[int, int]) -> bytes:
    file.seek(part[0])
    return file.read(part[1])


def _options(ds: Dataset) -> dict:
    return {
        "rows": int(ds.Rows),
        "columns": int(ds.Columns),
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": str(ds.PhotometricInterpretation),
        "bits_allocated": int(ds.BitsAllocated),
        "bits_stored": int(ds.BitsStored),
        "pixel_representation": int(ds.PixelRepresentation),
        "pixel_keyword": "PixelData",
        "pixel_vr": "OW",
    }


def find_pixel_data(path: Path, file: BinaryIO, ds: Dataset) -> PixelData:
    """Find the frames of an object.

    Args:
        path: its file.
        file: the open file, positioned at the pixel data, as `pig_monai.data.dicom.files.read_tags` leaves it.
        ds: its header.

    Raises:
        UnusableError: the header is unusable, or pixel data is missing, incomplete or cannot be decoded.
    """
    frames = _check_header(ds)
    syntax = transfer_syntax(ds)
    _check_decoder(syntax)
    here = file.tell()
    size = file.seek(0, 2)
    file.seek(here)
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != (0x7FE0, 0x0010):
        raise UnusableError("it holds no pixel data", EXPORT_AGAIN)
    length = struct.unpack(f"{order}L", head[4:] if syntax.is_implicit_VR else file.read(4))[0]
    if length == 0:
        raise UnusableError("it holds no pixel data", EXPORT_AGAIN)
    if (length == 0xFFFFFFFF) != syntax.is_compressed:
        claim, truth = ("compressed", "not") if syntax.is_compressed else ("not compressed", "it is")
        raise UnusableError(f"its header says that the pixels are {claim}, but {truth}", EXPORT_AGAIN)
    if syntax.is_compressed:
        parts = _encapsulated(file, ds, frames, size)
    else:
        parts = _native(file.tell(), min(length, size - file.tell()), ds, frames)
    if len(parts) < frames:
        raise UnusableError(f"its pixel data is incomplete: {len(parts)} of {frames} frames", _TRANSFER_AGAIN)
    return PixelData(path, ds, syntax, parts)


def _check_header(ds: Dataset) -> int:
    """Return how many frames a header claims that can be used.

    Raises:
        UnusableError: it cannot.
    """
    for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        if ds.get(name) is None:
            raise UnusableError(f"its header lacks {name}", EXPORT_AGAIN)
        if not isinstance(ds[name].value, int):  # a text of whatever content, in a damaged header
            raise UnusableError(f"its {name} is no whole number", EXPORT_AGAIN)
    frames = int(ds.get("NumberOfFrames", 1) or 1)
    described = len(ds.get("PerFrameFunctionalGroupsSequence") or [])
    if frames < 1 or not ds.Rows * ds.Columns:
        raise UnusableError("it claims no pixels", EXPORT_AGAIN)
    if ds.Rows * ds.Columns > _LARGEST_FRAME:
        raise UnusableError(f"it claims frames of {ds.Columns} × {ds.Rows} pixels", EXPORT_AGAIN)
    if described not in (0, frames):
        raise UnusableError(f"it claims {frames} frames and describes {described}", EXPORT_AGAIN)
    if ds.SamplesPerPixel != 1 or not str(ds.get("PhotometricInterpretation")).startswith("MONOCHROME"):
        raise UnusableError("its pixels are colours", "export it in greyscale")
    if ds.BitsAllocated not in (8, 16, 32) or not 1 <= ds.BitsStored <= ds.BitsAllocated:
        reason = f"it claims {ds.BitsStored} bits stored in {ds.BitsAllocated} allocated"
        raise UnusableError(reason, EXPORT_AGAIN)
    if ds.get("HighBit", ds.BitsStored - 1) != ds.BitsStored - 1:
        reason = f"its {ds.BitsStored} bits lie below bit {int(ds.HighBit) + 1}, not at the lower end"
        raise UnusableError(reason, EXPORT_AGAIN)
    return frames


def _check_decoder(syntax: uid.UID) -> None:
    """Refuse a transfer syntax without its decoder."""
    native = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
    if syntax in native:
        return
    name = "a private one" if syntax.name == syntax else syntax.name  # what is no name could be anything
    plugin = _PLUGINS.get(syntax)
    if plugin is None:
        raise UnusableError(f"its transfer syntax, {name}, cannot be decoded", "export it uncompressed")
    if plugin not in get_decoder(syntax).available_plugins:
        remedy = f"pip install {_PACKAGES[plugin]}, or export it uncompressed"
        raise UnusableError(f"its transfer syntax, {name}, cannot be decoded without a further package", remedy)


def _native(start: int, length: int, ds: Dataset, frames: int) -> Sequence[Parts]:
    size = int(ds.Rows) * int(ds.Columns) * int(ds.BitsAllocated) // 8
    return [[(start + frame * size, size)] for frame in range(min(frames, length // size))]


def _encapsulated(file: BinaryIO, ds: Dataset, frames: int, size: int) -> Sequence[Parts]:
    """Return the parts of the frames that are there, by fragments, tables of offsets, or starts of codestreams."""
    _, starts = parse_fragments(file)
    items = []
    for start in starts:
        file.seek(start + 4)
        items.append((start + 8, struct.unpack("<L", file.read(4))[0]))
    if not items:
        raise UnusableError("it holds no pixel data", EXPORT_AGAIN)
    (table, table_length), *pieces = items
    if pieces and pieces[-1][0] + pieces[-1][1] > size:
        pieces.pop()
    if len(pieces) == frames:
        return [[piece] for piece in pieces]
    if frames == 1 and pieces:
        return [pieces]
    if len(pieces) < frames:
        return [[piece] for piece in pieces]
    file.seek(table)
    offsets = np.frombuffer(file.read(table_length), "<u4")
    if len(offsets) != frames:
        offsets = np.frombuffer(ds.get("ExtendedOffsetTable") or b"", "<u8")
    if len(offsets) == frames:
        places = {piece[0] - 8 - (table + table_length): number for number, piece in enumerate(pieces)}
        begins = [places.get(int(offset), -1) for offset in offsets]
    else:
        begins = [number for number, piece in enumerate(pieces) if _begins_frame(file, piece)]
    if len(begins) != frames or begins[0] != 0 or any(b <= a for a, b in pairwise(begins)):
        raise UnusableError("its frames cannot be told apart", EXPORT_AGAIN)
    return [pieces[a:b] for a, b in zip(begins, [*begins[1:], len(pieces)], strict=True)]


def _begins_frame(file: BinaryIO, piece: tuple[int, int]) -> bool:
    """Whether a fragment begins with a start of image (JPEG), of codestream or of file (JPEG 2000)."""
    file.seek(piece[0])
    return file.read(4)[:2] in (b"\xff\xd8", b"\xff\x4f", b"\x00\x00")
