"""Every transfer syntax, pixel by pixel against what was encoded or what GDCM and ITK decode."""

from __future__ import annotations

import base64
import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import get_decoder

from pig_monai.data.dicom import open_dicom, read_header
from pig_monai.data.volume import UnusableError
from tests.data import gdcm_files
from tests.data.dbt_objects import COLUMNS, FRAMES, ROWS, build, pixels, save


def frames_of(path: Path) -> np.ndarray:
    volume = open_dicom(path)
    return np.stack([volume.frame(index).T for index in range(volume.grid.size[2])])


def signed_pixels() -> np.ndarray:
    return (pixels().astype(np.int16) - 700).astype(np.int16)


def encapsulated(ds: Dataset, syntax: uid.UID, frames: list[bytes], **options: bool) -> Dataset:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(frames, **options)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.RLELossless,
    ],
)
def test_what_pydicom_writes_is_read_exactly(tmp_path: Path, syntax: uid.UID, signed: bool) -> None:
    stored = signed_pixels() if signed else pixels()
    ds = build(stored, PixelRepresentation=int(signed))
    if syntax.is_compressed and not syntax.is_deflated:
        ds.compress(syntax, generate_instance_uid=False)
    elif syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "v.dcm"
    ds.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(frames_of(path), stored)
    assert read_header(path).instance == ds.SOPInstanceUID


@pytest.mark.parametrize("bits", [8, 32])
def test_other_depths_are_read_exactly(tmp_path: Path, bits: int) -> None:
    stored = (pixels() // 8).astype(np.uint8) if bits == 8 else pixels().astype(np.uint32) * 4000
    ds = build(stored, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_array_equal(frames_of(save(ds, tmp_path / "v.dcm")), stored.astype(np.float32))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEG2000Lossless"])
def test_what_gdcm_writes_is_read_exactly(tmp_path: Path, syntax: str, signed: bool) -> None:
    stored = signed_pixels() if signed else pixels()
    ds = build(stored, PixelRepresentation=int(signed))
    path = gdcm_files.compress(save(ds, tmp_path / "v.dcm"), syntax)
    expected = {"14": "1.2.840.10008.1.2.4.57", "_1": "1.2.840.10008.1.2.4.70"}.get(syntax[-2:])
    assert dcmread(path).file_meta.TransferSyntaxUID == (expected or uid.JPEG2000Lossless)
    np.testing.assert_array_equal(frames_of(path), stored)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), stored)


@pytest.mark.parametrize("syntax", [uid.JPEG2000, uid.JPEGLSNearLossless])
def test_lossy_frames_are_what_gdcm_decodes(tmp_path: Path, syntax: uid.UID) -> None:
    ds = build(pixels())
    options = {"j2k_cr": [4]} if syntax == uid.JPEG2000 else {"jls_error": 3}
    ds.compress(syntax, generate_instance_uid=False, **options)
    path = save(ds, tmp_path / "v.dcm")
    read = frames_of(path)
    np.testing.assert_array_equal(read, gdcm_files.decode(path))
    assert 0 < np.abs(read - pixels()).max() < 40


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_lossy_jpeg_of_eight_bits_is_what_gdcm_decodes(tmp_path: Path, syntax: uid.UID) -> None:
    stored = (pixels() // 8).astype(np.uint8)
    streams = []
    for frame in stored:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95)
        streams.append(buffer.getvalue())
    ds = build(stored, BitsAllocated=8, BitsStored=8, HighBit=7)
    path = save(encapsulated(ds, syntax, streams), tmp_path / "v.dcm")
    read = frames_of(path)
    assert np.abs(read - gdcm_files.decode(path, np.uint8).astype(int)).max() <= 1  # two codecs round differently
    assert 0 < np.abs(read - stored).max() < 20
    twelve = streams[0].replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc1\x00\x0b\x0c")
    ds = encapsulated(build(stored[:1], PerFrameFunctionalGroupsSequence=None), uid.JPEGExtended12Bit, [twelve])
    with pytest.raises(UnusableError, match="JPEG Extended .*cannot be decoded with 12 bits") as caught:
        open_dicom(save(ds, tmp_path / "v.dcm")).frame(0)
    assert caught.value.remedy == "export it uncompressed"


