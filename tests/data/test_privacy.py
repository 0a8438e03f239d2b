"""Nothing of what identifies a person reaches any byte of a dataset folder.

Every place of the input that can hold text is marked; then every byte of the output is searched for the marks.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from pig_monai.data.commands import dicom_to_slices, images_to_slices
from pig_monai.data.dicom import headers, volumes
from pig_monai.data.folder import read_datalist
from tests.data.broken_volumes import broken_volumes
from tests.data.dbt_objects import FRAMES, build, build_slices, item, lesion, pixels, save
from tests.data.helpers import report
from tests.data.marked import (
    UID_ROOT,
    VALUES,
    WORD,
    leaks,
    mark,
    marked_nifti,
    marked_nrrd,
    marked_picture,
    with_comment,
)
from tests.data.segmentations import save_segmentation, segmentation, source

NAMED = f"{WORD}^Jane_1947-03-13"  # people name folders and files after patients
IDS = (f"{WORD}Äöü Lo", NAMED, VALUES["LO"], VALUES["UI"])
UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
SLICES = ("SOPInstanceUID", "InstanceNumber", "ViewPosition", "ImageLaterality", "SeriesInstanceUID")


def volume(number: int, thorough: bool = True, **attributes: object) -> Dataset:
    """A marked volume with UIDs of its own, a window and the view LMLO; without thoroughness, few marks."""
    uids = {name: f"{UID_ROOT}.{number}.{level}" for level, name in enumerate(UIDS)}
    ds = build(pixels(), PatientName=VALUES["PN"], PatientBirthDate=VALUES["DA"])
    if thorough:
        mark(ds)
    for name, value in (uids | {"ViewPosition": "MLO", "ImageLaterality": "L", "PatientID": VALUES["LO"]}).items():
        setattr(ds, name, value)
    ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0].FrameLaterality = "L"
    window = item(WindowCenter=1000, WindowWidth=2000, WindowCenterWidthExplanation=VALUES["LO"])
    ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [window]
    for name, value in attributes.items():
        setattr(ds, name, value)
    return ds


def prepare(folder: Path, output: Path, **options: object) -> list[dict]:
    given = {"masks": folder / "masks"} if (folder / "masks").exists() else {}
    dicom_to_slices(
        input=folder / "dicom",
        output=output,
        log=output.with_suffix(".log"),
        mapping=output.with_suffix(".csv"),
        **({"size": 32} | given | options),
    )
    assert leaks(output, IDS) == []
    mapped = output.with_suffix(".csv").read_text(encoding="utf-8")
    assert WORD in mapped  # the marks were there to leak
    return read_datalist(output)["training"]


@pytest.fixture
def marked_volumes(tmp_path: Path) -> Path:
    """Volumes with a mask of every kind, one with a file per slice, one compressed with a comment inside."""
    folder = tmp_path / NAMED
    for number, kind in enumerate(("nifti", "nrrd", "picture", "seg", "j2k")):
        ds = volume(number)
        if kind == "j2k":
            frames = [with_comment(encode_array(frame, bits_stored=12)) for frame in pixels()]
            ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
            ds.PixelData = encapsulate(frames)
            ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        path = save(ds, folder / f"dicom/{NAMED}/{NAMED}_{kind}.dcm")
        path.write_bytes(path.read_bytes() + (f"{WORD} trailing".encode() if kind == "nrrd" else b""))
    masks = folder / f"masks/{NAMED}"
    marked_nifti(lesion([1, 2]), masks / f"{NAMED}_nifti.nii.gz")
    marked_nifti(lesion([1, 2]), masks / f"{NAMED}_j2k.nii")
    marked_nrrd(lesion([1, 2]), masks / f"{NAMED}_nrrd.nrrd")
    for index in (1, 4):
        marked_picture(lesion([0])[0] * 255, masks / f"{NAMED}_picture_{index}.png")
    plain = source(SeriesInstanceUID=f"{UID_ROOT}.3.1", FrameOfReferenceUID=VALUES["UI"])
    seg = segmentation(plain, lesion([1, 2]))
    kept = {element.keyword for element in seg.iterall() if element.keyword}
    save_segmentation(
        mark(seg, kept - {"PatientName", "PatientID", "ContentDescription"}), masks / f"{NAMED}.seg.dcm"
    )
    for number, ds in enumerate(build_slices(pixels(), series=f"{UID_ROOT}.9.1", sop_class=uid.CTImageStorage)):
        own = {name: ds[name].value for name in SLICES if name in ds}
        mark(ds)
        for name, value in (own | {"PatientID": NAMED}).items():
            setattr(ds, name, value)
        save(ds, folder / f"dicom/{NAMED}_stack/{number}.dcm")
    marked_nifti(lesion([1, 2]), folder / f"masks/{NAMED}_stack.nii.gz")
    return folder


@pytest.mark.parametrize("options", [{}, {"intensity": "window", "largest_per_lesion": True}])
def test_no_mark_reaches_a_dataset(marked_volumes: Path, tmp_path: Path, options: dict) -> None:
    if options:
        (tmp_path / "stack").mkdir()
        (marked_volumes / f"dicom/{NAMED}_stack").rename(tmp_path / "stack/s")  # it has no window
        (marked_volumes / f"masks/{NAMED}_stack.nii.gz").unlink()
    entries = prepare(marked_volumes, tmp_path / "out", **options)
    whole = 5 if options else 6
    assert len({entry["image"].rsplit("_", 1)[0] for entry in entries}) == whole, report(tmp_path / "out")[
        "skipped"
    ]
    assert report(tmp_path / "out")["skipped"] == []


def test_no_mark_of_boxes_reaches_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / NAMED
    rows = ["PatientID,StudyUID,View,Subject,Slice,X,Y,Width,Height,Class,AD,VolumeSlices"]
    for number, view in enumerate(("lmlo", "rmlo", "lcc1", "rcc2")):
        study = f"{WORD}Study{number}"
        rows.append(
            f"{VALUES['LO']},{study},{view},{WORD},1,8,20,6,10,{WORD},{number // 3},{FRAMES + (number == 1)}"
        )
        save(volume(number, StudyID=study), folder / f"dicom/{number}.dcm")
    (folder / f"{NAMED}.csv").write_text("\n".join(rows), encoding="utf-8")
    entries = prepare(folder, tmp_path / "out", boxes=folder / f"{NAMED}.csv")
    assert {entry["label_kind"] for entry in entries} == {"box"}
    paths = "PatientID,StudyUID,View,descriptive_path\n" + "".join(
        f"{VALUES['LO']},{WORD}Study{number},{view},{NAMED}/{number}.dcm\n"
        for number, view in enumerate(("lmlo", "rmlo", "lcc1"))
    )
    (folder / "paths.csv").write_text(paths, encoding="utf-8")
    for path in (folder / "dicom").iterdir():
        (folder / f"dicom/{NAMED}").mkdir(exist_ok=True)
        path.rename(folder / f"dicom/{NAMED}" / path.name)
    prepare(folder, tmp_path / "by_path", boxes=folder / f"{NAMED}.csv", file_paths=folder / "paths.csv")
    assert report(tmp_path / "by_path")["skipped"]


def read_elements() -> list[tuple[str, str]]:
    """(sequence or nothing, keyword) of every element that the program reads."""
    top = sorted({*headers._TAGS, *volumes._TAGS} - {"ExtendedOffsetTable", "ExtendedOffsetTableLengths"})
    groups = {
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "FrameAnatomySequence": ("FrameLaterality",),
        "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    }
    return [("", name) for name in top] + [(group, name) for group, names in groups.items() for name in names]


def test_no_mark_in_what_cannot_be_read_reaches_a_report(tmp_path: Path) -> None:
    """Each element that the program reads holds, in a volume of its own, a text instead of what it should."""
    folder = tmp_path / NAMED
    for number, (sequence, keyword) in enumerate(read_elements()):
        ds = volume(number, thorough=False)
        holder = ds
        if sequence:
            shared = ds.SharedFunctionalGroupsSequence[0]
            if sequence not in shared:
                setattr(shared, sequence, [Dataset()])
            holder = shared[sequence].value[0]
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        holder[tag] = DataElement(tag, "LO", VALUES["LO"])
        stem = f"{NAMED}_{sequence}{keyword}"
        save_anyhow(ds, folder / f"dicom/{stem}.dcm")
        marked_nifti(lesion([1]), folder / f"masks/{stem}.nii.gz")
    for intensity in ("percentile", "window"):
        prepare(folder, tmp_path / intensity, intensity=intensity)
        assert len({row["reason"] for row in report(tmp_path / intensity)["skipped"]}) > 10


def save_anyhow(ds: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta.MediaStorageSOPClassUID = uid.BreastTomosynthesisImageStorage
    ds.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)


def test_no_mark_of_broken_files_reaches_a_report(tmp_path: Path) -> None:
    folder = tmp_path / NAMED
    broken_volumes(folder)
    for path in sorted(folder.rglob("*.*")):
        if path.is_file():
            path.rename(path.with_name(f"{NAMED}_{path.name}"))
    save(volume(1), folder / "dicom/good.dcm")
    marked_nifti(lesion([1]), folder / "masks/good.nii.gz")
    marked_nifti(lesion([1]), folder / f"masks/{NAMED}_99.nii.gz")
    dicom, masks = folder / "dicom", folder / "masks"
    (dicom / f"{NAMED}.txt").write_text(f"{WORD} notes")
    for number, (name, value) in enumerate((("SOPClassUID", f"{UID_ROOT}.5"), ("Modality", VALUES["CS"]))):
        ds = volume(20 + number)
        setattr(ds, name, value)
        ds.file_meta.MediaStorageSOPClassUID = value if name == "SOPClassUID" else ds.SOPClassUID
        save_anyhow(ds, dicom / f"class{number}.dcm")
    syntax = volume(30)
    path = save(syntax, dicom / "syntax.dcm")
    known = uid.ExplicitVRLittleEndian.encode()
    path.write_bytes(path.read_bytes().replace(known, f"{UID_ROOT}"[: len(known)].encode(), 1))
    for number, content in enumerate((f"{WORD} no NIfTI", f"NRRD0004\ntype: {WORD}\ndimension: 3\n\n", "")):
        stem = f"{NAMED}_m{number}"
        save(volume(40 + number), dicom / f"{stem}.dcm")
        (masks / f"{stem}{('.nii', '.nrrd', '.nii.gz')[number]}").write_text(content)
    other = segmentation(source(SeriesInstanceUID=f"{UID_ROOT}.77"), lesion([1]))
    save_segmentation(other, masks / f"{NAMED}.dcm")
    save(volume(50), dicom / "pictures.dcm")
    marked_picture(lesion([0])[0] * 255, masks / "pictures_99.png")
    prepare(folder, tmp_path / "out")
    assert len(report(tmp_path / "out")["skipped"]) > 20


def test_no_mark_of_pictures_reaches_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / NAMED
    image = (pixels()[1] >> 4).astype(np.uint8)
    mask = lesion([0])[0] * 255
    rows = ["image,patient,view,laterality,name"]
    for suffix in ("png", "jpg", "tif"):
        marked_picture(image, folder / f"images/{NAMED}_{suffix}.{suffix}")
        marked_picture(mask, folder / f"masks/{NAMED}_{suffix}.{suffix}")
        rows.append(f"{NAMED}_{suffix}.{suffix},{NAMED},{VALUES['LO']},{WORD},{VALUES['LO']}")
    marked_nifti(pixels()[1:2], folder / f"images/{NAMED}_nifti.nii.gz")
    marked_nifti(lesion([0])[:1], folder / f"masks/{NAMED}_nifti.nii.gz")
    rows += [f"{NAMED}_nifti.nii.gz,{NAMED},MLO,L,", f"{NAMED}_broken.png,{NAMED},,,"]
    (folder / f"images/{NAMED}_broken.png").write_text(f"{WORD} no picture")
    marked_picture(mask, folder / f"masks/{NAMED}_broken.png")
    marked_picture(mask, folder / f"masks/{WORD}.png")
    (folder / "index.csv").write_text("\n".join(rows), encoding="utf-8")
    for name, options in (
        ("index", {"index": folder / "index.csv"}),
        ("regex", {"patient_regex": f"({WORD}.*)_"}),
        ("neither", {}),
    ):
        out = tmp_path / name
        images_to_slices(images=folder / "images", masks=folder / "masks", output=out, size=32, **options)
        assert leaks(out, IDS) == []
        assert len(read_datalist(out)["training"]) == 4
        assert len(report(out)["skipped"]) == 2


def test_the_search_finds_what_was_planted(tmp_path: Path) -> None:
    """A search that finds nothing anywhere would pass every test above."""
    marked_picture(np.zeros((8, 8), np.uint8), tmp_path / "picture.png")
    packed = base64.b64encode((tmp_path / "picture.png").read_bytes()).decode()
    forms: dict[str, bytes] = {
        "a.nii.gz": gzip.compress(b"\0" * 344 + VALUES["LO"].encode()),
        "b.json": json.dumps({"name": "\u005a\u007aLeak"}).replace("Z", "\\u005a").encode(),
        "c.html": f"<!doctype html><img src='data:image/png;base64,{packed}'>".encode(),
        "d.bin": WORD.encode("utf-16-be"),
        "e.bin": b"x" + base64.b64encode(f"a{WORD}^Jane".encode()),
        "f.bin": VALUES["UI"].encode(),
        "g.bin": b"1947-03-13",
        "h.bin": b"47110.815",
        "i.bin": hashlib.sha256(NAMED.encode()).hexdigest()[:12].encode(),
        "j.bin": WORD.encode().hex().encode(),
        "k.bin": b"047Y",
        f"{WORD}.txt": b"",
        ".prepared/x.json": VALUES["PN"].encode(),
    }
    for name, data in forms.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = leaks(tmp_path / "out", IDS)
    assert {line.split(" (")[0] for line in found} == set(forms)
    assert {
        kind
        for line in found
        if line.startswith("c.html")
        for kind in ("zTXt", "iTXt", "tEXt", "eXIf")
        if kind in line
    } == {
        "zTXt",
        "iTXt",
        "tEXt",
        "eXIf",
    }
    marked = mark(build(pixels()))
    texts = {vr for vr in VALUES if vr != "UN"}
    assert {element.VR for element in marked if element.VR in texts} == texts
    assert len(marked) > 3000
    Image.open(tmp_path / "picture.png").verify()
