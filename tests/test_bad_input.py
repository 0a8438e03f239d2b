"""What users get wrong, through the commands they type: one line that names it, and nothing lost."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from pig_monai.checkpoint import load_weights, save_weights
from pig_monai.data.folder import write_label, write_slice
from pig_monai.data.transforms import load_slices
from tests.conftest import ANY_MASK, TINY, last_line, run_bundle

Result = subprocess.CompletedProcess[str]


def assert_one_line(result: Result, *words: object) -> None:
    assert result.returncode == 1
    line = last_line(result)
    assert line.startswith("error: ")
    assert "; " in line
    for word in words:
        assert str(word) in line
    assert "Traceback" not in result.stderr


def train(dataset: Path, output_dir: Path, config: str = "train_guider.yaml", **ids: object) -> Result:
    common = {**TINY, "dataset_dir": dataset, "output_dir": output_dir, "max_iterations": 2}
    return run_bundle("training", f"configs/{config}", **{**common, **ids})


# --- datasets ---------------------------------------------------------------------------------------------------


def edit(dataset: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = dataset / "datalist.json"
    datalist = json.loads(path.read_text())
    change(datalist)
    path.write_text(json.dumps(datalist))


def first_entry(dataset: Path) -> tuple[Path, Path]:
    """Return image and label of the first entry that a training without fold 0 reads."""
    entries = json.loads((dataset / "datalist.json").read_text())["training"]
    entry = next(e for e in entries if e["fold"] != 0)
    return dataset / entry["image"], dataset / entry["label"]


def remove_dataset(dataset: Path) -> list[object]:
    shutil.rmtree(dataset)
    return [dataset / "datalist.json", "does not exist; prepare the dataset"]


def remove_datalist(dataset: Path) -> list[object]:
    (dataset / "datalist.json").unlink()
    return [dataset / "datalist.json", "does not exist; prepare the dataset"]


def empty_datalist(dataset: Path) -> list[object]:
    edit(dataset, lambda datalist: datalist["training"].clear())
    return [dataset / "datalist.json", "#training is empty; "]


def torn_datalist(dataset: Path) -> list[object]:
    path = dataset / "datalist.json"
    path.write_bytes(path.read_bytes()[:100])
    return [path, "cannot be read as JSON"]


def remove_image(dataset: Path) -> list[object]:
    first_entry(dataset)[0].unlink()
    return ["datalist.json#training#", "#image: ", first_entry(dataset)[0], "does not exist; "]


def remove_label(dataset: Path) -> list[object]:
    first_entry(dataset)[1].unlink()
    return ["datalist.json#training#", "#label: ", first_entry(dataset)[1], "does not exist; "]


def smaller_label(dataset: Path) -> list[object]:
    image, label = first_entry(dataset)
    write_label(label, np.ones((48, 64), bool))
    return [f"{image} is 64 x 64 and {label} is 48 x 64; "]


def image_with_nan(dataset: Path) -> list[object]:
    image, _ = first_entry(dataset)
    values = np.zeros((64, 64, 1), np.float32)
    values[3, 4] = np.nan
    nib.save(nib.Nifti1Image(values, np.eye(4)), image)
    return [f"{image} holds values that are no numbers; "]


def whole_volume(dataset: Path) -> list[object]:
    image, _ = first_entry(dataset)
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 5), np.float32), np.eye(4)), image)
    return [f"{image} has the shape (64, 64, 5), and a slice has (W, H, 1); "]


def foreign_image(dataset: Path) -> list[object]:
    image, _ = first_entry(dataset)
    image.write_bytes(gzip.compress(b"no image"))
    return [f"{image} cannot be read"]


DATASETS = [
    remove_dataset, remove_datalist, empty_datalist, torn_datalist, remove_image, remove_label, smaller_label,
    image_with_nan, whole_volume, foreign_image,
]  # fmt: skip


@pytest.mark.parametrize("spoil", DATASETS)
def test_a_spoilt_dataset_is_named(spoil, phantom_dataset, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(phantom_dataset, dataset)
    words = spoil(dataset)
    assert_one_line(train(dataset, tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_a_worker_process_names_the_file_too(phantom_dataset, tmp_path):
    shutil.copytree(phantom_dataset, tmp_path / "dataset")
    words = smaller_label(tmp_path / "dataset")
    ids = {"cache_rate": 0, "num_workers": 1, "batch_size": 64}  # every slice is in the first batch
    result = train(tmp_path / "dataset", tmp_path / "run", **ids)
    assert result.returncode == 1
    assert words[0] in last_line(result)


def test_a_slice_that_is_not_square_is_padded_and_a_masks_values_are_only_0_and_more(tmp_path):
    """Neither breaks a training: what `load_slices` makes of them is what it says."""
    values = np.arange(32 * 16, dtype=np.float64).reshape(32, 16) / 256 - 1
    mask = np.zeros((32, 16), np.uint8)
    mask[4:8, 2:6] = 255
    write_slice(tmp_path / "image.nii.gz", values)
    nib.save(nib.Nifti1Image(mask[..., None], np.eye(4)), tmp_path / "label.nii.gz")
    entry = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}
    found = load_slices(16)(entry)
    blocks = values.reshape(16, 2, 8, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found["image"][0, :, :8], blocks, atol=1e-4)
    assert (found["image"][0, :, 8:] == -1).all()
    wanted = torch.zeros(1, 16, 16)
    wanted[0, 2:4, 1:3] = 1
    assert torch.equal(found["label"], wanted)


# --- checkpoints ------------------------------------------------------------------------------------------------


def infer(scrambled: Path, output_dir: Path, **ids: object) -> Result:
    checkpoints = {"guider_ckpt": scrambled / "guider", "generator_ckpt": scrambled / "generator"}
    common = {"num_pairs": 1, "num_inference_steps": 2, "device": "cpu", "output_dir": output_dir}
    return run_bundle("infer_pairs", "configs/infer_pairs.yaml", **{**common, **checkpoints, **ids})


def a_text(trained: Path, place: Path) -> tuple[Path, str]:
    (place / "a.pt").write_text("no weights")
    return place / "a.pt", "cannot be read as weights"


def another_role(trained: Path, place: Path) -> tuple[Path, str]:
    return trained / "generator/model_generator.pt", "holds a generator; name a guider's weights"


def another_run(trained: Path, place: Path) -> tuple[Path, str]:
    return trained / "generator", "is the folder of a generator run; name a guider's"


def a_state(trained: Path, place: Path) -> tuple[Path, str]:
    return trained / "guider/checkpoints/state_00000003.pt", "not a file from checkpoints/"


def a_run_that_just_began(trained: Path, place: Path) -> tuple[Path, str]:
    shutil.copy(trained / "guider/run.json", place)
    return place, "holds no model_guider.pt yet; wait for the training's first checkpoint_interval"


def infinite_weights(trained: Path, place: Path) -> tuple[Path, str]:
    state, meta = load_weights(trained / "guider", "guider")
    next(iter(state.values())).fill_(float("inf"))
    save_weights(place / "a.pt", state, meta)
    return place / "a.pt", "holds values that are no numbers"


@pytest.mark.parametrize(
    "make", [a_text, another_role, another_run, a_state, a_run_that_just_began, infinite_weights]
)
def test_what_is_no_guider_is_named(make, trained, tmp_path):
    (tmp_path / "place").mkdir()
    given, what = make(trained, tmp_path / "place")
    result = infer(trained, tmp_path / "pairs", guider_ckpt=given)
    assert_one_line(result, f"guider_ckpt {given}", what)
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"image_size": 32}, "the guider's image_size is 32 and the generator's is 16; "),
        ({"fold": 3}, "the guider's fold is 3 and the generator's is 0; "),
        ({"preprocessing": {"intensity": {"low": 2.0}}}, "the guider's preprocessing#intensity#low is 2.0 and "),
    ],
)
def test_networks_of_different_trainings_are_named_with_both_sides(changes, what, scrambled, tmp_path):
    state, meta = load_weights(scrambled / "guider", "guider")
    for key, value in changes.items():
        if isinstance(value, dict):
            intensity = {**meta["preprocessing"]["intensity"], **value["intensity"]}
            value = {**meta["preprocessing"], "intensity": intensity}
        meta[key] = value
    save_weights(tmp_path / "other.pt", state, meta)
    assert_one_line(infer(scrambled, tmp_path / "pairs", guider_ckpt=tmp_path / "other.pt"), what)


def test_weights_to_start_from_are_named_by_their_own_id(trained, phantom_dataset, tmp_path):
    result = train(phantom_dataset, tmp_path / "run", init_ckpt=tmp_path / "absent.pt")
    assert_one_line(result, f"init_ckpt {tmp_path / 'absent.pt'} does not exist; ")
    result = train(phantom_dataset, tmp_path / "run", init_ckpt=trained / "guider", prediction="epsilon")
    assert_one_line(result, f"init_ckpt {trained / 'guider'} was trained with prediction = v, and this")


def test_a_training_goes_on_at_another_size_with_another_network(scrambled, phantom_dataset, tmp_path):
    """At a learning rate of 0 what fitted is in the new weights, unchanged."""
    ids = {"image_size": 32, "channels": "[16,32,32]", "attention_levels": "[False,True,True]", "ema_decay": 0}
    result = train(phantom_dataset, tmp_path, init_ckpt=scrambled / "guider", learning_rate=0, **ids)
    assert result.returncode == 0, result.stderr
    (start, _), (found, meta) = load_weights(scrambled / "guider", "guider"), load_weights(tmp_path, "guider")
    fitting = [name for name in found if name in start and start[name].shape == found[name].shape]
    assert meta["image_size"] == 32
    assert f"guider: loaded {len(fitting)} of {len(found)} tensors, " in result.stderr
    assert all(torch.equal(start[name], found[name]) for name in fitting)


# --- machines ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named(phantom_dataset, tmp_path):
    assert_one_line(train(phantom_dataset, tmp_path / "run", device="cuda"), "device is 'cuda'", "give cpu")


def test_a_missing_package_is_named(phantom_dataset, tmp_path):
    if importlib.util.find_spec("mlflow"):
        pytest.skip("MLflow is installed")
    result = train(phantom_dataset, tmp_path / "run", tracking="mlflow")
    assert last_line(result) == "error: mlflow is not installed; pip install mlflow"
    assert_one_line(result)


def test_a_training_that_breaks_keeps_its_last_good_state_and_weights(phantom_dataset, tmp_path):
    """The first step of size 1e30 leaves numbers, the second none."""
    ids = {"learning_rate": "1.0e+30", "lr_schedule": "constant", "gradient_clip": 0, "checkpoint_interval": 1}
    assert_one_line(
        train(phantom_dataset, tmp_path / "run", max_iterations=9, **ids), "at iteration 2", "init_ckpt"
    )
    assert train(phantom_dataset, tmp_path / "one", max_iterations=1, **ids).returncode == 0
    states = [path.name for path in (tmp_path / "run/checkpoints").glob("state_*")]
    assert states == ["state_00000001.pt"]
    broken, one = (torch.load(tmp_path / name / "checkpoints" / states[0]) for name in ("run", "one"))
    torch.testing.assert_close(broken["network"], one["network"], rtol=0, atol=0)
    torch.testing.assert_close(
        load_weights(tmp_path / "run", "guider")[0], load_weights(tmp_path / "one", "guider")[0], rtol=0, atol=0
    )


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {result.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Write a file that leaves ``left`` bytes."""
    space = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - left))
    return disk / "filler"


