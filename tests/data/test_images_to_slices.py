from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from pig_monai.data.cases import parse_view
from pig_monai.data.commands import images_to_slices
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.errors import PigError
from tests.data.helpers import assert_nobody_is_named, contents, report, rows

SIZE = 40
BREAST = np.zeros((SIZE, SIZE), np.uint8)  # (rows, columns)
BREAST[5:35, 10:30] = (
    100 + np.arange(30)[:, None] + np.arange(20)
)  # rows 5 … 34, columns 10 … 29, straight on both sides
LESION = np.zeros((SIZE, SIZE), np.uint8)
LESION[10:14, 15:25] = 255


def write(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(pixels.T[..., None], np.diag([-0.2, -0.4, 1, 1])), path)
    else:
        Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for patient in ("Anna", "Berta", "Clara"):
        for view in ("L_CC", "L_MLO"):
            write(folder / "images", f"{patient}_{view}.png", BREAST)
            write(folder / "masks", f"{patient}_{view}_mass.png", LESION)
    return folder


def prepare(source: Path, output: Path, **options: object) -> dict:
    settings = {"size": 32, "patient_regex": "^([A-Za-z]+)_"} | options
    images_to_slices(images=source / "images", masks=source / "masks", output=output, **settings)
    return read_datalist(output)


def test_pictures_of_every_kind_give_the_same_slice(tmp_path: Path) -> None:
    source = tmp_path / "source"
    kinds = {
        "a.png": BREAST,
        "b.tif": BREAST.astype(np.uint16) * 16,
        "c.nii.gz": BREAST.astype(np.float32) * 3 - 100,
        "d.png": np.repeat(BREAST[..., None], 3, axis=2),
        "e.tiff": BREAST,
        "f.PNG": BREAST.astype(np.uint16) * 256,
    }
    for name, pixels in kinds.items():
        write(source / "images", name, pixels)
        write(source / "masks", f"{name[0]}.png", LESION)
    entries = prepare(source, tmp_path / "out", patient_regex="([a-f])", size=30)["training"]
    assert len(entries) == len(kinds)
    inside = BREAST[5:35, 10:30].astype(float)
    low, high = np.percentile(inside, [0.5, 99.5])
    expected = np.clip((inside - low) / (high - low) * 2 - 1, -1, 1)
    for entry in entries:
        read = read_slice(tmp_path / "out" / entry["image"])
        np.testing.assert_allclose(read[:20].T, expected, atol=1e-4)
        assert (read[20:] == -1).all()
        np.testing.assert_array_equal(
            read_label(tmp_path / "out" / entry["label"])[:20].T, LESION[5:35, 10:30] > 0
        )
    assert Counter(map(str, (e["spacing"] for e in entries))) == {"None": 5, "[0.2, 0.4]": 1}


def test_patients_come_from_the_regex(source: Path, tmp_path: Path) -> None:
    entries = prepare(source, tmp_path / "out")["training"]
    by_patient = Counter(e["patient"] for e in entries)
    assert sorted(by_patient.values()) == [2, 2, 2]
    assert len({(e["patient"], e["fold"]) for e in entries}) == 3
    assert len({e["fold"] for e in entries}) == 3
    assert {Path(e["image"]).name for e in entries} == {
        f"{patient}_noview{number}_000.nii.gz" for patient in by_patient for number in ("", "2")
    }
    assert report(tmp_path / "out")["warnings"] == [
        "6 cases have no geometry: their masks were matched by shape",
        "6 slices have no spacing: their lesion areas are in pixels",
    ]
    with pytest.raises(PigError, match="has no group"):
        prepare(source, tmp_path / "b", patient_regex="Anna")
    with pytest.raises(PigError, match="is no regular expression"):
        prepare(source, tmp_path / "b", patient_regex="(")


def test_images_without_a_mask_are_taken_on_request(source: Path, tmp_path: Path) -> None:
    for path in (source / "masks").glob("Anna*"):
        path.unlink()
    entries = prepare(source, tmp_path / "out", unlabeled="true")["training"]
    assert Counter("label" in entry for entry in entries) == {True: 4, False: 2}
    assert len({entry["patient"] for entry in entries if "label" not in entry}) == 1
    assert report(tmp_path / "out")["contents"] == {"lesion": 4, "unlabelled": 2}
    for entry in entries:
        assert read_slice(tmp_path / "out" / entry["image"]).max() == 1
    for path in (source / "masks").iterdir():
        path.unlink()
    assert len(prepare(source, tmp_path / "none", unlabeled=True)["training"]) == 6


