"""Fixtures: a phantom, a segmenter trained on it, the app around it, and a folder of studies.

The tests run in MONAI Label's environment. What needs ours, in which pig_monai is installed, runs as commands of
PIG_PYTHON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its manual gives it)
from monailabel.client import MONAILabelClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = "bundles/pig_dbt/configs"
IMAGE_SIZE = 64


def ours(*arguments: object) -> None:
    """Run our Python from the repository's root, as a user does."""
    python = str(ROOT / os.environ.get("PIG_PYTHON", ".venv/bin/python"))
    # not the environment's own search path: MONAI Label's packages are not ours
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@dataclass(frozen=True)
class Study:
    """A phantom volume with a mass: its DICOM file, the same as NIfTI, and the truth on the same grid."""

    dicom: Path
    volume: Path
    mask: Path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for everything."""
    return tmp_path_factory.mktemp("monailabel")


@pytest.fixture(scope="session")
def dataset(folder: Path) -> Path:
    """A dataset folder of the phantom, whose DICOM files stay beside it."""
    phantom = folder / "phantom"
    drawn = ("--patients", 10, "--seed", 3, "--slices", 12, "--compression", "j2k")  # compressed as in hospitals
    ours("data_prep/make_phantom.py", "--output", phantom, *drawn)
    read = ("--input", phantom / "dicom", "--masks", phantom / "masks", "--size", 256, "--lesion_free", 3)
    ours("data_prep/dicom_to_slices.py", "--output", folder / "dataset", *read)
    return folder / "dataset"


@pytest.fixture(scope="session")
def segmenter(dataset: Path, folder: Path) -> Path:
    """A run folder with a segmenter that finds most of the phantom's masses."""
    ours(
        *("-m", "monai.bundle", "run", "training", "--config_file", f"{CONFIGS}/train.yaml", "--device", "cpu"),
        *("--dataset_dir", dataset, "--output_dir", folder / "segmenter", "--fold", 0),
        *("--image_size", IMAGE_SIZE, "--max_epochs", 12),
    )
    return folder / "segmenter"


def lay_out(app: Path, segmenter: Path) -> Path:
    """Lay out an app by the command."""
    ours("-m", "pig_monai.monai_label_app", "--app", app, "--weights", segmenter / "model.pt")
    return app


@pytest.fixture(scope="session")
def phantoms(dataset: Path, folder: Path) -> list[Study]:
    """The phantom's volumes, those with the largest masses first."""
    masks = sorted((folder / "phantom/masks").glob("*.nii.gz"))
    masks.sort(key=lambda file: -int(np.count_nonzero(nib.load(file).dataobj)))
    stems = [mask.name.removesuffix(".nii.gz") for mask in masks]
    (folder / "nifti").mkdir()
    return [
        Study(folder / f"phantom/dicom/{stem}.dcm", folder / f"nifti/{stem}.nii.gz", mask)
        for stem, mask in zip(stems, masks, strict=True)
    ]


@pytest.fixture(scope="session")
def study(phantoms: list[Study]) -> Study:
    """The volume with the largest mass, in its NIfTI form, too."""
    sitk.WriteImage(sitk.ReadImage(str(phantoms[0].dicom)), str(phantoms[0].volume))
    return phantoms[0]


@pytest.fixture(scope="session")
def second_study(phantoms: list[Study]) -> Study:
    """Another volume with a mass."""
    return phantoms[1]


@pytest.fixture(scope="session")
def studies(dataset: Path, study: Study, folder: Path) -> Path:
    """A studies folder: a volume, a prepared slice, the same slice as a picture, and slices with final labels."""
    where = folder / "studies"
    final = where / "labels/final"
    final.mkdir(parents=True)
    shutil.copy(study.volume, where / "volume.nii.gz")
    entries = json.loads((dataset / "datalist.json").read_text())["training"]
    entries = [entry for entry in entries if entry.get("lesion", True)]
    largest = max(entries, key=lambda entry: int(np.count_nonzero(nib.load(dataset / entry["label"]).dataobj)))
    shutil.copy(dataset / largest["image"], where / "slice.nii.gz")
    shutil.copy(dataset / largest["label"], folder / "slice_truth.nii.gz")
    pixels = nib.load(dataset / largest["image"]).get_fdata()[..., 0]
    # a picture has rows and columns, NIfTI has columns and rows
    Image.fromarray(np.uint8(np.round((pixels.T + 1) * 127.5))).save(where / "picture.png")
    for number, entry in enumerate(entries[:10]):
        shutil.copy(dataset / entry["image"], where / f"labelled_{number}.nii.gz")
        shutil.copy(dataset / entry["label"], final / f"labelled_{number}.nii.gz")
    return where


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice coefficient of two masks of any numbers."""
    a, b = np.asarray(a) > 0.5, np.asarray(b) > 0.5
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def check_mask(mask: np.ndarray, truth: np.ndarray) -> None:
    """Check that a mask lies where the mass is, and not its mirror image; a short training finds no more."""
    with_mass = (truth > 0.5).any(axis=(0, 1))
    assert dice(mask[..., with_mass], truth[..., with_mass]) > 0.5
    mirrored = [dice(np.flip(mask, axis), truth) for axis in range(3)]
    assert dice(mask, truth) > max(mirrored)


def wait_for_training(client: MONAILabelClient, patience: int = 600) -> dict[str, object]:
    """Return the training's last status."""
    deadline = time.monotonic() + patience
    while (status := client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    return status


def infer(client: MONAILabelClient, image: str, target: Path, **params: object) -> Path:
    """Ask for the mask of an image of the datastore; return its file, moved to ``target``."""
    answer, _ = client.infer("pig_dbt", image, {"device": "cpu", **params})
    return Path(shutil.move(answer, target))