def htj2k() -> tuple[np.ndarray, bytes]:
    """A frame of 16 × 12 pixels and its codestream as imagecodecs 2026.3.6 (OpenJPH) wrote it, losslessly."""
    row, column = np.mgrid[:16, :12]
    stream = base64.b85decode(HTJ2K)
    return (40 * row * column + 3 * row).astype(np.uint16), stream


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K])
def test_htj2k_is_read_exactly(tmp_path: Path, syntax: uid.UID) -> None:
    frame, stream = htj2k()
    ds = build(frame[None], BitsStored=16, HighBit=15)
    path = save(encapsulated(ds, syntax, [stream]), tmp_path / "v.dcm")
    np.testing.assert_array_equal(frames_of(path)[0], frame)


@pytest.mark.parametrize("precision", [12, 16])
def test_the_codestream_s_bits_count_not_the_header_s(
    tmp_path: Path, precision: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a public archive: Bits Stored 10 against a codestream of 16 bits."""
    stored = pixels()  # up to 2000: more than ten bits
    ds = build(stored, BitsStored=10, HighBit=9)
    streams = [encode_array(frame, bits_stored=precision) for frame in stored]
    path = save(encapsulated(ds, uid.JPEG2000Lossless, streams), tmp_path / "v.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(frames_of(path), stored)
    assert capfd.readouterr() == ("", "")


def test_jpeg_lossless_with_understated_bits(tmp_path: Path) -> None:
    path = gdcm_files.compress(save(build(pixels()), tmp_path / "v.dcm"), "JPEGLosslessProcess14_1")
    ds = dcmread(path)
    ds.BitsStored, ds.HighBit = 10, 9
    ds.save_as(path)
    np.testing.assert_array_equal(frames_of(path), pixels())


def test_a_frame_that_kills_its_decoder_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = gdcm_files.compress(save(build(pixels()), tmp_path / "v.dcm"), "JPEGLosslessProcess14_1")
    content = bytearray(path.read_bytes())
    starts = [at for at in range(len(content)) if content[at : at + 4] == b"\xff\xd8\xff\xc3"]
    assert len(starts) == FRAMES
    table = content.index(b"\xff\xc4", starts[1])
    content[table] = 5  # no marker any more
    path.write_bytes(content)
    volume = open_dicom(path)
    for index in (0, 1, 2, 3):
        if index == 1:
            with pytest.raises(UnusableError, match="cannot be decoded from JPEG Lossless") as caught:
                volume.frame(index)
            assert caught.value.detail == "the decoder died of the frame"
        else:
            np.testing.assert_array_equal(volume.frame(index).T, pixels()[index])


def test_a_jp2_file_in_a_frame_is_unwrapped(tmp_path: Path) -> None:
    stored = pixels()
    jp2 = [encode_array(frame, bits_stored=12, codec_format=1) for frame in stored]
    assert jp2[0][4:8] == b"jP  "
    path = save(encapsulated(build(stored), uid.JPEG2000Lossless, jp2), tmp_path / "v.dcm")
    np.testing.assert_array_equal(frames_of(path), stored)


@pytest.mark.parametrize("table", ["basic", "extended", "none", "wrong"])
def test_frames_of_several_fragments_are_told_apart(tmp_path: Path, table: str) -> None:
    stored = pixels()
    ds = build(stored)
    streams = [encode_array(frame, bits_stored=12) for frame in stored]
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    ds.PixelData = encapsulate(streams, fragments_per_frame=3, has_bot=table == "basic")
    if table in ("extended", "wrong"):
        _, offsets, lengths = encapsulate_extended(streams)
        if table == "extended":
            starts = [0]
            for stream in streams[:-1]:  # three items of eight bytes a frame, each of an even length
                size = -(-len(stream) // 3)
                size += size % 2
                last = len(stream) - 2 * size
                starts.append(starts[-1] + 3 * 8 + 2 * size + last + last % 2)
            offsets = np.array(starts, "<u8").tobytes()
        ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = offsets, lengths
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    path = save(ds, tmp_path / "v.dcm")
    if table == "wrong":  # the offsets of unfragmented frames
        with pytest.raises(UnusableError, match="its frames cannot be told apart"):
            open_dicom(path)
    else:
        np.testing.assert_array_equal(frames_of(path), stored)


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
@pytest.mark.parametrize("meta", [False, True])
def test_files_without_preamble_are_recognised(tmp_path: Path, syntax: uid.UID, meta: bool) -> None:
    stored = pixels()
    ds = build(stored)
    if syntax == uid.ExplicitVRBigEndian:
        ds.PixelData = stored.astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "IM_0001.jpg"  # the name says nothing
    ds.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    start = 132 if meta else 132 + 12 + int.from_bytes(whole[140:144], "little")
    path.write_bytes(whole[start:])
    np.testing.assert_array_equal(frames_of(path), stored)
    assert read_header(path).patient == "MRN-4711"


def test_a_missing_decoder_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gdcm_files.compress(save(build(pixels()), tmp_path / "v.dcm"), "JPEGLosslessProcess14_1")
    decoder = get_decoder(uid.JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(UnusableError) as caught:
        open_dicom(path)
    assert "JPEG Lossless, Non-Hierarchical, First-Order Prediction" in caught.value.reason
    assert caught.value.remedy.startswith("pip install python-gdcm")


def test_a_syntax_without_free_decoder_is_named(tmp_path: Path) -> None:
    ds = encapsulated(build(pixels()), uid.UID("1.2.840.10008.1.2.4.92"), [b"\xff\x4f"] * FRAMES)
    with pytest.raises(UnusableError) as caught:
        open_dicom(save(ds, tmp_path / "v.dcm"))
    assert caught.value.reason.startswith("its transfer syntax, JPEG 2000 Part 2")
    assert caught.value.remedy == "export it uncompressed"


def test_a_codestream_of_another_size_is_refused(tmp_path: Path) -> None:
    streams = [encode_array(frame[:, :-2].copy(), bits_stored=12) for frame in pixels()]
    path = save(encapsulated(build(pixels()), uid.JPEG2000Lossless, streams), tmp_path / "v.dcm")
    with pytest.raises(
        UnusableError, match=f"holds {COLUMNS - 2} × {ROWS} pixels of 1 components, not {COLUMNS} × "
    ):
        open_dicom(path).frame(0)


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pig_monai.data.dicom.files._LARGEST_INFLATED", 2**22)
    ds = build(pixels())
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    path = tmp_path / "v.dcm"
    ds.save_as(path, enforce_file_format=True)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = 132 + 12 + int.from_bytes(path.read_bytes()[140:144], "little")
    path.write_bytes(path.read_bytes()[:start] + deflate.compress(b"\0" * 2**24) + deflate.flush())
    assert path.stat().st_size < 2**16
    with pytest.raises(UnusableError, match="it inflates to more than 2 GiB"):
        open_dicom(path)


HTJ2K = (
    "|4;u>04YEK0000C0000G00000000000000C0000G0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&"
    "kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00000p#TB@lfVEb_xS|}bN~Rr024p}6F>kH066>u2Xp`m`~wGc"
    "0CM;PhjakI0206e6TkoxfXx99bO06L!2rWl0ObIWbO68r6;J>LQ~&`e&OA$vfJ@>Jb^r`;lkmVP0F1T(l;Fa20Kfn(2ml3q00Lkh"
    "A8$V%eV60j6nQ+HL)ZWWBqDM`IQ#%0_AvqMxd6`n01#CG|Je"
)
