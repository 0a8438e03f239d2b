"""Latent pairs from training to slices, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pig_monai.autoencoder.latents import Autoencoder, latent_statistics
from pig_monai.autoencoder.networks import autoencoder_kl
from pig_monai.checkpoint import load_checkpoint, load_weights, save_weights
from pig_monai.data.folder import fingerprint, read_datalist, read_label, read_slice, training_entries
from pig_monai.data.transforms import load_slices
from pig_monai.files import sha256
from tests.conftest import ANY_MASK, TINY, last_line, run_bundle
from tests.pairs.known import contents

QUICK = {"num_inference_steps": 3, "device": "cpu", "amp": "false", "seed": 3, "min_accepted": 0}


def write_autoencoder(folder: Path, dataset: Path) -> Path:
    """An autoencoder with random weights, 4 × 4 pixels a position, and the scale of its latents."""
    torch.manual_seed(0)
    network = autoencoder_kl([8, 16], latent_channels=3, num_res_blocks=1, norm_num_groups=4, patch_size=2)
    meta = {
        "role": "autoencoder", "network": network.spec, "image_size": 16, "preprocessing": {}, "spacing": None,
        "fold": 0, "data": fingerprint(dataset), "origin": ["phantom"], "iteration": 1, "settings": {},
        "versions": {}, "latent": {"factor": 4, "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3},
    }  # fmt: skip
    load, raw = load_slices(16, keys=("image",)), Autoencoder(network, meta, "cpu")
    slices = [load(entry)["image"][None] for entry in training_entries(dataset, 0)]
    mean, std = latent_statistics(raw.encode(one) for one in slices)
    meta["latent"] |= {"mean": mean, "std": std}
    save_weights(folder / "model_autoencoder.pt", network.state_dict(), meta)
    return folder / "model_autoencoder.pt"


def run(run_id: str, config: str, output_dir: Path, **ids: object) -> Path:
    result = run_bundle(run_id, f"configs/{config}.yaml", output_dir=output_dir, **ids)
    assert result.returncode == 0, result.stderr
    return output_dir


@pytest.fixture(scope="module")
def latent(phantom_dataset, tmp_path_factory):
    """A guider, an unconditional base and a generator on it, all on latents; then the autoencoder is deleted."""
    folder = tmp_path_factory.mktemp("latent")
    autoencoder = write_autoencoder(folder, phantom_dataset)
    common = {**TINY, "dataset_dir": phantom_dataset, "autoencoder_ckpt": autoencoder, "max_iterations": 3}
    run("training", "train_guider", folder / "guider", **common)
    own = {**common, "generator": "maisi", "learning_rate": 0.01}
    run("training", "train_generator", folder / "base", condition="none", learn_from="all", **own)
    run("training", "train_generator", folder / "generator", base_ckpt=folder / "base", **own)
    (folder / "sha256").write_text(sha256(autoencoder))
    autoencoder.unlink()
    return folder


@pytest.fixture(scope="module")
def pairs(latent):
    return infer(latent, "pairs", batch_size=4)


def infer(latent: Path, name: str, **ids: object) -> Path:
    networks = {"guider_ckpt": latent / "guider", "generator_ckpt": latent / "generator"}
    wishes = {"spacing": "[0.1,0.2]", "guidance": 2, "num_pairs": 4}
    return run("infer_pairs", "infer_pairs", latent / name, **{**networks, **wishes, **QUICK, **ANY_MASK, **ids})


def test_checkpoints_say_which_latents_and_the_generator_brings_its_autoencoder(latent):
    space = {"factor": 4, "channels": 3, "autoencoder_sha256": (latent / "sha256").read_text()}
    guider, generator = (load_checkpoint(latent / role, role) for role in ("guider", "generator"))
    assert guider["meta"]["space"] == generator["meta"]["space"] == space
    assert guider["meta"]["network"]["arguments"]["image_channels"] == 16
    assert "autoencoder" not in guider
    assert generator["autoencoder"]["meta"]["latent"]["factor"] == 4


def test_the_base_stays_as_it_was_and_the_branch_learns(latent):
    base, _ = load_weights(latent / "base", "generator")
    trained, meta = load_weights(latent / "generator", "generator")
    for name, value in base.items():
        assert torch.equal(trained[name], value), name
    branch = {name: value for name, value in trained.items() if name not in base}
    assert all(name.startswith("control.") for name in branch)
    outputs = [value for name, value in branch.items() if name.startswith("control.controlnet_down_blocks")]
    assert outputs
    assert all(value.any() for value in outputs)  # they start at zero
    assert meta["settings"]["base_sha256"] == sha256(latent / "base/model_generator.pt")


def test_pairs_say_the_spacing_that_was_wished_for(pairs):
    entries = read_datalist(pairs)["training"]
    assert len(entries) == 4
    for entry in entries:
        assert entry["spacing"] == [0.1, 0.2]
        assert entry["provenance"]["guidance"] == 2
        image, mask = read_slice(pairs / entry["image"]), read_label(pairs / entry["label"])
        assert image.shape == mask.shape == (16, 16)
        assert np.abs(image).max() <= 1
    assert len({read_slice(pairs / entry["image"]).tobytes() for entry in entries}) == 4


def test_pairs_of_latents_are_the_same_bytes_in_any_batch(latent, pairs):
    assert contents(infer(latent, "one_by_one", batch_size=1)) == contents(pairs)


def test_a_latent_generator_makes_slices_for_given_masks(latent, phantom_dataset):
    ids = {"generator_ckpt": latent / "generator", "masks_dir": phantom_dataset, "num_pairs": 3, "batch_size": 2}
    given = {name: value for name, value in QUICK.items() if name != "min_accepted"}
    slices = run("infer_slices", "infer_slices", latent / "slices", **ids, **given)
    wanted = training_entries(phantom_dataset, 0)
    for number, entry in enumerate(read_datalist(slices)["training"]):
        mask = load_slices(16)(wanted[number])["label"][0].numpy() > 0
        np.testing.assert_array_equal(read_label(slices / entry["label"]), mask)
        assert entry["mask_of"]["patient"] == wanted[number]["patient"]
    assert json.loads((slices / "report.json").read_text())["accepted"] == 3


def test_a_base_makes_slices_without_masks(latent):
    given = {name: value for name, value in QUICK.items() if name != "min_accepted"}
    ids = {"generator_ckpt": latent / "base", "num_pairs": 2}
    slices = run("infer_slices", "infer_slices", latent / "unconditional", **ids, **given)
    entries = read_datalist(slices)["training"]
    assert len(entries) == 2
    assert not any("label" in entry for entry in entries)


def test_a_joint_net_of_latents_makes_pairs(latent, phantom_dataset, tmp_path):
    autoencoder = write_autoencoder(tmp_path, phantom_dataset)
    common = {**TINY, "dataset_dir": phantom_dataset, "autoencoder_ckpt": autoencoder, "max_iterations": 2}
    net = run("training", "train_generator", tmp_path / "joint", condition="joint", **common)
    assert load_weights(net, "generator")[1]["network"]["arguments"]["image_channels"] == 16 + 3
    assert (net / "previews/00000002.png").exists()
    ids = {"generator_ckpt": net, "num_pairs": 2, **QUICK, **ANY_MASK}
    pairs = run("infer_pairs", "infer_pairs", tmp_path / "pairs", **ids)
    assert all(read_label(pairs / entry["label"]).any() for entry in read_datalist(pairs)["training"])


def refused(run_id: str, config: str, output_dir: Path, **ids: object) -> str:
    result = run_bundle(run_id, f"configs/{config}.yaml", output_dir=output_dir, **ids)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not output_dir.exists()
    return last_line(result)


def test_a_guider_of_pixels_makes_no_pair_with_a_generator_of_latents(latent, tmp_path):
    state, meta = load_weights(latent / "guider", "guider")
    save_weights(tmp_path / "guider.pt", state, {**meta, "space": None})
    ids = {"guider_ckpt": tmp_path / "guider.pt", "generator_ckpt": latent / "generator", **ANY_MASK}
    name = (latent / "sha256").read_text()[:12]
    assert refused("infer_pairs", "infer_pairs", tmp_path / "pairs", **ids).startswith(
        f"error: the guider's space is pixels and the generator's is latents of autoencoder {name}; "
    )


def test_a_generator_without_a_spacing_input_refuses_the_wish(tmp_path):
    told = refused("infer_pairs", "infer_pairs", tmp_path / "pairs", spacing="[0.1,0.1]", **ANY_MASK)
    assert told.startswith("error: spacing is [0.1, 0.1] and the generator's network is concat; ")


def test_an_autoencoder_that_has_seen_the_heldout_fold_is_refused(phantom_dataset, tmp_path):
    autoencoder = write_autoencoder(tmp_path, phantom_dataset)
    ids = {**TINY, "dataset_dir": phantom_dataset, "autoencoder_ckpt": autoencoder, "fold": 1}
    told = refused("training", "train_guider", tmp_path / "guider", **ids)
    said = "was trained with fold 0 held out, and this training holds out fold 1; "
    assert told.startswith(f"error: autoencoder_ckpt {autoencoder} {said}")
