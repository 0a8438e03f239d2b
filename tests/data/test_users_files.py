"""What belongs to the user: files that stay, mappings that keep their rows, keys and logs on odd file systems."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from pig_monai.data import prepare
from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.keys import load_key
from pig_monai.data.nifti_command import dicom_to_nifti
from pig_monai.errors import PigError
from tests.data.dbt_objects import build, lesion, pixels, save, save_mask
from tests.data.helpers import contents, report


def archive(folder: Path, names: tuple[str, ...] = ("a",), patient: str = "P1") -> dict[str, object]:
    """Volumes of a patient with their masks; return the options that prepare them."""
    for name in names:
        save(build(pixels(), PatientID=patient), folder / f"dicom/{name}.dcm")
        save_mask(lesion([2]), folder / f"masks/{name}.nii.gz")
    return {"input": str(folder / "dicom"), "masks": str(folder / "masks"), "size": 32}


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "key").write_text("secret")
    return str(tmp_path / "key")


def test_a_second_readers_label_stays_and_an_orphan_of_ours_goes(tmp_path, key):
    options = archive(tmp_path) | {"output": str(tmp_path / "out"), "key": key}
    dicom_to_slices(**options)
    before = contents(tmp_path / "out")
    (label,) = (tmp_path / "out/labels").iterdir()
    readers = label.with_name(label.name.replace(".nii.gz", "_reader2.nii.gz"))
    readers.write_bytes(b"a second reader's")
    orphan = label.with_name("0123456789ab_lmlo_000.nii.gz")
    orphan.write_bytes(b"of a run that was killed")
    dicom_to_slices(**options)
    assert readers.read_bytes() == b"a second reader's"
    assert not orphan.exists()
    readers.unlink()
    assert contents(tmp_path / "out") == before


def test_a_mapping_of_two_datasets_keeps_the_rows_of_both(tmp_path, key):
    """The patient's volumes of both have the same stem, and other series."""
    for name in ("one", "other"):
        options = archive(tmp_path / name) | {"output": str(tmp_path / f"{name}/out"), "key": key}
        dicom_to_slices(**options, mapping=str(tmp_path / "mapping.csv"))
    with open(tmp_path / "mapping.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2
    assert len({row["stem"] for row in rows}) == 1
    assert {Path(row["source"]).parts[-3] for row in rows} == {"one", "other"}


def test_a_moved_file_has_one_row(tmp_path, key):
    options = archive(tmp_path) | {
        "output": str(tmp_path / "out"),
        "key": key,
        "mapping": str(tmp_path / "map.csv"),
    }
    dicom_to_slices(**options)
    (tmp_path / "dicom/deeper").mkdir()
    os.rename(tmp_path / "dicom/a.dcm", tmp_path / "dicom/deeper/a.dcm")
    dicom_to_slices(**options)
    with open(tmp_path / "map.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["source"].endswith("deeper/a.dcm")


def test_a_key_is_made_where_there_are_no_links(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    made = load_key(tmp_path / "dataset", None)
    assert len(made.secret) == 64
    assert load_key(tmp_path / "dataset", None).secret == made.secret
    assert (tmp_path / "dataset.key").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"dataset.key"}


def test_a_source_that_cannot_be_read_is_a_row_and_the_run_goes_on(tmp_path, key, monkeypatch):
    options = archive(tmp_path, ("a", "b")) | {"output": str(tmp_path / "out"), "key": key}
    whole = prepare.open_case

    def flaky(case, labels):
        if case.source.stem == "a":
            raise OSError(errno.EIO, "Input/output error")
        return whole(case, labels)

    monkeypatch.setattr(prepare, "open_case", flaky)
    dicom_to_slices(**options)
    assert report(tmp_path / "out")["converted"] == 1
    (row,) = report(tmp_path / "out")["skipped"]
    assert (row["reason"], row["remedy"]) == (
        "the file cannot be read (OSError)", "check the disk or share that it lies on"
    )  # fmt: skip


def test_a_log_takes_names_that_are_no_text(tmp_path, key):
    options = archive(tmp_path) | {"output": str(tmp_path / "out"), "key": key}
    Path(os.fsdecode(os.fsencode(str(tmp_path / "dicom")) + b"/M\xfcller.dcm")).write_bytes(b"no DICOM")
    dicom_to_slices(**options, log=str(tmp_path / "log"))
    assert "M\\udcfcller.dcm" in (tmp_path / "log").read_text()


def test_volumes_with_the_archives_names_stay_out_of_datasets_and_shards(tmp_path, key):
    options = archive(tmp_path)
    dicom_to_slices(**options, key=key, output=str(tmp_path / "shard"), shard="1/1")
    with pytest.raises(PigError, match="lies in the dataset folder"):
        dicom_to_nifti(series=str(tmp_path / "dicom"), output=str(tmp_path / "shard/volumes"))


@pytest.mark.parametrize("name", ["0_cut", "z_cut"])
def test_a_truncated_copy_takes_no_volumes_place(tmp_path, key, name):
    options = archive(tmp_path) | {"output": str(tmp_path / "out"), "key": key}
    whole = (tmp_path / "dicom/a.dcm").read_bytes()
    (tmp_path / f"dicom/{name}.dcm").write_bytes(whole[: len(whole) * 3 // 4])
    dicom_to_slices(**options)
    assert report(tmp_path / "out")["converted"] == 1
    (row,) = report(tmp_path / "out")["skipped"]
    assert row["reason"] == "a copy of a volume that was read already"
