"""DICOM files as hospitals have them: told by their content, and read without trusting what they claim."""

from __future__ import annotations

import io
import logging
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import data_element_generator
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.values import converters

from pig_monai.data.volume import UnusableError

EXPORT_AGAIN = "export it again"
_META = 2  # the group of the file meta information
_GROUP_LENGTH, _TRANSFER_SYNTAX = 0x00020000, 0x00020010
_LARGEST_INFLATED = 2**31  # bytes: more than any volume; a deflated file can claim a thousandfold of its size
_CHUNK = 2**20
_ORDINARY = 256  # bytes of a header's first element
_TWICE = "its file meta information occurs twice, so its transfer syntax is uncertain"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into an `UnusableError`: broken files raise errors of all kinds.

    The message goes into the log's detail only: it may quote the header. Decoders' warnings (a header that claims
    other bits than the codestream has, say) are no news to the user, since the codestream is believed.
    """
    chatter = logging.getLogger("pydicom")  # it prints the traceback of every decoder that it tried
    level = chatter.level
    chatter.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnusableError:
        raise
    except InvalidDicomError as cause:
        raise UnusableError("not a DICOM file", "leave it out, or export it again as DICOM") from cause
    except Exception as cause:
        raise UnusableError(f"{what} ({_kind(cause)})", EXPORT_AGAIN, str(cause)) from cause
    finally:
        chatter.setLevel(level)


def _kind(cause: BaseException) -> str:
    """Return an error's kind; pydicom hides that sequences are nested too deeply in errors of other kinds."""
    within: BaseException | None = cause
    while within is not None and not isinstance(within, RecursionError):
        within = within.__cause__ or within.__context__
    return type(within or cause).__name__


class _WholeFile(io.BufferedReader):
    """A file that never reads past its end: Python allocates what `read` asks for, however little there is."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.size = raw.seek(0, io.SEEK_END)
        raw.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def open_file(path: Path) -> BinaryIO:
    """Open a DICOM file for reading; a deflated one is inflated into a nameless temporary file.

    Raises:
        UnusableError: it inflates to more than any volume needs.
        InvalidDicomError: it is no DICOM file.
    """
    file = _WholeFile(io.FileIO(path))
    try:
        start = _dataset_start(file)
        if _meta_syntax(file, start) != DeflatedExplicitVRLittleEndian:
            file.seek(0)
            return file
    except BaseException:
        file.close()
        raise
    with file:
        return _inflated(file)


def _dataset_start(file: BinaryIO) -> int:
    """Return where the file meta information begins.

    Files without preamble (as some archives export) are told by their first element: of group 2 or 8, with a known
    value representation or, where there is none, a length of an ordinary size.

    Raises:
        InvalidDicomError: it is no DICOM file.
    """
    head = file.read(132)
    if head[128:] == b"DICM":
        return 132
    if len(head) < 132:
        raise InvalidDicomError
    for order in "<>":
        group, _, vr = struct.unpack(f"{order}HH2s", head[:6])
        implicit = order == "<" and struct.unpack("<L", head[4:8])[0] <= _ORDINARY
        if group in (_META, 8) and (vr.decode("latin-1") in converters or implicit):
            return 0
    raise InvalidDicomError


def _meta_syntax(file: BinaryIO, start: int) -> str | None:
    """Return the transfer syntax that the file meta information names.

    Raises:
        UnusableError: there are two such blocks: readers take the last one's, writers meant the first one's.
    """
    file.seek(start)
    tags: set[int] = set()
    syntax = None
    for element in data_element_generator(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != _META):
        if element.tag in tags & {_GROUP_LENGTH, _TRANSFER_SYNTAX}:
            raise UnusableError(_TWICE, EXPORT_AGAIN)
        tags.add(int(element.tag))
        if element.tag == _TRANSFER_SYNTAX and isinstance(element.value, bytes):
            syntax = element.value.decode("latin-1").strip(" \0")
    end = file.tell()
    file.seek(end + 128)
    if file.read(4) == b"DICM":
        raise UnusableError(_TWICE, EXPORT_AGAIN)
    file.seek(end)
    return syntax


def _inflated(file: BinaryIO) -> BinaryIO:
    """Return the file that a deflated one stands for; ``file`` is positioned at the deflated part."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = DicomBytesIO()
    write_file_meta_info(head, meta, enforce_standard=False)
    with tempfile.TemporaryFile() as whole:
        whole.write(b"\0" * 128 + b"DICM" + head.getvalue())
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        while not inflate.eof and (chunk := inflate.unconsumed_tail or file.read(_CHUNK)):
            whole.write(inflate.decompress(chunk, _CHUNK))
            if whole.tell() > _LARGEST_INFLATED:
                raise UnusableError("it inflates to more than 2 GiB", EXPORT_AGAIN)
        while rest := inflate.decompress(inflate.unconsumed_tail, _CHUNK):
            whole.write(rest)
        whole.flush()
        return _WholeFile(io.FileIO(os.dup(whole.fileno())))


def read_tags(file: BinaryIO, tags: Sequence[str]) -> FileDataset:
    """Read some elements; what else a file holds, private slices of hundreds of megabytes say, stays unread.

    Args:
        file: from `open_file`; left at the pixel data element, where there is one.
        tags: keywords.

    Returns:
        the elements, whose ``file_meta`` holds the transfer syntax: of a file without file meta information it is
        the uncompressed one that its bytes are written in.

    Raises:
        UnusableError: it is no image object, or it has a second block of file meta information further on.
    """
    start = _start_of(file)
    wanted = [*tags, "SOPClassUID", "TransferSyntaxUID"]
    ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=wanted)
    if "TransferSyntaxUID" in ds:
        raise UnusableError(_TWICE, EXPORT_AGAIN)
    if start == 0 and not ds.file_meta and "SOPClassUID" not in ds:
        raise InvalidDicomError
    if start == 0 and "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds


def _start_of(file: BinaryIO) -> int:
    file.seek(0)
    start = _dataset_start(file)
    file.seek(0)
    return start


def transfer_syntax(ds: Dataset) -> UID:
    """Return the transfer syntax of a dataset from `read_tags`.

    Raises:
        UnusableError: it names none.
    """
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnusableError("its header lacks TransferSyntaxUID", EXPORT_AGAIN)
    return UID(syntax)
