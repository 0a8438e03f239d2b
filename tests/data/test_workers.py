"""Sharing the slices of few volumes out among many processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pig_monai.data import workers
from pig_monai.data.prepare import Part, unite
from tests.data.dbt_objects import build, lesion, pixels, save, save_mask
from tests.data.helpers import contents, report, rows
from tests.data.sharded import prepare

FRAMES = 9


def test_parts_are_the_whole_in_order_and_the_first_is_never_empty() -> None:
    for count in range(1, 20):
        wanted = [(index, "lesion") for index in range(count)]
        for of in range(1, 25):
            parts = [Part(number, of).take(wanted) for number in range(of)]
            assert [one for part in parts for one in part] == wanted
            assert max(map(len, parts)) == len(parts[0]) == -(-count // of)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A good volume; two blank slices; first lesions of which the crop leaves nothing; an empty mask."""
    for number, name in enumerate(["good", "blank", "outside", "empty"]):
        values = pixels(FRAMES) + number
        mask = lesion([] if name == "empty" else [0, 1, 3, 4, 6, 7, 8], values.shape)
        if name == "blank":
            values[6] = 0
            values[8] = 0
        if name == "outside":
            mask[:5] = 0
            mask[:5, :3, -3:] = 1
        save(build(values, PatientID=name), tmp_path / f"dicom/{name}.dcm")
        save_mask(mask, tmp_path / f"masks/{name}.nii.gz")
    (tmp_path / "key").write_text("k")
    return tmp_path


@pytest.mark.parametrize(("number", "parts"), [(3, [1, 1, 1, 3]), (8, [2] * 4), (30, [7] * 4)])
def test_the_last_volumes_are_shared_out_to_the_same_bytes(
    source: Path, number: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counted(case: object, dataset_dir: object, parts: list[object]) -> object:
        seen.append(len(parts))
        return unite(case, dataset_dir, parts)  # type: ignore[arg-type]

    prepare(source, source / "one")
    monkeypatch.setattr(workers, "unite", counted)
    prepare(source, source / "several", workers=number)
    assert sorted(seen) == parts
    assert contents(source / "several") == contents(source / "one")
    assert report(source / "one")["converted"] == 2
    assert len(list((source / "one/images").iterdir())) == 7 + 3
    assert sorted(reason for _, reason, _ in rows(source / "one")) == ["frame 6 is blank", "its mask is empty"]
