from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from pydicom import uid
from pydicom.sequence import Sequence

from pig_monai.data import prepare as preparation
from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.dicom import open_dicom, read_header
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.errors import PigError
from tests.data.broken_volumes import broken_volumes
from tests.data.dbt_objects import COLUMNS, FRAMES, IDENTITIES, ROWS, build, item, lesion, pixels, save, save_mask
from tests.data.helpers import assert_as_itk_reads_it, assert_nobody_is_named, contents, report, rows

ROOT = Path(__file__).parents[2]
WHOLE = {"crop": False, "chest_wall": "keep", "size": ROWS}  # frames come out as they are, padded at the right


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two volumes of one patient and one of another, with masks; both folders below ``source``."""
    folder = tmp_path / "source"
    save(build(pixels()), folder / "dicom/a.dcm")
    save(build(pixels()[:, :, ::-1].copy(), laterality="R"), folder / "dicom/deep/b.dcm")
    save(build(pixels() + 1, PatientID="MRN-4712", ViewPosition="CC"), folder / "dicom/c.dcm")
    save_mask(lesion([1, 2]), folder / "masks/a.nii.gz")
    save_mask(lesion([2])[:, :, ::-1].copy(), folder / "masks/b.nii.gz")
    save_mask(lesion([0]), folder / "masks/c.nii.gz")
    return folder


def prepare(source: Path, output: Path, **options: object) -> dict:
    dicom_to_slices(input=source / "dicom", masks=source / "masks", output=output, **{"size": 64} | options)
    return read_datalist(output)


def one_volume(tmp_path: Path, ds: pydicom.Dataset, mask: np.ndarray | None = None) -> Path:
    save(ds, tmp_path / "one/dicom/v.dcm")
    save_mask(lesion([1, 2]) if mask is None else mask, tmp_path / "one/masks/v.nii.gz")
    return tmp_path / "one"


def windowed(ds: pydicom.Dataset, centre: float, width: float, **more: object) -> pydicom.Dataset:
    window = item(WindowCenter=centre, WindowWidth=width, VOILUTFunction="LINEAR_EXACT", **more)
    ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [window]
    return ds


def test_entries_say_what_the_contract_promises(source: Path, tmp_path: Path) -> None:
    datalist = prepare(source, tmp_path / "out")
    entries = datalist["training"]
    assert datalist["preprocessing"] == {
        "size": 64,
        "aspect": "pad",
        "crop": True,
        "chest_wall": "left",
        "intensity": {"kind": "percentile", "low": 0.5, "high": 99.5, "inside_breast": True},
    }
    facts = sorted((e["view"], e["laterality"], e["slice"], e["origin"]) for e in entries)
    assert facts == [
        ("lcc", "L", 0, "real"),
        ("lmlo", "L", 1, "real"),
        ("lmlo", "L", 2, "real"),
        ("rmlo", "R", 2, "real"),
    ]
    of_view = {e["view"]: e for e in entries}
    assert of_view["lmlo"]["patient"] == of_view["rmlo"]["patient"] != of_view["lcc"]["patient"]
    assert of_view["lmlo"]["fold"] == of_view["rmlo"]["fold"] != of_view["lcc"]["fold"]
    for entry in entries:
        stem = f"{entry['patient']}_{entry['view']}_{entry['slice']:03d}.nii.gz"
        assert (entry["image"], entry["label"]) == (f"images/{stem}", f"labels/{stem}")
    # the breast is 32 columns of 0.5 mm by 53 rows of 0.25 mm: its 53 rows become 64 pixels
    assert of_view["lmlo"]["spacing"] == pytest.approx([0.5 * 32 / 39, 0.25 * 53 / 64], abs=1e-4)
    assert report(tmp_path / "out")["converted"] == 3
    assert report(tmp_path / "out")["skipped"] == []


def test_the_right_breast_is_mirrored_with_its_mask(source: Path, tmp_path: Path) -> None:
    entries = {(e["view"], e["slice"]): e for e in prepare(source, tmp_path / "out")["training"]}
    left, right = entries["lmlo", 2], entries["rmlo", 2]
    np.testing.assert_array_equal(
        read_slice(tmp_path / "out" / left["image"]), read_slice(tmp_path / "out" / right["image"])
    )
    np.testing.assert_array_equal(
        read_label(tmp_path / "out" / left["label"]), read_label(tmp_path / "out" / right["label"])
    )
    assert report(tmp_path / "out")["chest_wall_right"] == 1
    assert report(tmp_path / "out")["laterality_disagrees"] == 0


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.JPEG2000Lossless,
        uid.JPEGLSLossless,
        uid.RLELossless,
    ],
)
def test_frames_are_sorted_by_position_and_decoded_exactly(tmp_path: Path, syntax: uid.UID) -> None:
    order = [2, 0, 3, 1]  # where each stored frame lies
    ds = windowed(build(pixels()[order], order=order), centre=1000, width=2000)
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    source = one_volume(tmp_path, ds)
    entries = prepare(source, tmp_path / "out", intensity="window", **WHOLE)["training"]
    assert [e["slice"] for e in entries] == [1, 2]
    for entry in entries:
        expected = np.clip(pixels()[entry["slice"]].astype(float) / 1000 - 1, -1, 1)
        read = read_slice(tmp_path / "out" / entry["image"])
        np.testing.assert_allclose(read[:COLUMNS].T, expected, atol=2e-5)
        assert (read[COLUMNS:] == -1).all()
        np.testing.assert_array_equal(
            read_label(tmp_path / "out" / entry["label"])[:COLUMNS].T, lesion([1, 2])[1] > 0
        )
        assert entry["spacing"] == [0.5, 0.25]


def test_geometry_and_frames_agree_with_itk(tmp_path: Path) -> None:
    """Oblique, as MLO is; ITK reads multi-frame objects, though it does not sort them."""
    ds = build(pixels())
    along, down = np.array([0, -1, 0.0]), np.array([-1, 0, -1]) / np.sqrt(2)
    normal = np.cross(along, down)
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [*along, *down]
    for frame, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.PlanePositionSequence[0].ImagePositionPatient = [*(np.array([9.0, 8, 7]) + 1.5 * frame * normal)]
    path = save(ds, tmp_path / "v.dcm")
    volume, by_itk = open_dicom(path), sitk.ReadImage(str(path))
    assert_as_itk_reads_it(volume, by_itk)


def test_the_window_is_found_wherever_it_is(tmp_path: Path) -> None:
    shared = windowed(build(pixels()), 800, 400)
    own = build(pixels())
    for frame, groups in enumerate(own.PerFrameFunctionalGroupsSequence):
        groups.FrameVOILUTSequence = [item(WindowCenter=[800 + frame, 1], WindowWidth=[400, 1])]
    top = build(pixels(), WindowCenter=800, WindowWidth=400)
    wins = build(pixels(), WindowCenter=1, WindowWidth=2)
    windowed(wins, 800, 400)
    # PS3.3 C.11.2.1.2.1: LINEAR runs from c − 0.5 − (w − 1) / 2 to c − 0.5 + (w − 1) / 2
    for name, ds, expected in [
        ("shared", shared, (600, 1000)),
        ("own", own, (602, 1001)),
        ("top", top, (600, 999)),
        ("wins", wins, (600, 1000)),
    ]:
        assert open_dicom(save(ds, tmp_path / f"{name}.dcm")).window(2) == expected, name
    assert open_dicom(save(build(pixels()), tmp_path / "none.dcm")).window(0) is None
    sigmoid = open_dicom(save(windowed(build(pixels()), 8, 4), tmp_path / "s.dcm"))
    assert sigmoid.window(0) == (6, 10)


def test_rescale_and_monochrome1_make_larger_brighter(tmp_path: Path) -> None:
    values = [item(RescaleSlope=2, RescaleIntercept=-100)]
    inverted = windowed(build(4095 - pixels(), PhotometricInterpretation="MONOCHROME1"), 1000, 400)
    inverted.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = Sequence(values)
    volume = open_dicom(save(inverted, tmp_path / "v.dcm"))
    # stored 4095 − p becomes 2 (4095 − p) − 100; mirrored in the rescaled range [−100, 8090] that is 2 p − 100
    np.testing.assert_array_equal(volume.frame(1).T, 2.0 * pixels()[1] - 100)
    assert volume.window(1) == (7990 - 1200, 7990 - 800)


def test_without_a_window_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(PigError, match="no slice could be prepared"):
        prepare(one_volume(tmp_path, build(pixels())), tmp_path / "out", intensity="window")
    assert rows(tmp_path / "out") == [("lmlo", "frame 1 has no display window", "use --intensity percentile")]


def test_slices_with_little_mask_are_left_out(tmp_path: Path) -> None:
    mask = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
    mask[0, 20:24, 8:10] = 1  # 8 pixels of 0.5 × 0.25 mm: exactly 1 mm²
    mask[1, 20, 8:15] = 1  # 7 pixels: 0.875 mm²
    source = one_volume(tmp_path, build(pixels()), mask)
    assert [e["slice"] for e in prepare(source, tmp_path / "a")["training"]] == [0]
    assert [e["slice"] for e in prepare(source, tmp_path / "b", min_lesion_area=0.8)["training"]] == [0, 1]
    with pytest.raises(PigError, match="no slice could be prepared"):
        prepare(source, tmp_path / "c", min_lesion_area=2)
    assert rows(tmp_path / "c")[0][1] == "no slice holds 2 mm² of mask, at most 1"


def test_without_spacing_pixels_count_and_shapes_decide(tmp_path: Path) -> None:
    ds = build(pixels())
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0, 0]
    mask = lesion([])
    mask[3, 20, 8] = 1
    entries = prepare(one_volume(tmp_path, ds, mask), tmp_path / "out")["training"]
    assert [(e["slice"], e["spacing"]) for e in entries] == [(3, None)]
    assert report(tmp_path / "out")["warnings"] == [
        "1 cases have no geometry: their masks were matched by shape",
        "1 slices have no spacing: their lesion areas are in pixels",
    ]


def test_broken_input_is_skipped_and_the_run_goes_on(source: Path, tmp_path: Path) -> None:
    expected = broken_volumes(source)
    datalist = prepare(source, tmp_path / "out", log=tmp_path / "log.txt")
    assert len(datalist["training"]) == 4  # those of the whole volumes
    skipped = report(tmp_path / "out")["skipped"]
    log = (tmp_path / "log.txt").read_text()
    for stem, reason in expected.items():
        line = next(line for line in log.splitlines() if f"/{stem}." in line)
        case = line.split("[")[1].split("]")[0]
        assert reason in line
        assert any(row["case"] == case and row["reason"].startswith(reason) for row in skipped), stem
    assert len(skipped) == len(expected)
    assert all(row["remedy"] for row in skipped)
    assert_nobody_is_named(tmp_path / "out", [*IDENTITIES, "truncated", "notes", str(source)])
    page = (tmp_path / "out/report.html").read_text()
    assert "not a DICOM file" in page
    assert "data:image/png;base64," in page


def test_no_identity_in_any_byte(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    assert_nobody_is_named(tmp_path / "out", [*IDENTITIES, "MRN-4712", str(source), "Maker"])
    key = tmp_path / "out.key"
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text().strip()
    assert len(secret) == 64
    assert_nobody_is_named(tmp_path / "out", [secret])


def test_case_hashes_are_hmacs_of_the_patient(source: Path, tmp_path: Path) -> None:
    (tmp_path / "my.key").write_text("a secret\n")
    entries = prepare(source, tmp_path / "out", key=tmp_path / "my.key")["training"]
    expected = {hmac.new(b"a secret", p, hashlib.sha256).hexdigest()[:12] for p in (b"MRN-4711", b"MRN-4712")}
    assert {e["patient"] for e in entries} == expected
    (tmp_path / "out/inside.key").write_text("x")
    with pytest.raises(PigError, match="lies inside the dataset folder"):
        prepare(source, tmp_path / "out", key=tmp_path / "out/inside.key")


def test_same_input_and_key_give_the_same_bytes_with_any_workers(source: Path, tmp_path: Path) -> None:
    broken_volumes(source)
    (tmp_path / "key").write_text("k")
    prepare(source, tmp_path / "one", key=tmp_path / "key")
    prepare(source, tmp_path / "two", key=tmp_path / "key", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_killed_run_continues_to_the_same_result(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("k")
    prepare(source, tmp_path / "whole", key=tmp_path / "key")
    write, calls = preparation.write_label, []

    def killed(*args: object) -> None:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(preparation, "write_label", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "cut", key=tmp_path / "key")
    assert not (tmp_path / "cut/datalist.json").exists()
    (tmp_path / "cut/images/.writing-rest.nii.gz").write_text("half")
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut/labels").iterdir()}
    assert len(before) == 3
    prepare(source, tmp_path / "cut", key=tmp_path / "key")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    prepare(source, tmp_path / "cut", key=tmp_path / "key")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_other_settings_or_changed_masks_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(source, out)
    first = contents(out)
    with pytest.raises(PigError, match="preprocessing#size is 64 there and 32 here"):
        prepare(source, out, size=32)
    with pytest.raises(PigError, match="seed is 0 there and 1 here"):
        prepare(source, out, seed=1)
    save_mask(lesion([1, 3]), source / "masks/a.nii.gz")
    with pytest.raises(PigError, match=r"a\.dcm or its mask changed"):
        prepare(source, out)
    assert contents(out) == first
    entries = prepare(source, out, size=32, overwrite="True")["training"]
    assert read_slice(out / entries[0]["image"]).shape == (32, 32)
    assert sorted(e["slice"] for e in entries if e["view"] == "lmlo") == [1, 3]
    assert len(list((out / "images").iterdir())) == len(entries)


def test_folders_of_others_are_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "precious"
    (out / "images").mkdir(parents=True)
    (out / "images/mine.nii.gz").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(PigError, match="was not made by this command"):
            prepare(source, out, overwrite=overwrite)
    assert contents(out) == {"images/mine.nii.gz": b"mine"}


def test_added_volumes_keep_the_others_in_place(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = prepare(source, out)["training"]
    for number in range(6):  # one of them the known patient's second volume of a view
        patient = "MRN-4711" if number == 0 else f"new {number}"
        save(build(pixels() + number, PatientID=patient), source / f"dicom/0{number}.dcm")
        save_mask(lesion([1]), source / f"masks/0{number}.nii.gz")
    after = prepare(source, out)["training"]
    assert [e for e in after if e in before] == before
    patient = next(e["patient"] for e in before if e["view"] == "lmlo")
    second = [e for e in after if e["patient"] == patient and e not in before]
    assert [e["image"] for e in second] == [f"images/{patient}_lmlo2_001.nii.gz"]
    assert second[0]["fold"] == next(e["fold"] for e in before if e["patient"] == patient)
    assert {e["fold"] for e in after} == {0, 1, 2, 3, 4}


def test_no_masks_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PigError, match="--masks is missing"):
        dicom_to_slices(input=source / "dicom", output=tmp_path / "out")
    for path in (source / "masks").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(PigError, match=r"no mask in .*masks fits a volume"):
        prepare(source, tmp_path / "out")
    with pytest.raises(PigError, match="no Breast Tomosynthesis volume in"):
        dicom_to_slices(input=source / "masks", masks=source / "dicom", output=tmp_path / "out")


def test_headers_with_gaps(tmp_path: Path) -> None:
    ds = build(pixels(), laterality="", PatientID="", ViewPosition="", Manufacturer="pig-monai phantom")
    ds.ViewCodeSequence = [item(CodeValue="399162004", CodingSchemeDesignator="SCT")]
    header = read_header(save(ds, tmp_path / "v.dcm"))
    assert header.patient == f"study {ds.StudyInstanceUID}"
    assert (header.view, header.laterality, header.origin) == ("cc", None, "phantom")


def test_the_command_ends_with_one_line(source: Path, tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "data_prep/dicom_to_slices.py",
            "--input",
            source / "dicom",
            "--output",
            tmp_path / "out",
        ]
        return subprocess.run(
            [*map(str, command), *options], cwd=ROOT, capture_output=True, text=True, check=False
        )

    (tmp_path / "empty").mkdir()
    failed = run("--masks", str(tmp_path / "empty"))
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"error: no mask in {tmp_path / 'empty'} fits a volume")
    assert "Traceback" not in failed.stderr
    done = run("--masks", str(source / "masks"), "--size", "64", "--aspect", "stretch", "--crop", "FALSE")
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "out/datalist.json").read_text())["preprocessing"]
    assert (settings["aspect"], settings["crop"]) == ("stretch", False)
