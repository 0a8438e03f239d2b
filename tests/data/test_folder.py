from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from monai.transforms import LoadImage

from pig_monai.data import folder
from pig_monai.errors import PigError

STEP = 2 / 65535


@pytest.fixture
def image() -> np.ndarray:
    values = np.random.default_rng(0).uniform(-1, 1, (48, 32))
    values[0, 0], values[47, 31] = -1, 1
    return values


def test_every_reader_sees_the_slice(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "slice.nii.gz"
    folder.write_slice(path, image, (0.1, 0.2))

    by_nibabel = nib.load(path)
    assert by_nibabel.get_data_dtype() == np.uint16
    assert by_nibabel.shape == (48, 32, 1)
    np.testing.assert_allclose(by_nibabel.affine, np.diag([-0.1, -0.2, 1, 1]), atol=1e-7)
    by_itk = sitk.ReadImage(str(path))
    assert by_itk.GetSpacing() == pytest.approx((0.1, 0.2, 1))
    assert by_itk.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    by_monai = LoadImage(image_only=True)(path)
    for seen in (
        by_nibabel.get_fdata()[..., 0],
        sitk.GetArrayFromImage(by_itk)[0].T,
        by_monai.numpy()[..., 0],
        folder.read_slice(path),
    ):
        np.testing.assert_allclose(seen, image, atol=0.6 * STEP)
        assert seen.min() == -1
        assert seen.max() == pytest.approx(1, abs=1e-7)


def test_labels_are_bytes_of_0_and_1(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "label.nii.gz"
    folder.write_label(path, image > 0.3)
    read = nib.load(path)
    assert read.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(read.dataobj)[..., 0], image > 0.3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].T, image > 0.3)
    np.testing.assert_array_equal(folder.read_label(path), image > 0.3)


def test_equal_slices_are_equal_files(tmp_path: Path, image: np.ndarray) -> None:
    folder.write_slice(tmp_path / "one.nii.gz", image)
    folder.write_slice(tmp_path / "two.nii.gz", image)
    one = (tmp_path / "one.nii.gz").read_bytes()
    assert one == (tmp_path / "two.nii.gz").read_bytes()
    assert one[4:8] == b"\0\0\0\0"  # the time of gzip's header
    assert b"one" not in one
    assert len(gzip.decompress(one)) == 352 + 48 * 32 * 2


def entry(number: int, fold: int, **changes: object) -> dict:
    name = f"p{number}_lcc_000.nii.gz"
    plain = {
        "image": f"images/{name}",
        "label": f"labels/{name}",
        "patient": f"p{number}",
        "view": "lcc",
        "laterality": "L",
        "slice": 0,
        "fold": fold,
        "spacing": [0.1, 0.1],
        "origin": "real",
    }
    return plain | changes


def make(root: Path, entries: list) -> Path:
    for one in entries:
        for key in {"image", "label"} & set(one):
            folder.write_label(root / one[key], np.ones((2, 2)))
    folder.write_datalist(root, name="n", command="test", seed=0, preprocessing={"size": 2}, entries=entries)
    return root


def test_folds_split_the_entries(tmp_path: Path) -> None:
    entries = [entry(0, 0), entry(1, 1), entry(2, 2), entry(3, -1, origin="synthetic"), entry(4, 1)]
    del entries[4]["label"]
    make(tmp_path, entries)

    def patients(found: list) -> list:
        return [one["patient"] for one in found]

    assert patients(folder.training_entries(tmp_path, 1)) == ["p0", "p2", "p3"]
    assert patients(folder.heldout_entries(tmp_path, 1)) == ["p1"]
    assert patients(folder.heldout_entries(tmp_path, 1, labelled_only=False)) == ["p1", "p4"]
    assert patients(folder.training_entries(tmp_path, -1)) == ["p0", "p1", "p2", "p3"]
    assert folder.heldout_entries(tmp_path, -1) == []
    first = folder.training_entries(tmp_path, 1)[0]
    assert Path(first["image"]) == (tmp_path / "images/p0_lcc_000.nii.gz").resolve()
    with pytest.raises(PigError, match=r"datalist\.json has no fold 7; give --fold 0, 1, 2 or -1"):
        folder.training_entries(tmp_path, 7)