def test_without_regex_each_image_is_its_own_patient(source: Path, tmp_path: Path) -> None:
    entries = prepare(source, tmp_path / "out", patient_regex=None)["training"]
    assert len({e["patient"] for e in entries}) == 6
    warnings = report(tmp_path / "out")["warnings"]
    assert "each image counts as its own patient: give --patient_regex or --index" in warnings


def test_the_index_gives_patient_view_and_side(source: Path, tmp_path: Path) -> None:
    index = source / "images/index.csv"
    index.write_text(
        "\ufeffFile, Patient ,VIEW,laterality\n"
        "images/Anna_L_CC.png,p 1,CC,left\n"
        "Anna_L_MLO,p 1,lmlo,\n"
        "Berta_L_CC.png,p 2,Jane's picture,R\n"
        "Berta_L_MLO.png,,CC,L\n"
        "Clara_L_CC.png,p 3,r-cc,\n",
        encoding="utf-8",
    )
    entries = prepare(source, tmp_path / "out", patient_regex=None, index=index)["training"]
    found = sorted((e["view"] or "", e["laterality"]) for e in entries)
    assert found == [("", "R"), ("lcc", "L"), ("lmlo", "L"), ("rcc", "R")]
    assert sorted(reason for _, reason, _ in rows(tmp_path / "out")) == [
        "the column 'patient' of the index names no patient for it",
        "the index has no row for it, or several",
    ]
    assert_nobody_is_named(tmp_path / "out", ["Jane", "Anna", "p 1", "Clara", str(source)])
    with pytest.raises(PigError, match="both --patient_regex and --index"):
        prepare(source, tmp_path / "b", index=index)
    (tmp_path / "bad.csv").write_text("name\nx\n")
    with pytest.raises(PigError, match=r"bad\.csv has no column 'image' or 'file'"):
        prepare(source, tmp_path / "b", patient_regex=None, index=tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("text", "side", "expected"),
    [
        ("CC", "L", ("lcc", "L")),
        ("R-MLO", None, ("rmlo", "R")),
        ("lmlo", None, ("lmlo", "L")),
        ("LM", None, ("lm", None)),
        ("LLM", None, ("llm", "L")),
        ("LMO", "R", ("rlmo", "R")),
        ("rmlo2", None, ("rmlo", "R")),
        ("xccl", "L", ("lxccl", "L")),
        ("Doe, Jane", "L", (None, "L")),
        ("", None, (None, None)),
        (None, "R", (None, "R")),
    ],
)
def test_views_as_people_write_them(text: str | None, side: str | None, expected: tuple) -> None:
    assert parse_view(text, side) == expected


