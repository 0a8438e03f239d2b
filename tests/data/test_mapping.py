"""The table that maps cases back to patients, and ``--strict``."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, uid

from pig_monai.data.commands import dicom_to_slices, images_to_slices
from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from tests.data.dbt_objects import build, build_slices, lesion, pixels, save, save_mask
from tests.data.helpers import contents, report


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two volumes of one patient, one with a file per slice, and one secondary capture of another."""
    folder = tmp_path / "source"
    save(build(pixels(), PatientID="=MRN, 1"), folder / "dicom/a.dcm")
    for number, ds in enumerate(build_slices(pixels(), PatientID="=MRN, 1")):
        save(ds, folder / f"dicom/stack/{number}")
    save(build(pixels(), PatientID="Zoë", SOPClassUID=uid.SecondaryCaptureImageStorage), folder / "dicom/sco.dcm")
    for name in ("a", "stack"):
        save_mask(lesion([1, 2]), folder / f"masks/{name}.nii.gz")
    return folder


def prepare(source: Path, output: Path, **options: object) -> None:
    dicom_to_slices(input=source / "dicom", masks=source / "masks", output=output, size=32, **options)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_mapping_says_whose_each_case_is(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(source, tmp_path / "out", mapping=tmp_path / "map.csv")
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"4 slices of 2 volumes in {tmp_path / 'out'}; 1 skipped (report.html)"
    rows = {row["source"]: row for row in table(tmp_path / "map.csv")}
    a, stack, sco = (str(source / f"dicom/{name}") for name in ("a.dcm", "stack/0", "sco.dcm"))
    assert rows.keys() == {a, stack, sco}
    entries = read_datalist(tmp_path / "out")["training"]
    for file, row in rows.items():
        ds = dcmread(file)
        identity = (ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID)
        assert (row["patient_id"], row["study_instance_uid"], row["series_instance_uid"]) == identity
    for row in (rows[a], rows[stack]):
        own = [entry for entry in entries if entry["image"].startswith(f"images/{row['stem']}_0")]
        assert {(entry["patient"], entry["view"]) for entry in own} == {(row["case"], row["view"])}
    assert rows[a]["stem"] != rows[stack]["stem"]
    (skipped,) = report(tmp_path / "out")["skipped"]
    assert (rows[sco]["case"], rows[sco]["patient_id"], rows[sco]["stem"]) == (skipped["case"], "Zoë", "")
    assert (tmp_path / "map.csv").stat().st_mode & 0o777 == 0o600


def test_added_data_extends_the_mapping(source: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "map.csv"
    prepare(source, out, mapping=path)
    first = {row["source"]: row for row in table(path)}
    (source / "dicom/a.dcm").rename(tmp_path / "away.dcm")  # prepared earlier, no longer at hand
    (source / "masks/a.nii.gz").rename(tmp_path / "away.nii.gz")
    save(build(pixels(), PatientID="new"), source / "dicom/b.dcm")
    save_mask(lesion([1]), source / "masks/b.nii.gz")
    prepare(source, out, mapping=path)
    second = {row["source"]: row for row in table(path)}
    assert second.keys() == first.keys() | {str(source / "dicom/b.dcm")}
    assert all(second[file] == row for file, row in first.items())
    (tmp_path / "away.dcm").rename(source / "dicom/moved.dcm")
    (tmp_path / "away.nii.gz").rename(source / "masks/moved.nii.gz")
    prepare(source, out, mapping=path)
    moved = {row["stem"]: row["source"] for row in table(path)}
    assert moved[first[str(source / "dicom/a.dcm")]["stem"]] == str(source / "dicom/moved.dcm")
    before = path.read_bytes()
    prepare(source, out, mapping=path)
    assert path.read_bytes() == before


def test_images_are_mapped_too(tmp_path: Path) -> None:
    for kind, top in (("images", 200), ("masks", 255)):
        (tmp_path / kind).mkdir()
        picture = np.zeros((40, 40), np.uint8)
        picture[10:30, 5:30] = top - (np.arange(25) if kind == "images" else 0)
        Image.fromarray(picture).save(tmp_path / kind / "Anna_1.png")
    (tmp_path / "images/notes.txt").write_text("Anna")
    images_to_slices(
        images=tmp_path / "images",
        masks=tmp_path / "masks",
        output=tmp_path / "out",
        patient_regex="^([A-Za-z]+)_",
        mapping=tmp_path / "deep/map.csv",
        size=32,
    )
    entry = read_datalist(tmp_path / "out")["training"][0]
    anna, notes = table(tmp_path / "deep/map.csv")[:: 1 if entry["patient"] < report_case(tmp_path) else -1]
    assert (anna["case"], anna["patient_id"]) == (entry["patient"], "Anna")
    assert anna["source"] == str(tmp_path / "images/Anna_1.png")
    assert (notes["patient_id"], notes["source"]) == ("", str(tmp_path / "images/notes.txt"))


def report_case(folder: Path) -> str:
    return report(folder / "out")["skipped"][0]["case"]


def test_it_never_lies_in_the_dataset_folder(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "disk/images").mkdir(parents=True)
    prepare(source, out)
    before = contents(out)
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "link.csv").symlink_to(out / "map.csv")  # which does not exist
    (out / "elsewhere").symlink_to(tmp_path / "disk")
    for path in (
        out / "map.csv",
        out / "deep/er/map.csv",
        out,
        tmp_path / "elsewhere/../out/map.csv",
        tmp_path / "link/map.csv",
        tmp_path / "link.csv",
        tmp_path / "disk/images/map.csv",  # a folder of the dataset on another disk
    ):
        with pytest.raises(PigError, match="lies inside the dataset folder"):
            prepare(source, out, mapping=path)
    with pytest.raises(PigError, match="lies inside the dataset folder"):
        prepare(source, tmp_path / "new", mapping=tmp_path / "new/map.csv")
    assert not (tmp_path / "new").exists()
    (out / "elsewhere").unlink()
    here = Path.cwd()
    os.chdir(out)
    try:
        with pytest.raises(PigError, match="lies inside the dataset folder"):
            prepare(source, out, mapping="map.csv")
    finally:
        os.chdir(here)
    assert contents(out) == before


def test_other_files_and_other_keys_are_left_alone(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    for content in ("", "name,age\nRoe,61\n", "case,patient_id\n1,2\n", "\0\1\2", b"\xff\xfe"):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(PigError, match=r"--mapping .*map\.csv (exists and is no mapping|cannot be read)"):
            prepare(source, tmp_path / "out", mapping=path)
    assert not (tmp_path / "out").exists()
    path.unlink()
    prepare(source, tmp_path / "out", mapping=path)
    written = path.read_bytes()
    with pytest.raises(PigError, match="was written with another key"):
        prepare(source, tmp_path / "second", mapping=path)  # with a key of its own
    assert path.read_bytes() == written
    prepare(source, tmp_path / "third", mapping=path, key=tmp_path / "out.key")
    assert path.read_bytes() == written  # the same volumes under the same key
    (tmp_path / "file").write_text("")
    with pytest.raises(PigError, match="--mapping .* cannot be written"):
        prepare(source, tmp_path / "out", mapping=tmp_path / "file/map.csv")


def test_strict_fails_when_anything_was_skipped(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PigError) as caught:
        prepare(source, tmp_path / "out", strict="true")
    assert str(caught.value).startswith("1 files or volumes were skipped")
    assert str(tmp_path / "out/report.html") in str(caught.value)
    assert len(read_datalist(tmp_path / "out")["training"]) == 4  # written all the same
    (source / "dicom/sco.dcm").unlink()
    prepare(source, tmp_path / "out", strict=True)
    with pytest.raises(PigError, match="--strict is 'yes'"):
        prepare(source, tmp_path / "out", strict="yes")


def test_text_burnt_into_pixels_is_told(source: Path, tmp_path: Path) -> None:
    save(build(pixels(), BurnedInAnnotation="YES"), source / "dicom/a.dcm")
    prepare(source, tmp_path / "out")
    (warning,) = report(tmp_path / "out")["warnings"]
    assert warning.startswith("in 1 cases text is burnt into the pixels")
    save(build(pixels(), BurnedInAnnotation="NO"), source / "dicom/a.dcm")
    prepare(source, tmp_path / "other")
    assert report(tmp_path / "other")["warnings"] == []
