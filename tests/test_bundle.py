"""The bundle as a user meets it: commands from both roots, ids, restarts, errors of one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from pig_monai.checkpoint import load_weights
from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.networks import check_image_size, diffusion_unet
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
        "batch_size",
    ],
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


@pytest.mark.parametrize("preset", sorted(path.name for path in (CONFIGS / "presets").glob("*.yaml")))
def test_presets_set_top_level_ids_of_some_config_only(preset):
    known = set().union(*(yaml.safe_load((CONFIGS / config).read_text()) for config in IDS))
    content = yaml.safe_load((CONFIGS / "presets" / preset).read_text())
    assert set(content) <= known
    assert not any("#" in name or isinstance(value, dict) for name, value in content.items())


def test_paper_preset_has_the_papers_networks():
    preset = yaml.safe_load((CONFIGS / "presets/paper.yaml").read_text())
    names = ("channels", "attention_levels", "num_res_blocks", "num_head_channels")
    network = diffusion_unet(**{name: preset[name] for name in names})
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
    assert set(state) == set(diffusion_unet(**meta["network"]["arguments"]).state_dict())


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
    dataset = infer(trained, phantom_dataset, overwrite="true")
    assert "holds datalist.json but no pairs run" in last_line(dataset)
    assert read_datalist(phantom_dataset)


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


def read_pairs(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    entries = read_datalist(folder)["training"]
    return [(e["patient"], read_slice(folder / e["image"]), read_label(folder / e["label"])) for e in entries]


def infer(trained: Path, output_dir: Path, **ids: object):
    checkpoints = {"guider_ckpt": trained / "guider", "generator_ckpt": trained / "generator/model_generator.pt"}
    settings = {"num_inference_steps": 3, "device": "cpu", "amp": "false", "min_accepted": 0}
    return run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=output_dir,
                      **{**checkpoints, **settings, **ids})  # fmt: skip


@pytest.fixture(scope="module")
def pairs(scrambled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    result = infer(scrambled, folder, num_pairs=6, batch_size=4, seed=3)
    assert result.returncode == 0, result.stderr
    return folder


def test_pairs_are_a_dataset_folder_with_provenance(pairs, scrambled):
    entries = read_datalist(pairs)["training"]
    report = json.loads((pairs / "report.json").read_text())
    assert report["requested"] == report["accepted"] == len(entries) == 6
    assert report["candidates"] == 6 + sum(report["rejected"].values())
    for entry in entries:
        assert entry["patient"] == f"synthetic-3-{entry['index']}"
        assert (entry["origin"], entry["fold"]) == ("synthetic", -1)
        assert entry["provenance"]["steps"] == 3
        assert entry["spacing"] == load_weights(scrambled / "generator", "generator")[1]["spacing"]
        assert read_label(pairs / entry["label"]).any()
    for picture in ("contact_sheet.png", "film_strip.png"):
        assert (pairs / picture).read_bytes().startswith(b"\x89PNG")


def test_pairs_are_the_same_bytes_in_any_batch_and_after_a_stop(pairs, scrambled, tmp_path):
    assert np.std([image for _, image, _ in read_pairs(pairs)]) > 0.1  # there is something to compare
    assert infer(scrambled, tmp_path / "a", num_pairs=2, batch_size=1, seed=3).returncode == 0
    assert infer(scrambled, tmp_path / "a", num_pairs=6, batch_size=3, seed=3).returncode == 0  # continues
    for path in sorted(pairs.rglob("*.nii.gz")):
        assert (tmp_path / "a" / path.relative_to(pairs)).read_bytes() == path.read_bytes()
    assert read_datalist(tmp_path / "a")["training"] == read_datalist(pairs)["training"]


def test_bfloat16_pairs_are_within_a_hundredth_of_the_range_in_any_batch(tmp_path):
    for name, batch_size in (("one", 1), ("many", 4)):
        ids = {"num_pairs": 4, "num_inference_steps": 10, "batch_size": batch_size, "min_accepted": 0}
        shipped = run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=tmp_path / name, **ids)
        assert shipped.returncode == 0, shipped.stderr
    for one, many in zip(read_pairs(tmp_path / "one"), read_pairs(tmp_path / "many"), strict=True):
        assert one[0] == many[0]
        assert np.abs(one[1] - many[1]).max() <= 0.02  # of a range of 2
        assert (one[2] != many[2]).mean() <= 0.01


def test_other_settings_in_the_same_folder_are_refused(pairs, scrambled):
    result = infer(scrambled, pairs, num_pairs=6, seed=4)
    assert result.returncode == 1
    assert last_line(result).startswith(f"error: {pairs} holds a run with seed = 3, not 4; ")


def test_commands_work_from_the_bundles_root(trained, phantom_dataset, tmp_path):
    ids = {**TINY, "dataset_dir": phantom_dataset, "output_dir": tmp_path / "guider", "max_iterations": 1}
    assert run_bundle("training", "configs/train_guider.yaml", cwd=BUNDLE, **ids).returncode == 0
    ids = {"output_dir": tmp_path / "pairs", "num_pairs": 1, "num_inference_steps": 4, "min_accepted": 0}
    shipped = run_bundle("infer_pairs", "configs/infer_pairs.yaml", cwd=BUNDLE, **ids)
    assert shipped.returncode == 0, shipped.stderr
    assert read_datalist(tmp_path / "pairs")["training"][0]["provenance"]["generator_fold"] == -1


def test_a_preset_is_merged_and_what_it_brings_for_others_is_named(trained, tmp_path):
    files = "['bundles/pig_dbt/configs/infer_pairs.yaml','bundles/pig_dbt/configs/presets/demo.yaml']"
    result = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "infer_pairs", "--config_file", files, "--num_pairs", "1",
         "--output_dir", str(tmp_path / "pairs"), "--num_inference_steps", "2", "--min_accepted", "0",
         "--guider_ckpt", str(trained / "guider"), "--generator_ckpt", str(trained / "generator")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stderr.splitlines() if line.startswith("ignored"))
    assert "learning_rate" in line
    assert "solver" not in line


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
        (
            "infer_pairs",
            "infer_pairs.yaml",
            {"guider_ckpt": "/nowhere.pt"},
            "guider_ckpt /nowhere.pt does not exist",
        ),
        ("infer_pairs", "infer_pairs.yaml", {"solver": "euler"}, "solver is 'euler'"),
        ("infer_pairs", "infer_pairs.yaml", {"num_pairs": 0}, "num_pairs is 0"),
        ("infer_pairs", "infer_pairs.yaml", {"num_inference_steps": 2000}, "num_inference_steps is 2000"),
        ("infer_pairs", "infer_pairs.yaml", {"amp": "maybe"}, "amp is 'maybe'"),
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


def test_networks_that_make_no_pair_are_refused_with_both_sides(trained, phantom_dataset, tmp_path):
    ids = {
        **TINY,
        "dataset_dir": phantom_dataset,
        "output_dir": tmp_path / "guider",
        "max_iterations": 1,
        "fold": 1,
    }
    assert run_bundle("training", "configs/train_guider.yaml", **ids).returncode == 0
    result = infer(trained, tmp_path / "pairs", guider_ckpt=tmp_path / "guider")
    assert result.returncode == 1
    assert "the guider's fold is 1 and the generator's is 0" in last_line(result)


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
    network = diffusion_unet(**{name: content[name] for name in names})
    check_image_size(network, content["image_size"])
    with torch.no_grad():
        output = network(torch.zeros(1, 2, 64, 64), torch.tensor([5]))
    assert torch.equal(output, torch.zeros(1, 1, 64, 64))  # a fresh net's last layer is zero


def test_undertrained_weights_end_with_an_explanation(trained, tmp_path):
    """A guider that answers 'no mass anywhere' makes empty masks: counted as rejected, never filled."""
    content = torch.load(trained / "guider/model_guider.pt", weights_only=True)
    for value in content["model"].values():
        value.zero_()
    bias = next(name for name in reversed(content["model"]) if name.endswith("bias"))
    content["model"][bias].fill_(30.0)  # v = 30 pushes x̂₀ = αx − σv far below 0 at every step
    shutil.copytree(trained, tmp_path / "empty")
    torch.save(content, tmp_path / "empty/guider/model_guider.pt")
    result = infer(tmp_path / "empty", tmp_path / "pairs", num_pairs=4, min_accepted=0.1, batch_size=8)
    assert result.returncode == 1
    assert "only 0 of 32 candidates were accepted" in last_line(result)
    assert json.loads((tmp_path / "pairs/report.json").read_text())["rejected"] == {"empty": 32}