def test_trainings_get_slices_with_a_lesion_unless_they_ask(tmp_path: Path) -> None:
    entries = [
        entry(0, 0),
        entry(1, 0, label_kind="box", rotated=True),
        entry(2, 0, lesion=False),
        entry(3, 0, lesion=True, label_kind="contour"),
        entry(4, 0),
        entry(5, 1, lesion=False),
    ]
    del entries[4]["label"]
    make(tmp_path, entries)
    for options, expected in [
        ({}, "013"),
        ({"lesion_free": True}, "0123"),
        ({"labelled_only": False}, "0134"),
        ({"labelled_only": False, "lesion_free": True}, "01234"),
    ]:
        found = folder.training_entries(tmp_path, 1, **options)
        assert [one["patient"] for one in found] == [f"p{number}" for number in expected], options
    assert [folder.has_lesion(one) for one in entries] == [True, True, False, True, False, False]
    with pytest.raises(PigError, match="no entry with a lesion is held out by fold 1"):
        folder.heldout_entries(tmp_path, 1)
    assert len(folder.heldout_entries(tmp_path, 1, lesion_free=True)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", "/etc/passwd"),
        ("image", "../escape.nii.gz"),
        ("label", 3),
        ("patient", ""),
        ("fold", "1"),
        ("fold", True),
        ("fold", -2),
        ("spacing", [0.1]),
        ("spacing", [0.1, -0.1]),
        ("laterality", "left"),
        ("slice", -1),
        ("origin", "fake"),
        ("label_kind", "scribble"),
        ("lesion", 0),
        ("rotated", 180),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, key: str, value: object) -> None:
    make(tmp_path, [entry(0, 0), entry(1, 0)])
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    datalist["training"][1][key] = value
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    with pytest.raises(PigError) as caught:
        folder.read_datalist(tmp_path)
    assert caught.value.what.startswith(f"{tmp_path / 'datalist.json'}#training#1#{key} ")


def test_a_generator_learns_from_lesions_or_from_all(tmp_path: Path) -> None:
    lesion, free, unlabelled, heldout = entry(0, 1), entry(1, 1, lesion=False), entry(2, 1), entry(3, 0)
    del unlabelled["label"]
    make(tmp_path, [lesion, free, unlabelled, heldout])

    def numbers(learn_from: str) -> list[str]:
        return [Path(e["image"]).name for e in folder.generator_entries(tmp_path, 0, learn_from)]

    assert numbers("lesion") == [Path(lesion["image"]).name]
    assert numbers("all") == [Path(e["image"]).name for e in (lesion, free, unlabelled)]
    with pytest.raises(PigError, match="learn_from is 'labelled'; give lesion or all"):
        numbers("labelled")


def test_the_stored_size_is_what_preparation_says(tmp_path: Path) -> None:
    make(tmp_path, [entry(0, 0)])
    wanted = json.loads((tmp_path / "datalist.json").read_text())["preprocessing"]["size"]
    assert folder.stored_size(tmp_path) == wanted
    content = json.loads((tmp_path / "datalist.json").read_text())
    del content["preprocessing"]["size"]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(PigError, match=r"datalist.json#preprocessing#size is missing"):
        folder.stored_size(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PigError, match=r"datalist\.json does not exist"):
        folder.read_datalist(tmp_path)
    make(tmp_path, [entry(0, 0), entry(1, 0)])
    (tmp_path / "labels/p1_lcc_000.nii.gz").unlink()
    with pytest.raises(PigError, match=r"datalist\.json#training#1#label: .*p1_lcc_000\.nii\.gz does not exist"):
        folder.read_datalist(tmp_path)
    for text, expected in [
        ("{", "cannot be read as JSON"),
        ("[]", "no list 'training'"),
        ('{"training": []}', "empty"),
    ]:
        (tmp_path / "datalist.json").write_text(text)
        with pytest.raises(PigError, match=expected):
            folder.read_datalist(tmp_path)


def test_fingerprint_names_the_data_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path, [entry(0, 0), entry(1, 1)])
    before = folder.fingerprint(tmp_path)
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    (tmp_path / "datalist.json").write_text(json.dumps(datalist | {"name": "other", "created_by": "other"}))
    assert folder.fingerprint(tmp_path) == before
    label = next(tmp_path.glob("labels/*.nii.gz"))
    corrected = ~folder.read_label(label)
    folder.write_label(label, corrected)
    after = folder.fingerprint(tmp_path)
    assert after != before
    datalist["training"].reverse()
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    assert folder.fingerprint(tmp_path) not in (before, after)
