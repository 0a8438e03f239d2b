"""Objects, masks and pictures with a mark in every place that can hold text, and a search for the marks."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import dcmread
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag

from tests.data.dbt_objects import affine

WORD = "ZzLeak"
UID_ROOT = "1.2.826.0.1.3680043.8.498.4711"
VALUES = {
    "AE": f"{WORD}Ae",
    "AS": "047Y",
    "CS": WORD.upper(),
    "DA": "19470313",
    "DS": "47110.815",
    "DT": "19470313134713.471147",
    "IS": "471108153",
    "LO": f"{WORD}Äöü Lo",
    "LT": f"{WORD} Lt\r\nsecond line",
    "PN": f"{WORD}^Zoë^^Dr.=ヤマダ",
    "SH": f"{WORD}Sh",
    "ST": f"{WORD} St",
    "TM": "134713.471147",
    "UC": f"{WORD}Uc",
    "UI": f"{UID_ROOT}.1",
    "UR": f"http://{WORD}.example/jane?born=1947-03-13",
    "UT": f"{WORD} Ut",
    "UN": f"{WORD}Un".encode(),
}
"""A marked value of each value representation that holds text."""

NEEDLES = (
    WORD,
    UID_ROOT,
    *("19470313", "1947-03-13", "1947.03.13", "1947/03/13", "13.03.1947", "13/03/1947", "03/13/1947"),
    *("134713.47", "134713471147", "13:47:13"),
    *("47110.815", "47110815", "471108153"),
)

_READ = {  # what a volume cannot do without
    *("SpecificCharacterSet", "SOPClassUID", "NumberOfFrames", "PhotometricInterpretation", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "RescaleSlope", "RescaleIntercept"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ImagerPixelSpacing"),
    "EstimatedRadiographicMagnificationFactor",
}


def mark(ds: Dataset, keep: frozenset[str] | set[str] = frozenset()) -> Dataset:
    """Put a mark into every element with text that the standard knows, nested ones, private ones and the meta.

    Args:
        ds: an object; changed. What it cannot do without stays.
        keep: further keywords to leave alone.
    """
    every = _every_mark()
    for tag in every.keys():  # noqa: SIM118 (iterating over a dataset would decode its elements)
        if keyword_for_tag(tag) not in keep:
            ds[tag] = every.get_item(tag)
    ds.SpecificCharacterSet = "ISO_IR 192"
    for groups in (*ds.get("SharedFunctionalGroupsSequence", []), *ds.get("PerFrameFunctionalGroupsSequence", [])):
        for element in groups:
            for one in element.value:
                _fill(one)
        _private(groups)
        groups.add_new(Tag(0x0018, 0x9004), "CS", VALUES["CS"])
    _mark_meta(ds.file_meta)
    ds.preamble = f"{WORD} preamble".encode().ljust(128, b"\0")
    return ds


@cache
def _every_mark() -> Dataset:
    """Return the marked elements, encoded: written and read once, since there are thousands of them."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for number, (vr, _, _, _, keyword) in DicomDictionary.items():
        tag = Tag(number)
        if tag.group in (0, 2, 0x7FE0) or tag.element == 0 or keyword in _READ:
            continue
        if vr in VALUES:
            ds.add_new(tag, vr, VALUES[vr])
        elif vr == "SQ":
            ds.add_new(tag, vr, [_item(3 if keyword == "RequestAttributesSequence" else 0)])
    _private(ds)
    stream = io.BytesIO()
    ds.save_as(stream, implicit_vr=False, little_endian=True)
    return dcmread(stream, force=True)


def _item(depth: int) -> Dataset:
    item = _fill(Dataset())
    item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator = VALUES["SH"], VALUES["LO"], VALUES["SH"]
    if depth:
        item.RequestAttributesSequence = [_item(depth - 1)]
    return item


def _fill(item: Dataset) -> Dataset:
    """Mark what identifies people, whatever else an item holds."""
    item.PatientName, item.PatientBirthDate, item.PatientAge = VALUES["PN"], VALUES["DA"], VALUES["AS"]
    item.StudyTime, item.AcquisitionDateTime, item.PatientWeight = VALUES["TM"], VALUES["DT"], VALUES["DS"]
    item.ReferencedSOPInstanceUID, item.RetrieveURL, item.TextValue = VALUES["UI"], VALUES["UR"], VALUES["UT"]
    item.ReferencedFrameNumber, item.PatientComments, item.InstitutionName = (
        VALUES["IS"],
        VALUES["LT"],
        VALUES["LO"],
    )
    return item


def _private(ds: Dataset) -> None:
    for group in (0x0009, 0x0019, 0x7E01):
        block = ds.private_block(group, f"{WORD} {group:x}", create=True)
        for offset, (vr, value) in enumerate(VALUES.items()):
            block.add_new(offset, vr, value)
        block.add_new(0x50, "OB", f"{WORD} bytes!".encode())
        block.add_new(0x51, "SQ", [_item(1)])


def _mark_meta(meta: FileMetaDataset) -> None:
    for name in (
        "SourceApplicationEntityTitle",
        "SendingApplicationEntityTitle",
        "ReceivingApplicationEntityTitle",
    ):
        setattr(meta, name, VALUES["AE"])
    meta.MediaStorageSOPInstanceUID = VALUES["UI"]
    meta.ImplementationClassUID = meta.PrivateInformationCreatorUID = VALUES["UI"]
    meta.ImplementationVersionName = VALUES["SH"]
    meta.PrivateInformation = f"{WORD} meta".encode()


