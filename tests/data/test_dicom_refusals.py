"""What cannot be prepared: each with its reason and a remedy, before anything is allocated."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from openjpeg.utils import encode_array
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dicom import open_dicom, read_header
from pig_monai.data.folder import read_datalist
from pig_monai.data.volume import UnusableError
from tests.data.dbt_objects import FRAMES, IDENTITIES, build, build_slices, lesion, pixels, save, save_mask
from tests.data.helpers import assert_nobody_is_named

BTO = "ask the site for a Breast Tomosynthesis (BTO) export"


def unsupported(ds: Dataset, path: Path) -> tuple[str, str]:
    why = read_header(save(ds, path)).unsupported
    assert why is not None
    return why.reason, why.remedy


def refusal(path: Path) -> UnusableError:
    with pytest.raises(UnusableError) as caught:
        open_dicom(path).frame(0)
    assert not any(name in caught.value.reason + caught.value.remedy for name in (*IDENTITIES, str(path)))
    return caught.value


def test_vendors_objects_are_told_with_what_to_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "v.dcm"
    hologic = build(pixels(), SOPClassUID=uid.SecondaryCaptureImageStorage, Manufacturer="HOLOGIC, Inc.")
    hologic.private_block(0x7E01, "HOLOGIC, Inc.", create=True).add_new(0x11, "OB", b"\0" * 100)
    assert unsupported(hologic, path) == (
        "a secondary capture, which has its slices in private elements (Hologic SCO)",
        f"{BTO} instead of SCO",
    )
    words = uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    assert "may hide the slices" in unsupported(build(pixels(), SOPClassUID=words), path)[0]
    siemens = build(pixels(), SOPClassUID=uid.CTImageStorage, Manufacturer="SIEMENS")
    assert unsupported(siemens, path) == (
        "a CT object that is not a slice with a place in a stack (Siemens CTO)",
        f"{BTO} instead of CTO",
    )
    placeless = build_slices(pixels())[0]
    del placeless.ImagePositionPatient
    assert unsupported(placeless, path)[0] == "a CT object that is not a slice with a place in a stack"
    projections = build(pixels(), SOPClassUID=uid.BreastProjectionXRayImageStorageForProcessing)
    assert unsupported(projections, path)[0].startswith("projections, from which the slices were reconstructed")
    directory = build(pixels())
    del directory.SOPClassUID
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = directory.SOPInstanceUID
    assert unsupported(directory, path)[0] == "the SOP class Media Storage Directory Storage is not supported"
    nameless = build(pixels())
    nameless.file_meta.MediaStorageSOPInstanceUID = nameless.SOPInstanceUID
    del nameless.SOPInstanceUID
    assert unsupported(nameless, path) == ("its header lacks SOPInstanceUID", "export it again")
    assert unsupported(build(pixels(), SOPClassUID="1.2.3.4"), path)[0] == "the SOP class is not supported"
    for root, vendor in (("1.2.840.113619.4.26", "GE"), ("1.3.12.2.1107.5.9.1", "Siemens")):
        assert unsupported(build(pixels(), SOPClassUID=root), path) == (
            f"a private object of {vendor}, which others cannot read",
            f"{BTO} instead",
        )


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "its pixels are colours"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "its pixels are colours"),
        ({"Rows": 60000, "Columns": 60000}, "it claims frames of 60000 × 60000 pixels"),
        ({"NumberOfFrames": 2**31 - 1}, "it claims 2147483647 frames and describes 4"),
        ({"Rows": 0}, "it claims no pixels"),
        ({"NumberOfFrames": -1}, "it claims no pixels"),
        ({"Rows": None}, "its header lacks Rows"),
        ({"BitsAllocated": 12}, "it claims 12 bits stored in 12 allocated"),
        ({"BitsStored": 17}, "it claims 17 bits stored in 16 allocated"),
        ({"HighBit": 15}, "its 12 bits lie below bit 16, not at the lower end"),
        ({"PixelData": b""}, "it holds no pixel data"),
    ],
)
def test_unusable_headers_are_named(tmp_path: Path, attributes: dict, reason: str) -> None:
    path = save(build(pixels(), **attributes), tmp_path / "v.dcm")
    tracemalloc.start()
    why = refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert why.reason == reason
    assert why.remedy
    assert peak < 2**20  # whatever is claimed


def test_claimed_gigabytes_are_never_allocated(tmp_path: Path) -> None:
    """A few kilobytes that claim gigabytes in every length there is."""
    whole = save(build(pixels()[:, :8, :8].copy()), tmp_path / "v.dcm").read_bytes()
    data = whole.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    slope = struct.pack("<HH2sHL", 0x0028, 0x1055, b"UT", 0, 2**32 - 2)
    for number, claims in enumerate(
        [
            whole[: data + 8] + struct.pack("<L", 2**32 - 2) + whole[data + 12 :],
            whole[:data] + slope + whole[data:],
            whole[:data].replace(b"PN\x08\0", b"UT\0\0" + struct.pack("<L", 2**32 - 2), 1) + whole[data:],
        ]
    ):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(claims)
        tracemalloc.start()
        try:
            read_header(path)
            open_dicom(path)
        except UnusableError:
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**21, number


def test_pixel_data_that_contradicts_the_syntax_is_refused(tmp_path: Path) -> None:
    compressed = build(pixels())
    compressed.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    whole = save(compressed, tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(
        whole.replace(uid.JPEG2000Lossless.encode(), uid.ExplicitVRLittleEndian.encode() + b"\0" * 3, 1)
    )
    assert refusal(tmp_path / "a.dcm").reason == "its header says that the pixels are not compressed, but it is"
    whole = save(build(pixels()), tmp_path / "b.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(
        whole.replace(uid.ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.10008.1.2.5\0", 1)
    )
    assert refusal(tmp_path / "b.dcm").reason.startswith("its header")


def test_codestreams_that_claim_more_are_refused(tmp_path: Path) -> None:
    stream = bytearray(encode_array(pixels()[0], bits_stored=12))
    claims = {
        "size": (8, struct.pack(">LLLLLL", 60000, 60000, 0, 0, 60000, 60000), "holds 60000 × 60000 pixels"),
        "components": (40, struct.pack(">H", 16384), "of 16384 components"),
        "tiles": (24, struct.pack(">LL", 1, 1), "cannot be decoded"),
        "bits": (42, b"\x25", "holds 38 bits, more than are allocated"),
        "no size": (0, b"\xff\x4f\xff\x52", "cannot be decoded"),
    }
    many = build(pixels(rows=100, columns=80))
    for name, (offset, value, reason) in claims.items():
        source = (
            stream if name != "tiles" else bytearray(encode_array(pixels(rows=100, columns=80)[0], bits_stored=12))
        )
        broken = source[:offset] + value + source[offset + len(value) :]
        ds = many if name == "tiles" else build(pixels())
        ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
        ds.PixelData = encapsulate([bytes(broken)] * FRAMES)
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        assert reason in refusal(save(ds, tmp_path / f"{name}.dcm")).reason, name


def second_meta(whole: bytes, syntax: str, place: str) -> bytes:
    """Insert a second block of file meta information that names another transfer syntax."""
    end = 132 + 12 + struct.unpack_from("<L", whole, 140)[0]
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(value)) + value
    block = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(element)) + element
    if place == "wrapped":
        return whole[:end] + b"\0" * 128 + b"DICM" + block + whole[end:]
    if place == "later":
        at = whole.index(struct.pack("<HH", 0x0028, 0x0002))
        return whole[:at] + block + whole[at:]
    return whole[:end] + block + whole[end:]


@pytest.mark.parametrize("place", ["next", "wrapped", "later"])
def test_a_second_block_of_meta_information_is_refused(tmp_path: Path, place: str) -> None:
    path = save(build(pixels()), tmp_path / "v.dcm")
    path.write_bytes(second_meta(path.read_bytes(), uid.ImplicitVRLittleEndian, place))
    for read in (read_header, open_dicom):
        with pytest.raises(UnusableError, match="its file meta information occurs twice"):
            read(path)


def test_nested_sequences_end_as_a_reason(tmp_path: Path) -> None:
    opened = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closed = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    whole = save(build(pixels()), tmp_path / "v.dcm").read_bytes()
    groups = whole.index(struct.pack("<HH", 0x5200, 0x9229))
    for depth in (3000, 100_000):
        (tmp_path / "v.dcm").write_bytes(whole[:groups] + opened * depth + closed * depth + whole[groups:])
        for read in (read_header, open_dicom):
            with pytest.raises(UnusableError, match="RecursionError"):
                read(tmp_path / "v.dcm")


def test_blank_sides_and_path_like_ids_are_no_obstacle(tmp_path: Path) -> None:
    ds = build(pixels(), laterality="", PatientID="../../etc/passwd\\..\\C:", ViewPosition=" ")
    save(ds, tmp_path / "dicom/v.dcm")
    save_mask(lesion([1]), tmp_path / "masks/v.nii.gz")
    out = tmp_path / "out"
    dicom_to_slices(input=tmp_path / "dicom", masks=tmp_path / "masks", output=out, size=32)
    (entry,) = read_datalist(out)["training"]
    assert (entry["view"], entry["laterality"]) == (None, None)
    assert entry["image"] == f"images/{entry['patient']}_noview_001.nii.gz"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicom", "masks", "out", "out.key"]
    assert_nobody_is_named(out, ["passwd", *IDENTITIES])
