"""A training from the client: on the folder's final labels and on generated pairs, with a new model served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import CONFIGS, IMAGE_SIZE, dice, infer, lay_out, ours, wait_for_training
from monailabel.client import MONAILabelClient
from servers import monai_label

PAIRS = 4


@pytest.fixture(scope="module")
def app(segmenter: Path, folder: Path) -> Path:
    """An app that the trainings change."""
    return lay_out(folder / "app_trained", segmenter)


@pytest.fixture(scope="module")
def client(app: Path, studies: Path, folder: Path) -> Iterator[MONAILabelClient]:
    """MONAI Label's client of a server on the studies folder."""
    with monai_label(app, studies, folder / "server_trained") as one:
        yield one


def sha256(file: Path) -> str:
    """Return the hex digest of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_training_with_pairs_changes_the_served_model(
    client: MONAILabelClient, app: Path, studies: Path, folder: Path, tmp_path: Path
) -> None:
    pairs = folder / "pairs"
    ours(
        *("-m", "monai.bundle", "run", "infer_pairs", "--config_file", f"{CONFIGS}/infer_pairs.yaml"),
        *("--output_dir", pairs, "--num_pairs", PAIRS, "--num_inference_steps", 10, "--device", "cpu"),
    )
    models = app / "model/pig_dbt/models"
    former = sha256(models / "model.pt")
    before = infer(client, "volume", tmp_path / "before.nii.gz")

    client.train_start(
        "pig_dbt",
        {"device": "cpu", "max_epochs": 2, "pairs_dir": str(pairs), "image_size": IMAGE_SIZE, "batch_size": 4},
    )
    status = wait_for_training(client)

    assert status["status"] == "DONE", status
    meta = json.loads((models / "model.json").read_text())
    assert (meta["pairs"], meta["image_size"], meta["epoch"]) == (PAIRS, IMAGE_SIZE, 2)
    assert meta["weights_sha256"] == sha256(models / "model.pt") != former
    assert sha256(models / "model_previous.pt") == former
    after = infer(client, "volume", tmp_path / "after.nii.gz")
    ours(
        *("-m", "monai.bundle", "run", "--config_file", f"{CONFIGS}/inference.yaml", "--device", "cpu"),
        *("--images", studies / "volume.nii.gz", "--ckpt", models / "model.pt", "--output_dir", tmp_path),
    )
    masks = [np.asarray(nib.load(file).dataobj) for file in (before, after, tmp_path / "volume_mask.nii.gz")]
    assert (masks[0] != masks[1]).any()
    assert dice(masks[1], masks[2]) > 0.99  # what is served is what was trained


def test_too_few_labels_are_refused(client: MONAILabelClient) -> None:
    client.train_start("pig_dbt", {"device": "cpu", "max_epochs": 1, "val_split": 0.0})

    status = wait_for_training(client)

    assert status["status"] == "ERROR"
    assert "10 studies with a final label leave 10 to train on and 0 to validate on" in "".join(status["details"])
