"""Latent pairs from training to slices, by the configs that a user runs; most of them in this one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from pig_monai.autoencoder.latents import Autoencoder, latent_statistics
from pig_monai.autoencoder.networks import autoencoder_kl
from pig_monai.checkpoint import load_checkpoint, load_weights, save_weights
from pig_monai.data.folder import (
    fingerprint,
    read_datalist,
    read_label,
    read_slice,
    training_entries,
    write_datalist,
)
from pig_monai.data.transforms import load_slices
from pig_monai.errors import PigError, find_user_error
from pig_monai.files import sha256
from tests.conftest import ANY_MASK, ROOT, last_line, run_bundle
from tests.pairs.known import contents

NETWORK = {
    "image_size": 16, "batch_size": 4, "channels": [16, 32], "attention_levels": [False, True],
    "num_res_blocks": 1, "num_head_channels": 16, "norm_num_groups": 8, "device": "cpu",
    "prediction": "v",  # undertrained nets that predict the sample make no masks at all
}  # fmt: skip

QUICK = {"num_inference_steps": 3, "device": "cpu", "amp": False, "seed": 3}


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


def workflow(config: str, output_dir: Path, **ids: object) -> ConfigWorkflow:
    """What the command of a config runs, ready to run."""
    kind = "train" if config.startswith("train") else "infer"
    given = {name: str(value) if isinstance(value, Path) else value for name, value in ids.items()}
    file = str(ROOT / f"bundles/pig_dbt/configs/{config}.yaml")
    made = ConfigWorkflow(config_file=file, workflow_type=kind, output_dir=str(output_dir), **given)
    made.initialize()
    return made


def run(config: str, output_dir: Path, **ids: object) -> Path:
    workflow(config, output_dir, **ids).run()
    return output_dir


def without_labels(dataset: Path, folder: Path) -> Path:
    """The same slices as a dataset that nobody has annotated."""
    datalist = read_datalist(dataset)
    folder.mkdir()
    (folder / "images").symlink_to(dataset / "images")
    entries = [{key: value for key, value in e.items() if key != "label"} for e in datalist["training"]]
    write_datalist(
        folder, name="all", command="test", seed=0, preprocessing=datalist["preprocessing"], entries=entries
    )
    return folder


@pytest.fixture(scope="module")
def latent(phantom_dataset, tmp_path_factory):
    """A guider, a generator on the base of unannotated slices, all on latents; then the autoencoder is deleted."""
    folder = tmp_path_factory.mktemp("latent")
    autoencoder = write_autoencoder(folder, phantom_dataset)
    common = {**NETWORK, "dataset_dir": phantom_dataset, "autoencoder_ckpt": autoencoder, "max_iterations": 3}
    run("train_guider", folder / "guider", **common)
    own = {**common, "generator": "maisi", "learning_rate": 0.01}
    unlabelled = {**own, "dataset_dir": without_labels(phantom_dataset, folder / "unlabelled")}
    run("train_generator", folder / "base", condition="none", learn_from="all", **unlabelled)
    del own["prediction"]  # a branch predicts what its base does
    run("train_generator", folder / "generator", base_ckpt=folder / "base", **own)
    (folder / "sha256").write_text(sha256(autoencoder))
    autoencoder.unlink()
    return folder


def wanted(latent: Path, **ids: object) -> dict[str, object]:
    networks = {"guider_ckpt": latent / "guider", "generator_ckpt": latent / "generator"}
    return {**networks, "guidance": 2, "num_pairs": 4, "min_accepted": 0, **QUICK, **ANY_MASK, **ids}


@pytest.fixture(scope="module")
def pairs(latent):
    """Four pairs by the command line."""
    ids = wanted(latent, batch_size=4, spacing="[0.1,0.2]")
    result = run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=latent / "pairs", **ids)
    assert result.returncode == 0, result.stderr
    return latent / "pairs"


def test_checkpoints_say_which_latents_and_the_generator_brings_its_autoencoder(latent):
    space = {"factor": 4, "channels": 3, "autoencoder_sha256": (latent / "sha256").read_text()}
    guider, generator = (load_checkpoint(latent / role, role) for role in ("guider", "generator"))
    assert guider["meta"]["space"] == generator["meta"]["space"] == space
    assert guider["meta"]["network"]["arguments"]["image_channels"] == 16
    assert "autoencoder" not in guider
    assert generator["autoencoder"]["meta"]["latent"]["factor"] == 4


def test_the_base_stays_as_it_was_and_the_branch_learns(latent):
    base, of_base = load_weights(latent / "base", "generator")
    trained, meta = load_weights(latent / "generator", "generator")
    assert of_base["prediction"] == meta["prediction"] == "v"  # not the default of fresh weights
    for name, value in base.items():
        assert torch.equal(trained[name], value), name
    branch = {name: value for name, value in trained.items() if name not in base}
    assert all(name.startswith("control.") for name in branch)
    outputs = [value for name, value in branch.items() if name.startswith("control.controlnet_down_blocks")]
    assert outputs
    assert all(value.any() for value in outputs)  # they start at zero
    assert meta["settings"]["base_sha256"] == sha256(latent / "base/model_generator.pt")
    assert load_weights(latent / "base", "generator")[1]["masks"] == {"count": 0}


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
    one_by_one = run("infer_pairs", latent / "one_by_one", **wanted(latent, batch_size=1, spacing=[0.1, 0.2]))
    assert contents(one_by_one) == contents(pairs)


def test_a_latent_generator_makes_slices_for_given_masks(latent, phantom_dataset):
    ids = {"generator_ckpt": latent / "generator", "masks_dir": phantom_dataset, "num_pairs": 3, "batch_size": 2}
    slices = run("infer_slices", latent / "slices", **ids, **QUICK)
    given = {entry["label"]: entry for entry in training_entries(phantom_dataset, 0)}
    for entry in read_datalist(slices)["training"]:
        source = given[str(phantom_dataset / entry["mask_of"]["label"])]
        mask = load_slices(16)(source)["label"][0].numpy() > 0
        np.testing.assert_array_equal(read_label(slices / entry["label"]), mask)
        assert entry["mask_of"]["patient"] == source["patient"]
    assert json.loads((slices / "report.json").read_text())["accepted"] == 3


def test_a_base_makes_slices_without_masks(latent):
    ids = {"generator_ckpt": latent / "base", "num_pairs": 2}
    slices = run("infer_slices", latent / "unconditional", **ids, **QUICK)
    entries = read_datalist(slices)["training"]
    assert len(entries) == 2
    assert not any("label" in entry for entry in entries)


def test_a_joint_net_of_latents_makes_pairs(latent, phantom_dataset, tmp_path):
    autoencoder = write_autoencoder(tmp_path, phantom_dataset)
    common = {**NETWORK, "dataset_dir": phantom_dataset, "autoencoder_ckpt": autoencoder, "max_iterations": 2}
    net = run("train_generator", tmp_path / "joint", condition="joint", **common)
    assert load_weights(net, "generator")[1]["network"]["arguments"]["image_channels"] == 16 + 3
    assert (net / "previews/00000002.png").exists()
    ids = {"generator_ckpt": net, "num_pairs": 2, **QUICK, **ANY_MASK}
    pairs = run("infer_pairs", tmp_path / "pairs", **ids)
    assert all(read_label(pairs / entry["label"]).any() for entry in read_datalist(pairs)["training"])


def test_a_guider_of_pixels_makes_no_pair_with_a_generator_of_latents(latent, tmp_path):
    state, meta = load_weights(latent / "guider", "guider")
    save_weights(tmp_path / "guider.pt", state, {**meta, "space": None})
    ids = wanted(latent, guider_ckpt=tmp_path / "guider.pt")
    result = run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=tmp_path / "pairs", **ids)
    assert result.returncode == 1
    name = (latent / "sha256").read_text()[:12]
    assert last_line(result).startswith(
        f"error: the guider's space is pixels and the generator's is latents of autoencoder {name}; "
    )
    assert not (tmp_path / "pairs").exists()


def refused(config: str, output_dir: Path, **ids: object) -> str:
    with pytest.raises((RuntimeError, PigError)) as caught:  # MONAI wraps what happens while a config is read
        workflow(config, output_dir, **ids).run()
    assert not output_dir.exists()
    return str(find_user_error(caught.value))


def test_a_generator_without_a_spacing_input_refuses_the_wish(tmp_path):
    told = refused("infer_pairs", tmp_path / "pairs", spacing=[0.1, 0.1], device="cpu")  # the bundle's own
    assert told.startswith("spacing is [0.1, 0.1] and the generator's network is concat; ")


def test_a_generator_that_needs_a_guider_says_so(tmp_path):
    told = refused("infer_pairs", tmp_path / "pairs", guider_ckpt=None, device="cpu")  # the bundle's own generator
    assert told == "guider_ckpt is not set; name the guider's weights"


def test_latent_pairs_of_another_clamp_do_not_continue(latent, pairs):
    ids = wanted(latent, spacing=[0.1, 0.2], num_pairs=5, clamp=False)
    with pytest.raises((RuntimeError, PigError)) as caught:
        workflow("infer_pairs", pairs, **ids).run()
    told = "holds a run with guider_clamp = True, not False; give the clamp that it was started with, "
    assert told in str(find_user_error(caught.value))


def test_given_masks_are_not_removed_by_the_slices_that_are_made_for_them(latent, pairs):
    before = contents(pairs)
    ids = {"generator_ckpt": latent / "generator", "masks_dir": pairs, "num_pairs": 2, "overwrite": True}
    with pytest.raises((RuntimeError, PigError)) as caught:
        workflow("infer_slices", pairs, **ids, **QUICK).run()
    told = f"masks_dir {pairs} would be removed: --overwrite true empties output_dir {pairs} of "
    assert str(find_user_error(caught.value)).startswith(told)
    assert contents(pairs) == before


def test_an_autoencoder_that_has_seen_the_heldout_fold_is_refused(phantom_dataset, tmp_path):
    autoencoder = write_autoencoder(tmp_path, phantom_dataset)
    ids = {**NETWORK, "dataset_dir": phantom_dataset, "autoencoder_ckpt": autoencoder, "fold": 1}
    for config in ("train_guider", "train_generator"):
        told = refused(config, tmp_path / "run", **ids)
        said = "was trained with fold 0 held out, and this training holds out fold 1; "
        assert told.startswith(f"autoencoder_ckpt {autoencoder} {said}")


@pytest.mark.parametrize(("fold", "said"), [(0, "fold 0"), (-1, "no fold")])
@pytest.mark.parametrize("role", ["guider", "generator", "autoencoder"])
def test_weights_to_start_from_that_have_seen_the_heldout_fold_are_refused(
    role, fold, said, phantom_dataset, tmp_path
):
    own = (
        write_autoencoder(tmp_path, phantom_dataset) if role == "autoencoder" else ROOT / "bundles/pig_dbt/models"
    )
    state, meta = load_weights(own, role)
    start = tmp_path / "start.pt"
    save_weights(start, state, {**meta, "fold": fold, "data": fingerprint(phantom_dataset)})
    ids = {"dataset_dir": phantom_dataset, "init_ckpt": start, "fold": 1, "device": "cpu"}
    told = refused(f"train_{role}", tmp_path / "run", **ids)
    assert told.startswith(
        f"init_ckpt {start} was trained with {said} held out, and this training holds out fold 1; "
    )