def with_comment(codestream: bytes) -> bytes:
    """Add a comment to a JPEG 2000 codestream, after its SIZ segment."""
    text = f"{WORD} codestream".encode()
    end = 4 + struct.unpack_from(">H", codestream, 4)[0]
    return codestream[:end] + b"\xff\x64" + struct.pack(">HH", len(text) + 4, 1) + text + codestream[end:]


def marked_nifti(mask: np.ndarray, path: Path) -> None:
    """Save a mask (frames, rows, columns) with marks in the header and its extensions."""
    image = nib.Nifti1Image(mask.transpose(2, 1, 0), affine())
    for name, text in (("descrip", "Nifti"), ("aux_file", "Aux"), ("intent_name", "Intent"), ("db_name", "Db")):
        image.header[name] = f"{WORD} {text}"
    for code in (2, 4, 6):  # DICOM, AFNI, a comment
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, f"{WORD} {VALUES['DA']}".encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def marked_nrrd(mask: np.ndarray, path: Path) -> None:
    """Save a mask with marks in the key/value pairs, the comments and the content field."""
    image = sitk.GetImageFromArray(mask)
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine()
    image.SetSpacing([float(v) for v in np.linalg.norm(matrix[:3, :3], axis=0)])
    image.SetOrigin([float(v) for v in matrix[:3, 3]])
    for name in ("Segment0_Name", f"{WORD}key", "NRRD_content"):
        image.SetMetaData(name, f"{WORD} value {VALUES['DA']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    head, separator, data = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + f"\n# {WORD} comment".encode() + separator + data)


def marked_picture(pixels: np.ndarray, path: Path) -> None:
    """Save a picture with marks in the text chunks of PNG, the comment of JPEG, the tags of TIFF, and EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    for tag in (270, 305, 315, 33432):  # description, software, artist, copyright
        exif[tag] = f"{WORD} {VALUES['DA']}"
    exif[306] = "1947:03:13 13:47:13"
    picture, text = Image.fromarray(pixels), PngInfo()
    text.add_text("Author", f"{WORD} text")
    text.add_text("Comment", f"{WORD} compressed", zip=True)
    text.add_itxt("Title", f"{WORD} ヤマダ", zip=True)
    options: dict[str, Any] = {".png": {"pnginfo": text}, ".jpg": {"comment": f"{WORD} jpeg", "quality": 100}}.get(
        path.suffix, {}
    )
    picture.save(path, exif=exif, **options)


def leaks(folder: Path, ids: tuple[str, ...] = ()) -> list[str]:
    """Return where a folder's names or bytes hold a mark, however it is packed or encoded.

    Args:
        folder: what is searched, hidden files included.
        ids: their bare hashes are searched, too: whoever has a list of ids could look them up.
    """
    needles = {form for needle in NEEDLES for form in _forms(needle)}
    for text in ids:
        needles |= {
            getattr(hashlib, kind)(text.encode()).hexdigest()[:12].encode() for kind in ("md5", "sha1", "sha256")
        }
    exact = {form for needle in NEEDLES for form in _packed(needle)}
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        views = [("name", name.encode("utf-8", "surrogateescape"))]
        if path.is_file():
            views += _unpacked("bytes", path.read_bytes())
        for kind, data in views:
            lower = data.lower()
            hits = [n for n in needles if n in lower] + [n for n in exact if n in data]
            if not data.startswith(b"\x1f\x8b") and VALUES["AS"].encode() in data:  # too short for packed bytes
                hits.append(VALUES["AS"].encode())
            found += [f"{name} ({kind}): {hit!r}" for hit in hits]
    return found


def _forms(text: str) -> set[bytes]:
    return {text.lower().encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be", "latin-1")} | {
        text.encode().hex().encode()
    }


def _packed(text: str) -> set[bytes]:
    """Return what stays of a text in base64, wherever in a triple of bytes it begins."""
    raw = text.encode()
    return {
        base64.b64encode(b"\0" * lead + raw)[-(-8 * lead // 6) : 8 * (lead + len(raw)) // 6] for lead in range(3)
    }


def _unpacked(kind: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield bytes, and whatever they hold packed: gzip, pictures in pages, chunks of PNG, escapes of JSON."""
    yield kind, data
    if data.startswith(b"\x1f\x8b"):
        yield from _unpacked(f"{kind}, unzipped", gzip.decompress(data))
    elif data.startswith(b"\x89PNG"):
        yield from _chunks(kind, data)
    elif data.startswith(b"<!doctype"):
        for number, packed in enumerate(re.findall(rb"base64,([A-Za-z0-9+/=]+)", data)):
            yield from _unpacked(f"{kind}, picture {number}", base64.b64decode(packed))
    elif data[:1] in (b"{", b"["):
        yield f"{kind}, parsed", json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _chunks(kind: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    offset, pixels = 8, b""
    while offset < len(data):
        length, name = struct.unpack_from(">L4s", data, offset)
        content = data[offset + 8 : offset + 8 + length]
        offset += 12 + length
        yield f"{kind}, {name.decode()}", content
        if name == b"IDAT":
            pixels += content
        elif name in (b"zTXt", b"iTXt", b"iCCP"):
            for start in [found.start() for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", content)]:
                try:
                    yield f"{kind}, {name.decode()} unzipped", zlib.decompress(content[start:])
                except zlib.error:
                    continue
    yield f"{kind}, pixels", zlib.decompress(pixels) if pixels else b""