def test_unusable_images_are_rows(source: Path, tmp_path: Path) -> None:
    images, masks = source / "images", source / "masks"
    (images / "Dora_1.png").write_bytes(b"no picture")
    (images / "Dora_2.txt").write_text("Dora")
    write(images, "Dora_3.png", BREAST)  # no mask
    write(images, "Dora_4.png", BREAST[:-1])  # another size than its mask
    write(images, "Dora_5.png", np.full_like(BREAST, 9))  # blank
    write(images, "Dora_6.png", BREAST)
    write(masks, "Dora_6.png", LESION // 255 * 3)  # labels, not 0 and 255
    write(images, "Dora_7.png", BREAST)
    write(
        masks,
        "Dora_7.png",
        np.roll(LESION, -10, axis=0) * 0 + np.pad(np.full((2, 2), 255, np.uint8), ((0, 38), (0, 38))),
    )
    write(images, "4711.png", BREAST)
    first, second = Image.fromarray(BREAST), Image.fromarray(BREAST)
    first.save(images / "Dora_8.tif", save_all=True, append_images=[second])
    nib.save(nib.Nifti1Image(np.zeros((40, 40, 5)), np.eye(4)), images / "Dora_9.nii")
    for stem in ("Dora_1", "Dora_4", "Dora_5", "4711", "Dora_8", "Dora_9", "nobody"):
        write(masks, f"{stem}.png", LESION)
    assert len(prepare(source, tmp_path / "out")["training"]) == 6
    found = {reason for _, reason, _ in rows(tmp_path / "out")}
    assert found == {
        "the file cannot be read as an image (UnidentifiedImageError)",
        "not an image file",
        "it has no mask",
        "the mask's grid is 40 × 40 × 1 voxels without geometry, the image's 40 × 39 × 1 voxels without geometry",
        "frame 0 is blank",
        "its mask is empty",
        "its mask lies outside the breast",
        "--patient_regex names no patient for it",
        "the file holds 2 pages",
        "the NIfTI holds 40 × 40 × 5 voxels, not one slice",
        "the mask fits no image, or several",
    }
    assert_nobody_is_named(tmp_path / "out", ["Dora", "4711", "nobody"])


def test_a_rerun_changes_nothing_and_added_images_join(source: Path, tmp_path: Path) -> None:
    out = source / "images/out"  # even inside the folder of images
    before = prepare(source, out)["training"]
    first = contents(out)
    prepare(source, out)
    assert contents(out) == first
    write(source / "images", "Aaron_L_CC.png", BREAST)
    write(source / "masks", "Aaron_L_CC.png", LESION)
    after = prepare(source, out)["training"]
    assert [e for e in after if e in before] == before
    assert len(after) == 7
    write(source / "masks", "Aaron_L_CC_2.png", np.roll(LESION, 5, axis=0))
    with pytest.raises(PigError, match=r"Aaron_L_CC\.png or its mask changed"):
        prepare(source, out)


def test_workers_do_not_change_the_result(source: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    prepare(source, tmp_path / "one", key=tmp_path / "key")
    prepare(source, tmp_path / "two", key=tmp_path / "key", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "--size is 0"),
        ({"size": "512x512"}, "--size is '512x512'"),
        ({"aspect": "crop"}, "--aspect is 'crop'; give one of pad, stretch"),
        ({"chest_wall": "right"}, "give one of left, keep"),
        ({"crop": "yes"}, "--crop is 'yes'; give true or false"),
        ({"low": 99.5, "high": 0.5}, "--low 99.5 is not below --high 0.5"),
        ({"workers": 0}, "--workers is 0"),
        ({"min_lesion_area": -1}, "--min_lesion_area is -1"),
        ({"images": "/nowhere"}, "--images /nowhere is not a folder"),
    ],
)
def test_wrong_options_are_told(source: Path, tmp_path: Path, options: dict, message: str) -> None:
    settings = {"images": source / "images", "masks": source / "masks", "output": tmp_path / "out"} | options
    with pytest.raises(PigError) as caught:
        images_to_slices(**settings)
    assert message in str(caught.value)


def test_folders_that_do_not_go_together(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PigError, match="are the same folder"):
        images_to_slices(images=source / "images", masks=source / "images", output=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PigError, match=r"no mask in .*empty fits an image in"):
        images_to_slices(images=source / "images", masks=tmp_path / "empty", output=tmp_path / "out")
    with pytest.raises(PigError, match=r"--log .* lies inside the dataset folder"):
        prepare(source, tmp_path / "out", log=tmp_path / "out/log.txt")


@pytest.mark.skipif(
    "PIG_TEST_DATA" not in os.environ, reason="PIG_TEST_DATA does not name a folder with cdd_cesm_dm/"
)
def test_real_mammograms(tmp_path: Path) -> None:
    """A patient's images of the public CDD-CESM set, against what its own index says."""
    data = Path(os.environ["PIG_TEST_DATA"]) / "cdd_cesm_dm"
    source = tmp_path / "source"
    for kind in ("images", "masks"):
        (source / kind).mkdir(parents=True)
        for path in (data / kind).glob("P10?_*.jpg"):
            (source / kind / path.name).symlink_to(path)
    index = data / "index.csv"
    images_to_slices(images=source / "images", masks=source / "masks", output=tmp_path / "out", index=index)
    entries = read_datalist(tmp_path / "out")["training"]
    listed = [line.split(",") for line in index.read_text().splitlines() if line.startswith("images/P10")]
    listed = [row for row in listed if len(row[2]) == 4]  # P100 … P109
    assert Counter(e["view"] for e in entries) == Counter((row[3] + row[4]).lower() for row in listed)
    assert len({e["patient"] for e in entries}) == len({row[2] for row in listed})
    for entry in entries:
        image, mask = read_slice(tmp_path / "out" / entry["image"]), read_label(tmp_path / "out" / entry["label"])
        breast = image > -0.95
        assert breast[:8].sum() > breast[-8:].sum()  # the chest wall is left
        assert np.flatnonzero(breast.any(axis=1))[0] <= 2  # JPEG smears the edge
        assert mask.any()
        assert breast[mask].mean() > 0.8  # findings lie in the breast