def test_a_training_on_a_full_disk_stops_and_goes_on_when_there_is_space(disk, phantom_dataset, tmp_path):
    ids = {"max_iterations": 4, "checkpoint_interval": 2}
    assert train(phantom_dataset, tmp_path / "other", **ids).returncode == 0
    state = (tmp_path / "other/checkpoints/state_00000004.pt").stat().st_size
    needed = sum(path.stat().st_size for path in (tmp_path / "other").rglob("*.pt"))
    filler = fill(disk, left=needed - state // 2)  # all but half a state fits
    run = disk / "run"
    assert_one_line(train(phantom_dataset, run, **ids), f"no space left in {run}", "; free some and run the same")
    assert [path.name for path in run.rglob("state_*")] == ["state_00000002.pt"]
    assert not list(run.rglob(".writing-*"))
    assert load_weights(run, "guider")[1]["iteration"] in (2, 4)  # whole, whichever was written last
    filler.unlink()
    again = train(phantom_dataset, run, **ids)
    assert again.returncode == 0, again.stderr
    assert "continuing from iteration 2" in again.stderr
    assert (run / "model_guider.pt").read_bytes() == (tmp_path / "other/model_guider.pt").read_bytes()


def test_pairs_on_a_full_disk_stop_and_go_on_when_there_is_space(disk, scrambled, tmp_path):
    ids = {"num_pairs": 6, "batch_size": 1, "amp": "false", "min_accepted": 0, **ANY_MASK}
    assert infer(scrambled, tmp_path / "other", **ids).returncode == 0
    filler = fill(disk, left=40_000)
    assert_one_line(
        infer(scrambled, disk / "pairs", **ids), f"no space left in {disk / 'pairs'}", "free some and "
    )
    assert not list(disk.rglob(".writing-*"))
    filler.unlink()
    again = infer(scrambled, disk / "pairs", **ids)
    assert again.returncode == 0, again.stderr
    for folder in ("images", "labels"):
        wanted = {path.name: path.read_bytes() for path in (tmp_path / "other" / folder).iterdir()}
        assert {path.name: path.read_bytes() for path in (disk / "pairs" / folder).iterdir()} == wanted
        assert len(wanted) == 6


def test_an_output_dir_that_cannot_be_written_is_named(disk, phantom_dataset):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert_one_line(train(phantom_dataset, disk / "run"), f"output_dir {disk / 'run'} cannot be written", disk)


def test_an_output_dir_that_is_a_file_is_named(phantom_dataset, tmp_path):
    (tmp_path / "run").write_text("the user's own")
    assert_one_line(train(phantom_dataset, tmp_path / "run"), f"output_dir {tmp_path / 'run'}", "is a file; ")
    assert (tmp_path / "run").read_text() == "the user's own"
