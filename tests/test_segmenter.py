"""The mass segmenter's configs: what MONAI Label, the zoo and the contract ask of them, and what they compute."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose
from scipy.ndimage import binary_dilation, binary_erosion

from pig_monai.data.folder import read_datalist
from pig_monai.data.prepare_slice import RawSlice, prepare_slice
from tests.conftest import ROOT, run_bundle

CONFIGS = ROOT / "bundles/pig_dbt/configs"
SMALL = {"image_size": 32, "batch_size": 8, "device": "cpu"}


def config(name: str) -> dict:
    return yaml.safe_load((CONFIGS / name).read_text())


def targets(content: object) -> list[str]:
    """Every class that a config names."""
    if isinstance(content, dict):
        own = [content["_target_"]] if "_target_" in content else []
        return own + [name for value in content.values() for name in targets(value)]
    return [name for value in content for name in targets(value)] if isinstance(content, list) else []


@pytest.mark.parametrize("name", ["train.yaml", "inference.yaml"])
def test_what_monai_label_loads_needs_nothing_of_ours(name):
    content = config(name)
    assert "pig_monai" not in "".join(line.split("#")[0] for line in (CONFIGS / name).read_text().splitlines())
    assert set(content["imports"]) <= {
        f"$import {module}"
        for module in (
            "copy",
            "glob",
            "hashlib",
            "ignite",
            "json",
            "math",
            "monai",
            "numpy",
            "os",
            "shutil",
            "torch",
        )
    }
    # a name without a dot is one of MONAI's own
    assert all("." not in name or name.split(".")[0] in ("torch", "ignite") for name in targets(content))


def test_training_and_inference_agree_on_the_network_and_on_what_it_sees():
    train, infer = config("train.yaml"), config("inference.yaml")
    assert infer["network_def"] == {"_target_": "UNet", **train["unet"]}
    assert train["network_def"] == {"_target_": "UNet", **{name: f"@unet#{name}" for name in train["unet"]}}
    of_training = {"SelectItemsd", "EnsureTyped"}
    steps = [dict(step) for step in train["preprocessing"] if step["keys"] != "label"]
    shared = [step for step in steps if step["_target_"] not in of_training]
    of_images = [dict(s) for s in infer["preprocessing"]["transforms"] if "extra_info" not in s.get("func", "")]
    for step in shared + of_images:
        step.pop("keys")
        step.pop("inv_func", None)
    assert shared == of_images


def write_image(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def breast_volume(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A half disc of 100 on a ground of 0 with a mass of 200, and the mass: (W, H, D)."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    breast = (x / (0.8 * shape[0])) ** 2 + ((y - shape[1] / 2) / (0.45 * shape[1])) ** 2 < 1
    mass = (x - 0.3 * shape[0]) ** 2 / 100 + (y - 0.6 * shape[1]) ** 2 / 200 + (z - 0.5 * shape[2]) ** 2 / 8 < 1
    return (100 * breast + 100 * (mass & breast)).astype(np.int16), mass & breast


CONVOLUTION = "{'_target_':'torch.nn.Conv2d','in_channels':1,'out_channels':2,'kernel_size':1}"


@pytest.fixture(scope="module")
def finds_bright(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Ids for a network that calls a pixel a mass where it is above 0.5 (of −1 to 1)."""
    path = tmp_path_factory.mktemp("net") / "model.pt"
    torch.save(
        {"weight": torch.tensor([0.0, 50.0])[:, None, None, None], "bias": torch.tensor([0.0, -25.0])}, path
    )
    return {"ckpt": path, "network_def": CONVOLUTION, "device": "cpu"}


