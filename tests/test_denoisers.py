"""Networks from checkpoints: what goes with what, and what has seen what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pig_monai.checkpoint import initial_network, save_weights
from pig_monai.data.folder import fingerprint, read_datalist
from pig_monai.data.patients import digest
from pig_monai.denoisers import (
    check_pair,
    frozen_guider,
    load_denoiser,
    start_from_base,
    training_space,
)
from pig_monai.diffusion.schedule import NoiseSchedule, RectifiedFlow
from pig_monai.diffusion.training import AutocastInferer, DiffusionLoss, GeneratorBatch
from pig_monai.errors import PigError
from pig_monai.heldout import HeldOut
from pig_monai.spaces import LatentSpace, PixelSpace
from pig_monai.training.optimisation import exponential_moving_average
from tests.autoencoder.known import autoencoder
from tests.diffusion.toy import rng
from tests.generators.known import network, randomise

DATA = "d" * 64
SCHEDULE = NoiseSchedule()


def meta(role: str, net: nn.Module, **more: Any) -> dict[str, Any]:
    return {
        "role": role, "network": net.spec, "image_size": 32, "preprocessing": {"size": 32}, "spacing": None,
        "fold": 0, "data": DATA, "origin": ["phantom"], "iteration": 3, "settings": {}, "versions": {},
        "schedule": SCHEDULE.to_dict(), "prediction": "v", "space": None, **more,
    }  # fmt: skip


def save(folder: Path, role: str, net: nn.Module, autoencoder: dict | None = None, **more: Any) -> Path:
    path = folder / f"model_{role}.pt"
    save_weights(path, net.float().state_dict(), meta(role, net, **more), autoencoder)
    return path


def random_network(kind: str, **arguments: Any) -> nn.Module:
    net = network(kind, **arguments)
    randomise(net)
    return net


# --- loading ----------------------------------------------------------------------------------------------------


def test_a_latent_generators_checkpoint_decodes_by_itself(tmp_path):
    space = LatentSpace(autoencoder())
    net = random_network("maisi", image_channels=3, condition_channels=16)
    loaded = load_denoiser(
        save(tmp_path, "generator", net, space.content, space=space.to_dict()), "generator", "cpu"
    )
    latents = torch.randn(2, 3, 8, 8, generator=rng(1))
    assert torch.equal(loaded.space.decode_slices(latents), space.decode_slices(latents))
    assert loaded.space.to_dict() == space.to_dict()
    assert loaded.denoiser.clamp is False  # latents are not bounded
    t, mask = 300, torch.randn(2, 16, 8, 8, generator=rng(2)).sign()
    alpha, sigma = SCHEDULE.scales(t, latents)
    v = net(latents, torch.tensor([t, t]), mask)
    torch.testing.assert_close(loaded.denoiser(latents, mask, t).x0, alpha * latents - sigma * v)
    assert not any(p.requires_grad for p in loaded.denoiser.network.parameters())


def test_masks_and_pixels_are_kept_in_their_range(tmp_path):
    space = LatentSpace(autoencoder())
    guider = random_network("concat", image_channels=16, condition_channels=3)
    save(tmp_path, "guider", guider, space=space.to_dict())
    save(tmp_path, "generator", random_network("concat"))
    for role in ("guider", "generator"):
        assert load_denoiser(tmp_path, role, "cpu").denoiser.clamp is True
        assert load_denoiser(tmp_path, role, "cpu", clamp=False).denoiser.clamp is False
        assert isinstance(load_denoiser(tmp_path, role, "cpu").space, PixelSpace)


def test_weights_of_another_network_than_their_meta_says_are_named(tmp_path):
    path = tmp_path / "model_generator.pt"
    save_weights(
        path, random_network("concat").float().state_dict(), meta("generator", random_network("controlnet"))
    )
    with pytest.raises(PigError, match="generator_ckpt .*: its weights do not fit its own meta"):
        load_denoiser(path, "generator", "cpu")


def test_guider_and_generator_of_other_spaces_are_refused_with_both(tmp_path):
    space = {"factor": 4, "channels": 3, "autoencoder_sha256": "e" * 64}
    one = meta("guider", random_network("concat"))
    check_pair(one, {**one, "role": "generator"})
    latent = {**one, "space": space}
    check_pair(latent, latent)
    told = "the guider's space is pixels and the generator's is latents of autoencoder eeeeeeeeeeee"
    with pytest.raises(PigError, match=told):
        check_pair(one, latent)
    other = {**one, "space": {**space, "autoencoder_sha256": "a" * 64}}
    with pytest.raises(PigError, match="is latents of autoencoder e{12} and the generator's is .* a{12}"):
        check_pair(latent, other)
    path = save(tmp_path, "guider", random_network("concat"))
    with pytest.raises(PigError, match=told):
        frozen_guider(path, latent, "cpu")


# --- what must not have been seen -------------------------------------------------------------------------------


def autoencoder_file(folder: Path, **more: Any) -> Path:
    content = autoencoder().content
    save_weights(folder / "model_autoencoder.pt", content["model"], {**content["meta"], "data": DATA, **more})
    return folder


def test_an_autoencoder_that_held_out_the_same_fold_is_used(tmp_path, capsys):
    space = training_space(autoencoder_file(tmp_path, fold=2), HeldOut(DATA, 2), "cpu")
    assert isinstance(space, LatentSpace)
    assert capsys.readouterr().err == ""
    assert isinstance(training_space(None, HeldOut(DATA, 2), "cpu"), PixelSpace)


@pytest.mark.parametrize(("fold", "said"), [(1, "fold 1"), (-1, "no fold")])
def test_an_autoencoder_that_has_learnt_from_the_heldout_fold_is_refused(tmp_path, fold, said):
    autoencoder_file(tmp_path, fold=fold)
    told = (
        f"autoencoder_ckpt {tmp_path} was trained with {said} held out, and this training holds out fold 2; "
        "name one that was trained with --fold 2"
    )
    with pytest.raises(PigError, match=told):
        training_space(tmp_path, HeldOut(DATA, 2), "cpu")
    training_space(tmp_path, HeldOut(DATA, -1), "cpu")  # nothing is held out, and nothing can leak


def test_of_weights_from_other_data_the_user_is_told(capsys):
    HeldOut(DATA, 2).check("autoencoder_ckpt a.pt", {"data": "other", "fold": 1})
    assert capsys.readouterr().err == (
        "autoencoder_ckpt a.pt was trained on other data: make sure that no patient of fold 2 is in it\n"
    )
    HeldOut(DATA, -1).check("autoencoder_ckpt a.pt", {"data": "other", "fold": 1})
    assert capsys.readouterr().err == ""


def test_weights_from_another_preparation_are_judged_by_the_patients_they_saw(phantom_dataset, capsys):
    folds = {entry["patient"]: entry["fold"] for entry in read_datalist(phantom_dataset)["training"]}
    of_fold = [digest(patient) for patient, fold in folds.items() if fold == 0]
    others = [digest(patient) for patient, fold in folds.items() if fold != 0]
    held_out, elsewhere = HeldOut.of(phantom_dataset, 0), {"data": "other", "fold": 0}
    assert held_out.data == fingerprint(phantom_dataset)
    with pytest.raises(PigError) as caught:
        held_out.check("base_ckpt b.pt", {**elsewhere, "patients": [*others, of_fold[0]]})
    assert caught.value.what == (
        f"base_ckpt b.pt was trained on 1 of the {len(of_fold)} patients of fold 0, which this training holds out"
    )
    held_out.check("base_ckpt b.pt", {**elsewhere, "patients": others})  # the same set, larger or smaller
    assert capsys.readouterr().err == ""
    for unknown in (None, [digest("of another key")]):
        held_out.check("base_ckpt b.pt", {**elsewhere, "patients": unknown})
        assert "make sure that no patient of fold 0 is in it" in capsys.readouterr().err


# --- a branch on a frozen base ----------------------------------------------------------------------------------

KINDS = ("controlnet", "maisi")


def start(
    net: nn.Module,
    base: Path,
    init: Path | None = None,
    fold: int = 0,
    flow: bool = False,
    space: dict[str, Any] | None = None,
) -> nn.Module:
    schedule, prediction = (RectifiedFlow(), "flow") if flow else (SCHEDULE, "v")
    return start_from_base(net, base, init, schedule, prediction, space, HeldOut(DATA, fold))


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_a_base_changes_the_branch_and_no_bit_of_the_base(kind, tmp_path):
    base = random_network(kind, condition_channels=0)
    save(tmp_path, "generator", base)
    net = initial_network(start(network(kind).float(), tmp_path), None, "generator", "cpu", HeldOut(DATA, 0))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for name, value in base.state_dict().items():
        assert torch.equal(before[name], value)
    for name in ("conv_in.conv.weight", "middle_block.resnet_1.conv1.conv.weight"):  # the branch starts from it
        assert torch.equal(before[f"control.{name}"], before[f"unet.{name}"])

    ema = exponential_moving_average(net, 0.9)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    prepare = GeneratorBatch(SCHEDULE, "v", seed=0)
    images = {"image": torch.randn(4, 1, 8, 8, generator=rng(1)), "label": torch.zeros(4, 1, 8, 8)}
    images["label"][:, :, 2:5, 2:5] = 1
    for _ in range(3):
        inputs, target, _, shown = prepare(images)
        optimizer.zero_grad()
        DiffusionLoss()(AutocastInferer(False)(inputs, net, **shown), target).backward()
        optimizer.step()
        ema.update_parameters(net)
    for state in (net.state_dict(), ema.module.state_dict()):
        changed = [name for name in before if not torch.equal(state[name], before[name])]
        assert changed == [name for name in before if name.startswith("control.")]


def test_without_a_base_everything_is_trained():
    net = network("controlnet")
    assert start_from_base(net, None, Path("weights.pt"), SCHEDULE, "v", None, HeldOut(DATA, 0)) is net
    assert all(p.requires_grad for p in net.parameters())


def test_a_base_that_does_not_fit_is_refused_with_both_sides(tmp_path):
    base = save(tmp_path, "generator", random_network("controlnet", condition_channels=0))
    needs = f"base_ckpt {base}: its "
    with pytest.raises(PigError, match=f"{needs}network#name is controlnet, and this training needs maisi"):
        start(network("maisi"), base)
    with pytest.raises(PigError, match=f"{needs}prediction is v, and this training needs flow"):
        start(network("controlnet"), base, flow=True)
    with pytest.raises(PigError, match=f"{needs}schedule#beta_end is 0.02, and this training needs 0.03"):
        start_from_base(
            network("controlnet"), base, None, NoiseSchedule(beta_end=0.03), "v", None, HeldOut(DATA, 0)
        )
    with pytest.raises(PigError, match=f"{needs}network#arguments#image_channels is 1, and this training needs 3"):
        start(network("controlnet", image_channels=3), base)
    conditional = save(tmp_path / "b", "generator", random_network("controlnet"))
    with pytest.raises(PigError, match="network#arguments#condition_channels is 1, and this training needs 0"):
        start(network("controlnet"), conditional)


def test_a_base_of_another_space_is_refused_with_both(tmp_path):
    space = {"factor": 4, "channels": 3, "autoencoder_sha256": "e" * 64}
    net = random_network("controlnet", condition_channels=0)
    base = save(tmp_path, "generator", net, space=space)
    start(network("controlnet").float(), base, space=space)
    for ours, told in (
        (None, "pixels"),
        ({**space, "autoencoder_sha256": "a" * 64}, "latents of autoencoder a{12}"),
    ):
        said = f"base_ckpt {base}: its space is latents of autoencoder e{{12}}, and this training needs {told}; "
        with pytest.raises(PigError, match=said):
            start(network("controlnet"), base, space=ours)


@pytest.mark.parametrize(("kind", "channels"), [("concat", 1), ("maisi", 0)])
def test_a_network_without_a_branch_has_no_use_for_a_base(kind, channels, tmp_path):
    with pytest.raises(PigError, match=f"base_ckpt is set, and this {kind} network has no branch to train on it"):
        start(network(kind, condition_channels=channels), tmp_path)


def test_a_base_is_not_replaced_by_weights_to_start_from(tmp_path):
    with pytest.raises(PigError, match="base_ckpt and init_ckpt are both set"):
        start(network("controlnet"), tmp_path, init=tmp_path)


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (
            {"learn_from": "all"},
            "learn_from is all and base_ckpt is set: .*; give learn_from lesion; guidance works",
        ),
        (
            {"mask_dropout": 0.1},
            "mask_dropout is 0.1 and base_ckpt is set: .*; give mask_dropout 0; guidance works",
        ),
    ],
)
def test_a_frozen_base_has_no_use_for_slices_without_their_masks(ids, told, tmp_path):
    base = save(tmp_path, "generator", random_network("controlnet", condition_channels=0))
    with pytest.raises(PigError, match=told):
        start_from_base(network("controlnet"), base, None, SCHEDULE, "v", None, HeldOut(DATA, 0), **ids)
    # without a base it has one
    start_from_base(network("controlnet"), None, None, SCHEDULE, "v", None, HeldOut(DATA, 0), **ids)


def test_a_base_that_has_learnt_from_the_heldout_fold_is_refused(tmp_path):
    base = save(tmp_path, "generator", random_network("controlnet", condition_channels=0), fold=-1)
    with pytest.raises(PigError, match=f"base_ckpt {base} was trained with no fold held out"):
        start(network("controlnet"), base, fold=3)
    start(network("controlnet"), base, fold=-1)
