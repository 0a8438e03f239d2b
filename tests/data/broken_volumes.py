"""A volume for each way to be broken."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom import uid
from pydicom.encaps import encapsulate

from tests.data.dbt_objects import COLUMNS, FRAMES, ROWS, build, lesion, pixels, save, save_mask


def nested_sequences(depth: int) -> bytes:
    """Request Attributes Sequences, each in the one before."""
    sequence = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
    opened, closed = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    return (sequence + opened) * depth + (closed + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)) * depth


def broken_volumes(folder: Path) -> dict[str, str]:
    """Write one volume for each way to be broken; return stem → the reason that must be given."""
    _write_volumes(folder)
    for path in sorted((folder / "dicom").glob("*.dcm")):
        if path.stem not in ("a", "c", "othergrid", "nomask"):
            save_mask(lesion([1]), folder / f"masks/{path.stem}.nii.gz")
    save_mask(lesion([1])[:, 1:], folder / "masks/othergrid.nii.gz")
    save_mask(lesion([1]), folder / "masks/nobody.nii.gz")
    return {
        "truncated": "its pixel data is incomplete: 2 of 4 frames",
        "truncated_j2k": "its pixel data is incomplete: 3 of 4 frames",
        "claims": "it claims 140 frames and describes 4",
        "giant": "it claims frames of 60000 × 60000 pixels",
        "garbled": "a frame cannot be decoded from JPEG 2000 Image Compression (Lossless Only)",
        "norows": "its header lacks Rows",
        "nosyntax": "its header lacks TransferSyntaxUID",
        "private": "its transfer syntax, a private one, cannot be decoded",
        "nested": "the file cannot be read as DICOM (RecursionError)",
        "nopixels": "it holds no pixel data",
        "mr": "the SOP class MR Image Storage is not supported",
        "sco": "a secondary capture",
        "notes": "not a DICOM file",
        "zero": "not a DICOM file",
        "othergrid": "the mask's grid is 40 × 59 × 4 voxels",
        "nomask": "it has no mask",
        "nobody": "the mask fits no volume",
    }


def _write_volumes(folder: Path) -> None:
    frame = ROWS * COLUMNS * 2

    def cut(name: str, lost: int, syntax: uid.UID | None = None) -> None:
        ds = build(pixels())
        if syntax:
            ds.compress(syntax, generate_instance_uid=False)
        path = save(ds, folder / f"dicom/{name}.dcm")
        path.write_bytes(path.read_bytes()[:-lost])

    cut("truncated", frame + 10)
    cut("truncated_j2k", 30, uid.JPEG2000Lossless)
    save(build(pixels(), NumberOfFrames=140), folder / "dicom/claims.dcm")
    save(build(pixels(), Rows=60000, Columns=60000), folder / "dicom/giant.dcm")
    garbled = build(pixels())
    garbled.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    garbled.PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 60] * FRAMES)
    save(garbled, folder / "dicom/garbled.dcm")
    nested = save(build(pixels()), folder / "dicom/nested.dcm").read_bytes()
    groups = nested.index(struct.pack("<HH", 0x5200, 0x9229))
    (folder / "dicom/nested.dcm").write_bytes(nested[:groups] + nested_sequences(2000) + nested[groups:])
    norows = build(pixels())
    del norows.Rows
    save(norows, folder / "dicom/norows.dcm")
    nosyntax = save(build(pixels()), folder / "dicom/nosyntax.dcm").read_bytes()
    renamed = nosyntax.replace(struct.pack("<HH", 0x0002, 0x0010), struct.pack("<HH", 0x0002, 0x0013), 1)
    (folder / "dicom/nosyntax.dcm").write_bytes(renamed)
    private = save(build(pixels()), folder / "dicom/private.dcm").read_bytes()
    known = str(uid.ExplicitVRLittleEndian).encode()
    (folder / "dicom/private.dcm").write_bytes(private.replace(known, b"1.2.840.999999.2.1\0"[: len(known)], 1))
    empty = build(pixels())
    del empty.PixelData
    save(empty, folder / "dicom/nopixels.dcm")
    save(build(pixels(), SOPClassUID=uid.MRImageStorage), folder / "dicom/mr.dcm")
    save(build(pixels(), SOPClassUID=uid.SecondaryCaptureImageStorage), folder / "dicom/sco.dcm")
    (folder / "dicom/notes.txt").write_text("Roe^Jane, MRN-4711")
    (folder / "dicom/zero.dcm").write_bytes(b"")
    save(build(pixels()), folder / "dicom/othergrid.dcm")
    save(build(pixels()), folder / "dicom/nomask.dcm")
