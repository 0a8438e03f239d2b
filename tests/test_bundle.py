"""The bundle as a user meets it: commands from both roots, ids, restarts, errors of one line."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from pig_monai import bundle
from pig_monai.checkpoint import load_weights
from pig_monai.data.folder import read_datalist
from pig_monai.networks import build_network, check_image_size, diffusion_network
from tests.conftest import ROOT, TINY, last_line, run_bundle

BUNDLE = ROOT / "bundles/pig_dbt"
CONFIGS = BUNDLE / "configs"

ALL = ["bundle_root", "device", "seed", "output_dir", "overwrite"]
TRAININGS = [
    "dataset_dir", "fold", "image_size", "batch_size", "max_epochs", "max_iterations", "learning_rate",
    "ema_decay", "checkpoint_interval", "resume", "network_def",
]  # fmt: skip
DIFFUSION = ["num_train_timesteps", "beta_start", "beta_end", "prediction"]
IDS = {
    "train_guider.yaml": [*ALL, *TRAININGS, *DIFFUSION],
    "train_generator.yaml": [*ALL, *TRAININGS, *DIFFUSION, "guider_ckpt", "condition", "loss_weight"],
    "infer_pairs.yaml": [
        *ALL, "guider_ckpt", "generator_ckpt", "num_pairs", "start_index", "num_inference_steps", "solver",
        "batch_size", "replace_rejected", "min_accepted", "min_mask_area", "max_mask_area", "max_components",
        "min_inside_breast", "dry_run",
    ],
    "train_autoencoder.yaml": [
        *ALL, *TRAININGS, "autoencoder_channels", "latent_channels", "autoencoder_res_blocks",
        "autoencoder_patch_size", "kl_weight", "feature_weight", "adversarial_weight", "adversary_start",
        "dry_run", "init_ckpt",
    ],
    "evaluate_autoencoder.yaml": [
        *ALL, "dataset_dir", "autoencoder_ckpt", "segmenter_ckpt", "fold", "batch_size", "amp", "dry_run",
    ],
    "train.yaml": [*ALL, *TRAININGS, "pairs_dir", "max_pairs"],
    "inference.yaml": [*ALL, "dataset_dir", "fold", "ckpt", "ckpts"],
    "cross_validate.yaml": [*ALL, "dataset_dir", "pairs_dir", "max_pairs", "folds", "parallel", "dry_run"],
    "evaluate.yaml": [*ALL, "dataset_dir", "fold", "ckpt", "ckpts", "batch_size", "save_predictions", "dry_run"],
}  # fmt: skip


@pytest.mark.parametrize("config", IDS)
def test_every_promised_id_is_in_its_config_with_an_explanation(config):
    text = (CONFIGS / config).read_text()
    content = yaml.safe_load(text)
    for name in IDS[config]:
        assert name in content
        if name != "network_def":
            line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
            assert "#" in line
    assert "run" in content


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ("train_guider", "run_folder"),
        ("train_generator", "run_folder"),
        ("train_autoencoder", "run_folder"),
        ("infer_pairs", "job"),
        ("infer_slices", "job"),
    ],
)
def test_every_input_is_kept_from_being_overwritten(config, place):
    content = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    paths = {name for name in content if name.endswith("_ckpt") or name in ("dataset_dir", "masks_dir")}
    assert content[place]["inputs"] == {name: f"@{name}" for name in paths}


def test_float32_is_not_rounded_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # PyTorch's default
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    bundle.start([])
    assert torch.backends.cudnn.allow_tf32 is False


PRESETS = sorted(
    path.relative_to(CONFIGS / "presets").as_posix() for path in (CONFIGS / "presets").rglob("*.yaml")
)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_leave_the_assembly_of_every_config_alone(preset):
    names = set(yaml.safe_load((CONFIGS / "presets" / preset).read_text()))
    for config in CONFIGS.glob("*.yaml"):
        assembly = config.read_text().partition("# --- assembly")[2].partition("\n")[2]
        assembled = names & set(yaml.safe_load(assembly) or {})
        assert not assembled, f"{preset} replaces {assembled} of {config.name}"


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_set_top_level_ids_of_some_config_only(preset):
    known = set().union(*(yaml.safe_load((CONFIGS / config).read_text()) for config in IDS))
    content = yaml.safe_load((CONFIGS / "presets" / preset).read_text())
    assert set(content) <= known
    assert not any("#" in name or isinstance(value, dict) for name, value in content.items())


def test_paper_preset_has_the_papers_networks():
    preset = yaml.safe_load((CONFIGS / "presets/paper.yaml").read_text())
    names = ("channels", "attention_levels", "num_res_blocks", "num_head_channels")
    network = diffusion_network("concat", **{name: preset[name] for name in names})
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(7.13, abs=0.005)
    assert (preset["image_size"], preset["prediction"], preset["num_inference_steps"]) == (512, "epsilon", 256)
    assert (preset["num_train_timesteps"], preset["beta_start"], preset["beta_end"]) == (1024, 1e-4, 0.02)


@pytest.mark.parametrize("config", ["train_guider.yaml", "train_generator.yaml"])
def test_monai_finds_every_property_of_the_trainings(config, phantom_dataset, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / config), workflow_type="train",
        dataset_dir=str(phantom_dataset), output_dir=str(tmp_path / "run"), image_size=16, device="cpu",
        channels=[16, 32], attention_levels=[False, True], num_head_channels=16, norm_num_groups=8,
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []


def test_weights_describe_themselves(trained, phantom_dataset):
    state, meta = load_weights(trained / "guider", "guider")
    entries = [e for e in read_datalist(phantom_dataset)["training"] if e["fold"] != 0]
    assert meta["iteration"] == 3
    assert meta["masks"]["count"] == len(entries)
    assert meta["origin"] == ["phantom"]
    stored = np.median([e["spacing"] for e in entries], axis=0)
    np.testing.assert_allclose(meta["spacing"], stored * 64 / 16, rtol=1e-4)
    areas = meta["masks"]["area"]
    assert 0 < areas["0.0"] <= areas["0.5"] <= areas["1.0"] < 0.5
    assert set(state) == set(build_network(meta["network"]).state_dict())


@pytest.mark.parametrize("lr_schedule", ["cosine", "plateau"])
def test_a_killed_training_follows_the_uninterrupted_one(lr_schedule, phantom_dataset, tmp_path):
    """As if killed after the state of iteration 4: what came later is removed, and the same command runs again."""
    # 41 slices or so at batch 16 make three iterations an epoch: the kill falls into the second one
    ids = {**TINY, "dataset_dir": phantom_dataset, "output_dir": tmp_path, "lr_schedule": lr_schedule,
           "batch_size": 16, "max_iterations": 8, "checkpoint_interval": 4}  # fmt: skip
    assert run_bundle("training", "configs/train_guider.yaml", **ids).returncode == 0
    through = (tmp_path / "model_guider.pt").read_bytes()
    state = torch.load(tmp_path / "checkpoints/state_00000008.pt", weights_only=True)
    (tmp_path / "checkpoints/state_00000008.pt").unlink()
    (tmp_path / "model_guider.pt").unlink()
    again = run_bundle("training", "configs/train_guider.yaml", **ids)
    assert "continuing from iteration 4" in again.stderr
    assert (tmp_path / "model_guider.pt").read_bytes() == through
    repeated = torch.load(tmp_path / "checkpoints/state_00000008.pt", weights_only=True)
    torch.testing.assert_close(repeated["network"], state["network"], rtol=0, atol=1e-6)
    assert repeated["lr_scheduler"] == state["lr_scheduler"]


def test_a_training_starts_from_given_weights_and_moves(scrambled, phantom_dataset, tmp_path):
    ids = {**TINY, "dataset_dir": phantom_dataset, "output_dir": tmp_path, "ema_decay": 0, "max_iterations": 1,
           "init_ckpt": scrambled / "guider", "learning_rate": 1e-6}  # fmt: skip
    assert run_bundle("training", "configs/train_guider.yaml", **ids).returncode == 0
    start, end = load_weights(scrambled / "guider", "guider")[0], load_weights(tmp_path, "guider")[0]
    torch.testing.assert_close(start, end, rtol=0, atol=1e-5)  # one small step away …
    assert any(not torch.equal(start[name], end[name]) for name in start)  # … but a step


def test_a_generator_trains_on_its_guiders_estimate(trained, scrambled, phantom_dataset, tmp_path):
    ids = {
        **TINY,
        "dataset_dir": phantom_dataset,
        "max_iterations": 2,
        "condition": "guider",
        "loss_weight": "lesion",
    }
    weights = []
    for guider in (trained, scrambled):
        output_dir = tmp_path / guider.name
        result = run_bundle("training", "configs/train_generator.yaml", output_dir=output_dir,
                            guider_ckpt=guider / "guider", **ids)  # fmt: skip
        assert result.returncode == 0, result.stderr
        weights.append(load_weights(output_dir, "generator")[0])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # another guider in the same place is another run
    result = run_bundle("training", "configs/train_generator.yaml", output_dir=output_dir,
                        guider_ckpt=trained / "guider", **ids)  # fmt: skip
    assert "guider_sha256" in last_line(result)


def test_a_mistake_with_overwrite_destroys_nothing(trained, phantom_dataset, tmp_path):
    shutil.copytree(trained / "guider", tmp_path / "guider")
    ids = {**TINY, "dataset_dir": phantom_dataset, "output_dir": tmp_path / "guider", "overwrite": "true"}
    result = run_bundle("training", "configs/train_guider.yaml", **{**ids, "image_size": 17})
    assert "image_size is 17" in last_line(result)
    assert load_weights(tmp_path / "guider", "guider")[1]["iteration"] == 3


def test_a_torn_state_is_skipped_for_the_one_before(phantom_dataset, tmp_path):
    common = {**TINY, "dataset_dir": phantom_dataset, "output_dir": tmp_path, "checkpoint_interval": 2}
    assert run_bundle("training", "configs/train_guider.yaml", max_iterations=4, **common).returncode == 0
    latest = tmp_path / "checkpoints/state_00000004.pt"
    latest.write_bytes(latest.read_bytes()[:1000])
    again = run_bundle("training", "configs/train_guider.yaml", max_iterations=6, **common)
    assert again.returncode == 0
    assert "state_00000004.pt cannot be read" in again.stderr
    assert "continuing from iteration 2" in again.stderr
    assert load_weights(tmp_path, "guider")[1]["iteration"] == 6


def test_commands_work_from_the_bundles_root(trained, phantom_dataset, tmp_path):
    ids = {**TINY, "dataset_dir": phantom_dataset, "output_dir": tmp_path / "guider", "max_iterations": 1}
    assert run_bundle("training", "configs/train_guider.yaml", cwd=BUNDLE, **ids).returncode == 0


@pytest.mark.parametrize(
    ("run_id", "config", "ids", "what"),
    [
        ("training", "train_guider.yaml", {"dataset_dir": "/nowhere"}, "/nowhere/datalist.json does not exist"),
        ("training", "train_guider.yaml", {"fold": 7}, "no fold 7"),
        ("training", "train_guider.yaml", {"image_size": 17}, "image_size is 17"),
        ("training", "train_guider.yaml", {"prediction": "x0"}, "prediction is 'x0'"),
        ("training", "train_guider.yaml", {"image_size": "abc"}, "image_size is 'abc'"),
        ("training", "train_guider.yaml", {"channels": 32}, "network_def: "),
        ("training", "train_guider.yaml", {"device": "gpu0"}, "device is 'gpu0'"),
        (
            "training",
            "train_guider.yaml",
            {"batch_sise": 4},
            "unknown option --batch_sise; did you mean --batch_size",
        ),
        ("training", "train_generator.yaml", {"condition": "guider"}, "guider_ckpt is not set"),
    ],
)
def test_a_users_mistake_ends_with_one_line(run_id, config, ids, what, phantom_dataset, tmp_path):
    common = {"output_dir": tmp_path / "out"}
    if run_id == "training":
        common |= {**TINY, "dataset_dir": phantom_dataset, "max_iterations": 1}
    result = run_bundle(run_id, f"configs/{config}", **{**common, **ids})
    assert result.returncode == 1
    line = last_line(result)
    assert line.startswith("error: ")
    assert what in line
    assert "; " in line
    assert "Traceback" not in result.stderr


def test_a_damaged_slice_is_named(phantom_dataset, tmp_path):
    shutil.copytree(phantom_dataset, tmp_path / "dataset")
    label = tmp_path / "dataset" / read_datalist(phantom_dataset)["training"][-1]["label"]
    label.write_bytes(label.read_bytes()[:100])
    ids = {**TINY, "dataset_dir": tmp_path / "dataset", "output_dir": tmp_path / "run", "fold": -1}
    result = run_bundle("training", "configs/train_guider.yaml", max_iterations=1, **ids)
    assert result.returncode == 1
    assert last_line(result).startswith(f"error: {label} cannot be read")


@pytest.mark.parametrize("preset", ["paper", "fast", "demo"])
def test_presets_networks_fit_their_image_size(preset):
    content = yaml.safe_load((CONFIGS / f"presets/{preset}.yaml").read_text())
    names = (
        "channels",
        "attention_levels",
        "num_res_blocks",
        "num_head_channels",
        "norm_num_groups",
        "patch_size",
    )
    network = diffusion_network("concat", **{name: content[name] for name in names})
    check_image_size(network, content["image_size"])
    with torch.no_grad():
        output = network(torch.zeros(1, 1, 64, 64), torch.tensor([5]), torch.zeros(1, 1, 64, 64))
    assert torch.equal(output, torch.zeros(1, 1, 64, 64))  # a fresh net's last layer is zero