def test_a_volumes_masks_lie_on_its_own_grid_voxel_for_voxel(finds_bright, tmp_path):
    image, mass = breast_volume((96, 80, 11))
    affine = np.array([[-0.09, 0.01, 0, 5], [0.01, -0.09, 0, -7], [0, 0, 1, 30], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/volume.nii.gz", image, affine)
    # a slice of the same, as a dataset folder holds it, and one without a third axis
    write_image(tmp_path / "in/slice.nii.gz", image[:, :, 5:6], affine)
    write_image(tmp_path / "in/flat.nii.gz", image[:, :, 5], affine)
    ids = {**finds_bright, "image_size": 64, "images": tmp_path / "in/*.nii.gz", "output_dir": tmp_path / "out"}
    result = run_bundle("run", "configs/inference.yaml", **ids)
    assert result.returncode == 0, result.stderr
    for name, truth in (("volume", mass), ("slice", mass[:, :, 5:6]), ("flat", mass[:, :, 5:6])):
        found = nib.load(tmp_path / f"out/{name}_mask.nii.gz")
        array = np.asarray(found.dataobj).reshape(truth.shape)
        np.testing.assert_allclose(found.affine, affine, atol=1e-6)
        assert found.get_data_dtype() == np.uint8
        assert set(np.unique(array)) == {0, 1}
        for index in range(truth.shape[2]):  # within one pixel of the network's grid, here 77 / 64 and 71 / 64
            one = np.ones((5, 5))
            assert not (array[:, :, index] & ~binary_dilation(truth[:, :, index], one)).any()
            assert not (binary_erosion(truth[:, :, index], one) & (array[:, :, index] == 0)).any()
        assert 2 * (truth & (array > 0)).sum() / (truth.sum() + array.sum()) > 0.94
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in made} | {"masks.json"}
    (tmp_path / "out/flat_mask.nii.gz").unlink()  # the same command does what is missing and no more
    assert run_bundle("run", "configs/inference.yaml", **ids).returncode == 0
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    assert {path.name for path in made if made[path] != again[path]} == {"flat_mask.nii.gz"}
    assert run_bundle("run", "configs/inference.yaml", **ids).returncode == 0


def test_masks_keep_the_images_folders_and_never_mix(finds_bright, tmp_path):
    image, _ = breast_volume((96, 80, 3))
    for patient in ("P1", "P2"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        write_image(tmp_path / f"in/{patient}/IM1.nii.gz", np.roll(image, patient == "P2", axis=1))
    ids = {**finds_bright, "image_size": 64, "images": tmp_path / "in/**/*.nii.gz", "output_dir": tmp_path / "out"}
    result = run_bundle("run", "configs/inference.yaml", **ids)
    assert result.returncode == 0, result.stderr
    masks = [np.asarray(nib.load(tmp_path / f"out/{p}/IM1_mask.nii.gz").dataobj) for p in ("P1", "P2")]
    np.testing.assert_array_equal(np.roll(masks[0], 1, axis=1), masks[1])
    assert not (tmp_path / "out/.writing").exists()
    for wrong, said in (
        ({"threshold": 0.7}, "other weights or another threshold"),
        ({"images": tmp_path / "no*"}, "no image"),
    ):
        refused = run_bundle("run", "configs/inference.yaml", **(ids | wrong))
        assert refused.returncode == 1
        assert said in refused.stderr
    assert run_bundle("run", "configs/inference.yaml", **ids, threshold=0.7, overwrite=True).returncode == 0


def network_input(path: Path, image_size: int) -> np.ndarray:
    """What the network of inference.yaml gets to see."""
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.yaml")
    parser["image_size"] = image_size
    return np.asarray(parser.get_parsed_content("preprocessing")({"image": str(path)})["image"])


def test_a_prepared_slice_looks_to_the_network_as_its_raw_image_does(tmp_path):
    """Chest wall left, scale and offset of a detector, a breast that fills no square."""
    rng = np.random.default_rng(0)
    image, _ = breast_volume((300, 420, 1))
    texture = rng.normal(size=(30, 42)).repeat(10, 0).repeat(10, 1)
    raw = np.where(image[:, :, 0] > 0, 300 + 2 * image[:, :, 0] + 20 * texture, 0).astype(np.float32)
    preprocessing = {"size": 256, "aspect": "pad", "crop": True, "chest_wall": "left",
                     "intensity": {"kind": "percentile", "low": 0.5, "high": 99.5}}  # fmt: skip
    prepared = prepare_slice(RawSlice(raw), preprocessing).image
    assert prepared.shape == (256, 256)
    one = network_input(write_image(tmp_path / "raw.nii.gz", raw[:, :, None]), 64)
    other = network_input(write_image(tmp_path / "prepared.nii.gz", prepared[:, :, None]), 64)
    assert one.shape == other.shape == (1, 64, 64, 1)
    inside = binary_erosion(one[0, :, :, 0] > -0.9, iterations=2)
    assert np.abs(one - other)[0, inside].mean() < 0.1
    assert ((one > 0.8) != (other > 0.8)).mean() < 0.01


def test_several_networks_say_what_the_mean_of_their_probabilities_says(tmp_path):
    """One gives everything 0.1; so the other, the logistic function of 10 x, has to give 0.9, at x = 0.22."""
    image, _ = breast_volume((80, 71, 3))  # its breast fills 64 x 64: nothing is resampled
    image[image > 0] += 3 * np.arange(80, dtype=np.int16).repeat(71 * 3).reshape(image.shape)[image > 0]
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/volume.nii.gz", image)
    states = {"low": (0.0, np.log(1 / 9)), "steep": (10.0, 0.0), "expected": (10.0, -np.log(9))}
    for name, (weight, bias) in states.items():
        state = {"weight": torch.tensor([0.0, weight])[:, None, None, None], "bias": torch.tensor([0.0, bias])}
        torch.save({key: value.float() for key, value in state.items()}, tmp_path / f"{name}.pt")
    masks = {}
    for names in (("low", "steep"), ("steep",), ("expected",)):
        ids = {"ckpts": [str(tmp_path / f"{name}.pt") for name in names], "network_def": CONVOLUTION}
        out = tmp_path / names[0]
        common = {"device": "cpu", "image_size": 64, "images": tmp_path / "in/*", "output_dir": out}
        result = run_bundle("run", "configs/inference.yaml", **common, **ids)
        assert result.returncode == 0, result.stderr
        masks[names] = np.asarray(nib.load(out / "volume_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(masks["low", "steep"], masks[("expected",)])
    assert masks[("steep",)].sum() > masks["low", "steep"].sum() > 0


@pytest.fixture(scope="module")
def segmenter(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two epochs."""
    folder = tmp_path_factory.mktemp("segmenter") / "run"
    result = run_bundle(
        "training", "configs/train.yaml", dataset_dir=phantom_dataset, output_dir=folder, max_epochs=2, **SMALL
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_a_training_leaves_its_best_weights_and_says_whom_it_saw(segmenter, phantom_dataset):
    meta = json.loads((segmenter / "model.json").read_text())
    entries = read_datalist(phantom_dataset)["training"]
    assert meta["patients"] == sorted({entry["patient"] for entry in entries if entry["fold"] != 0})
    assert (meta["fold"], meta["pairs"], meta["image_size"], meta["epoch"]) == (0, 0, 32, 2)
    for key, path in (
        ("weights_sha256", segmenter / "model.pt"),
        ("datalist_sha256", phantom_dataset / "datalist.json"),
    ):
        assert meta[key] == hashlib.sha256(path.read_bytes()).hexdigest()
    state = torch.load(segmenter / "model.pt", weights_only=True)
    parser = ConfigParser({"network": meta["network"]})
    parser.get_parsed_content("network").load_state_dict(state)
    assert not list(segmenter.glob("*.writing"))


def test_patients_without_a_mass_do_not_choose_the_weights(tmp_path):
    """Dice is 0 on their slices whatever the network says: the first weights would stay the best ones."""
    names = [f"{n:02d}" for n in range(20)]
    entries = [
        {"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz", "patient": n, "fold": 1}
        | ({"lesion": False} if int(n) % 4 == 0 else {})
        for n in names
    ]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": entries}))
    parser = ConfigParser()
    parser.read_config(CONFIGS / "train.yaml")
    parser["dataset_dir"] = str(tmp_path)
    assert parser.get_parsed_content("validation_patients") == {"01", "11"}  # of 01 02 03 05 06 07 09 10 11 …
    trained_on = {entry["patient"] for entry in parser.get_parsed_content("train#dataset#data")}
    assert trained_on == set(names) - {"01", "11"}


def test_pairs_are_trained_on_and_never_tested_on(segmenter, phantom_dataset, tmp_path):
    """The same slices under the name of pairs: the first two, then as many steps an epoch as with them."""
    datalist = read_datalist(phantom_dataset)
    shutil.copytree(phantom_dataset, tmp_path / "pairs")
    for index, entry in enumerate(datalist["training"]):
        entry.update(patient=f"synthetic-0-{index:08d}", fold=-1, origin="synthetic")
        entry["provenance"] = {"generator_fold": index % 2}
    (tmp_path / "pairs/datalist.json").write_text(json.dumps(datalist))
    others = [entry for entry in read_datalist(phantom_dataset)["training"] if entry["fold"] != 0]
    choosers = sorted({entry["patient"] for entry in others})[::8]
    real = [entry for entry in others if entry["patient"] not in choosers]
    for most, used in ((2, 2), (1000, len(datalist["training"]))):
        ids = {"dataset_dir": phantom_dataset, "output_dir": tmp_path / f"run{most}", "max_epochs": 1, **SMALL}
        result = run_bundle("training", "configs/train.yaml", pairs_dir=tmp_path / "pairs", max_pairs=most, **ids)
        assert result.returncode == 0, result.stderr
        meta = json.loads((tmp_path / f"run{most}/model.json").read_text())
        assert meta["pairs"] == used
        assert meta["pairs_folds"] == [0, 1]
        assert not any(patient.startswith("synthetic") for patient in meta["patients"])
        state = torch.load(next((tmp_path / f"run{most}/checkpoints").glob("checkpoint_*.pt")), weights_only=True)
        assert state["trainer"]["iteration"] == -(-(len(real) + used) // 8)


def test_the_former_weights_are_kept(segmenter, phantom_dataset, tmp_path):
    shutil.copytree(segmenter, tmp_path / "run")
    ids = {"dataset_dir": phantom_dataset, "output_dir": tmp_path / "run", "max_epochs": 1, "seed": 1, **SMALL}
    result = run_bundle("training", "configs/train.yaml", **ids)
    assert result.returncode == 0, result.stderr
    for end in ("pt", "json"):
        assert (tmp_path / f"run/model_previous.{end}").read_bytes() == (segmenter / f"model.{end}").read_bytes()
    assert (tmp_path / "run/model.pt").read_bytes() != (segmenter / "model.pt").read_bytes()


def test_a_resumed_training_keeps_its_best_weights(segmenter, phantom_dataset, tmp_path):
    """The saved state's weights are set to 0, so that all that follows is bad."""
    shutil.copytree(segmenter, tmp_path / "run")
    best = json.loads((segmenter / "model.json").read_text())
    (path,) = (tmp_path / "run/checkpoints").glob("checkpoint_*.pt")
    state = torch.load(path, weights_only=True)
    for weights in (state["network"], state["ema"]):
        for value in weights.values():
            value.zero_()
    torch.save(state, path)
    ids = {
        "dataset_dir": phantom_dataset,
        "output_dir": tmp_path / "run",
        "resume": True,
        "learning_rate": 0,
        **SMALL,
    }
    result = run_bundle("training", "configs/train.yaml", **ids, max_epochs=3)
    assert result.returncode == 0, result.stderr
    after = json.loads((tmp_path / "run/model.json").read_text())
    assert after["epoch"] == 3
    assert after["val_mean_dice"] == best["val_mean_dice"] > 0
    assert after["weights_sha256"] == best["weights_sha256"]


def test_a_finished_training_that_is_started_again_says_what_it_said(segmenter, phantom_dataset, tmp_path):
    """Of the data, the pairs and the versions that trained it, not of those at hand now."""
    shutil.copytree(segmenter, tmp_path / "run")
    path = tmp_path / "run/model.json"
    path.write_text(path.read_text().replace('"Pytorch": "', '"Pytorch": "0.'))
    said = path.read_bytes()
    ids = {"dataset_dir": phantom_dataset, "output_dir": tmp_path / "run", "resume": True, **SMALL}
    result = run_bundle("training", "configs/train.yaml", **ids, max_epochs=2)
    assert result.returncode == 0, result.stderr
    assert path.read_bytes() == said != (segmenter / "model.json").read_bytes()
    assert not list((tmp_path / "run").glob("model_previous.*"))


def test_a_killed_training_does_not_miss_the_best_weights_that_were_replaced(segmenter, phantom_dataset, tmp_path):
    """Killed after better ones took the place of those that the saved state names."""
    shutil.copytree(segmenter, tmp_path / "run")
    (path,) = (tmp_path / "run/checkpoints").glob("checkpoint_*.pt")
    state = torch.load(path, weights_only=True)
    gone = [(1e-6, "best_model_1_dice=0.0000.pt"), (2e-6, "best_model_2_dice=0.0000.pt")]
    state["best"]["_saved"] = gone
    torch.save(state, path)
    ids = {"dataset_dir": phantom_dataset, "output_dir": tmp_path / "run", "resume": True, **SMALL}
    result = run_bundle("training", "configs/train.yaml", **ids, max_epochs=3)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run/model.json").read_text())["epoch"] == 3


def test_a_small_mass_does_not_vanish_when_it_is_reduced(tmp_path):
    """512 to 256 pixels: a line one pixel wide, and a square that four pixels share, are half of no pixel."""
    parser = ConfigParser()
    parser.read_config(CONFIGS / "train.yaml")
    parser["image_size"] = 256
    steps = Compose(parser.get_parsed_content("preprocessing"))
    image = write_image(tmp_path / "image.nii.gz", np.ones((512, 512, 1), np.float32))  # all is breast
    for name, where in (("line", np.s_[201:202, 101:106]), ("square", np.s_[202:204, 302:304])):
        mask = np.zeros((512, 512, 1), np.uint8)
        mask[where] = 1
        label = write_image(tmp_path / f"{name}.nii.gz", mask)
        found = steps({"image": str(image), "label": str(label)})["label"]
        assert 1 <= int(found.sum()) <= 6


@pytest.mark.parametrize("name", ["train.yaml", "inference.yaml"])
def test_monai_finds_every_property(name, segmenter, phantom_dataset, tmp_path):
    ids = {"ckpt": str(segmenter / "model.pt")} if name == "inference.yaml" else {}
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / name), workflow_type=name.removesuffix(".yaml"),
        dataset_dir=str(phantom_dataset), output_dir=str(tmp_path / "run"), image_size=32, device="cpu", **ids,
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
