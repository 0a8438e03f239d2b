"""A local folder of studies: what the server lists, and the masks it returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import CONFIGS, Study, check_mask, dice, infer, lay_out, ours
from monailabel.client import MONAILabelClient
from PIL import Image
from servers import monai_label


@pytest.fixture(scope="module")
def client(segmenter: Path, studies: Path, folder: Path) -> Iterator[MONAILabelClient]:
    """MONAI Label's client of a server on the studies folder."""
    with monai_label(lay_out(folder / "app", segmenter), studies, folder / "server") as one:
        yield one


def test_lists_the_model_and_the_trainer(client: MONAILabelClient) -> None:
    info = client.info()

    assert list(info["models"]) == ["pig_dbt"]
    assert list(info["trainers"]) == ["pig_dbt"]
    model = info["models"]["pig_dbt"]
    assert (model["type"], model["dimension"], model["labels"]) == ("segmentation", 2, {"mass": 1})
    assert model["config"]["threshold"] == 0.5
    assert model["config"]["model_filename"] == ["model.pt"]
    options = info["trainers"]["pig_dbt"]["config"]
    assert options["pairs_dir"] == ""
    assert options["image_size"] == 256


def test_a_volumes_mask_lies_on_its_grid(client: MONAILabelClient, study: Study, tmp_path: Path) -> None:
    mask = nib.load(infer(client, "volume", tmp_path / "mask.nii.gz"))

    volume = nib.load(study.volume)
    assert mask.shape == volume.shape
    np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-4)
    values = np.asarray(mask.dataobj)
    assert values.dtype == np.uint8
    assert set(np.unique(values)) == {0, 1}
    check_mask(values, nib.load(study.mask).get_fdata())


def test_the_mask_is_the_one_that_the_bundle_finds(
    client: MONAILabelClient, segmenter: Path, study: Study, tmp_path: Path
) -> None:
    served = nib.load(infer(client, "volume", tmp_path / "mask.nii.gz"))
    ours(
        *("-m", "monai.bundle", "run", "--config_file", f"{CONFIGS}/inference.yaml", "--device", "cpu"),
        *("--images", study.volume, "--ckpt", segmenter / "model.pt", "--output_dir", tmp_path),
    )

    stem = study.volume.name.removesuffix(".nii.gz")
    found = nib.load(tmp_path / f"{stem}_mask.nii.gz")
    # two environments with different versions of PyTorch and NumPy
    assert dice(served.dataobj, found.dataobj) > 0.99


def test_a_prepared_slice(client: MONAILabelClient, studies: Path, folder: Path, tmp_path: Path) -> None:
    mask = nib.load(infer(client, "slice", tmp_path / "mask.nii.gz"))

    image = nib.load(studies / "slice.nii.gz")
    assert mask.shape == image.shape == (256, 256, 1)
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    assert dice(mask.dataobj, nib.load(folder / "slice_truth.nii.gz").dataobj) > 0.6


def test_a_picture(client: MONAILabelClient, folder: Path, tmp_path: Path) -> None:
    mask = Image.open(infer(client, "picture", tmp_path / "mask.png"))

    assert (mask.mode, mask.size) == ("L", (256, 256))
    truth = np.asarray(nib.load(folder / "slice_truth.nii.gz").dataobj)[..., 0].T
    assert dice(np.asarray(mask), truth) > 0.6


def test_the_clients_threshold_counts(client: MONAILabelClient, tmp_path: Path) -> None:
    masks = [
        np.asarray(nib.load(infer(client, "volume", tmp_path / f"{t}.nii.gz", threshold=t)).dataobj) > 0
        for t in (0.05, 0.5)
    ]

    assert masks[0].sum() > masks[1].sum() > 0
    assert not (masks[1] & ~masks[0]).any()
