"""A volume constructed around one real DBT slice, from DICOM to a dataset folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless

from pig_monai.data.commands import dicom_to_slices
from pig_monai.data.folder import read_datalist, read_label, read_slice
from tests.data import dbt_objects as dbt

DATA = Path(os.environ.get("PIG_TEST_DATA", "/nowhere"))
REAL = DATA / "dbt_slice/selenia_rmlo_slice_12bit.png"


@pytest.mark.skipif(not REAL.is_file(), reason="PIG_TEST_DATA does not name a folder with dbt_slice/")
def test_real_dbt_slice_arrives_upright_and_aligned(tmp_path: Path) -> None:
    real = np.asarray(Image.open(REAL)).astype(np.uint16)  # rows × columns, a right MLO: chest wall on the right
    frames = np.stack([real // 2, real, real // 3])
    mask = np.zeros(frames.shape, np.uint8)
    mask[1, 1200:1300, 1500:1640] = 1
    volume = dbt.build(frames, laterality="R")
    volume.compress(JPEG2000Lossless, frames)
    dbt.save(volume, tmp_path / "dicom/case.dcm")
    dbt.save_mask(mask, tmp_path / "masks/case.nii.gz")
    dicom_to_slices(
        input=str(tmp_path / "dicom"), masks=str(tmp_path / "masks"), output=str(tmp_path / "out"), crop=False
    )

    (entry,) = read_datalist(tmp_path / "out")["training"]
    assert (entry["view"], entry["laterality"], entry["slice"]) == ("rmlo", "R", 1)
    size = (round(512 * real.shape[1] / real.shape[0]), 512)
    flipped = Image.fromarray(real[:, ::-1].astype(np.float32))
    mirrored = np.asarray(flipped.resize(size, Image.Resampling.BOX)).T  # area averages, by another library
    prepared = read_slice(tmp_path / "out" / entry["image"])
    assert np.all(prepared[size[0] + 1 :] == -1)  # padded on the right
    linear = np.abs(prepared[: size[0]]) < 0.99  # neither background nor clipped at a percentile
    assert linear.mean() > 0.15
    found = np.corrcoef(prepared[: size[0]][linear], mirrored[linear])[0, 1]
    assert found > 0.95  # what is darker than the percentiles is clipped before the average: not wholly linear
    assert mirrored[::-1][linear].mean() < 0.2 * mirrored[linear].mean()  # left as it was, it would be air

    scale = 512 / real.shape[0]
    box = np.argwhere(read_label(tmp_path / "out" / entry["label"]))
    wanted = np.array([[real.shape[1] - 1640, 1200], [real.shape[1] - 1500, 1300]]) * scale
    np.testing.assert_allclose([box.min(0), box.max(0) + 1], wanted, atol=1)
    np.testing.assert_allclose(entry["spacing"], np.array(dbt.SPACING[:2]) / scale, rtol=0.01)
