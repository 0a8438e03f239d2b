"""GDCM as a second opinion: it encodes what pydicom cannot, and decodes with other codecs than the package's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def compress(path: Path, syntax: str) -> Path:
    """Compress a file in place with GDCM; ``syntax`` is the name of a ``gdcm.TransferSyntax``."""
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm is not installed (pip install -r requirements-dev.txt)")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def decode(path: Path, dtype: type = np.uint16) -> np.ndarray:
    """Decode a file with GDCM: (frames, rows, columns) of stored numbers."""
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm is not installed (pip install -r requirements-dev.txt)")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    shape = image.GetDimensions()[::-1]
    content = image.GetBuffer().encode("utf-8", errors="surrogateescape")
    return np.frombuffer(content, dtype).reshape(-1, *shape[-2:])
