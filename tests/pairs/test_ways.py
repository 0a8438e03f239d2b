"""The ways to draw with networks that are known: in lockstep, in two steps, jointly, and slices alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pig_monai.diffusion.sampling import binarise
from pig_monai.diffusion.solvers import SOLVERS
from pig_monai.errors import PigError
from pig_monai.pairs.sampler import decoded
from pig_monai.pairs.ways import (
    JointSampler,
    PairSampler,
    TwoStepSampler,
    UnconditionalSampler,
    find_guider,
    pair_sampler,
    slice_sampler,
)
from pig_monai.spaces import LatentSpace
from tests.autoencoder.known import autoencoder
from tests.diffusion.toy import rng
from tests.generators.known import network, randomise
from tests.pairs.toy import SIZE, Knows, Mix, first_noise, from_noise, loaded

LATENTS = LatentSpace(autoencoder())
SETTINGS = {"solver": "ddim", "num_inference_steps": 4, "seed": 3}


def masks(count: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 1, size, size, generator=rng(1)).sign()


# --- lockstep ---------------------------------------------------------------------------------------------------


def test_in_lockstep_the_generator_sees_the_guiders_estimate_of_every_step():
    guider, generator = Mix(0.9, 0.1), Mix(0.8, -0.2)
    sampler = pair_sampler(loaded("guider", guider), loaded("generator", generator), **SETTINGS)
    assert type(sampler) is PairSampler
    steps: list[Any] = []
    sampler.draw([0, 5], on_step=lambda index, mask, slice_: steps.append(mask.x0))
    assert len(generator.conditions) == len(steps) == 4
    for shown, x0 in zip(generator.conditions, steps, strict=True):
        assert torch.equal(shown, x0)
    for seen, noisy in zip(guider.conditions, generator.noisy, strict=True):
        assert torch.equal(seen, noisy)  # … and the guider sees the slice of that step
    x_T, y_T = first_noise(3, [0, 5], 1, 1)
    assert torch.equal(guider.noisy[0], x_T)
    assert torch.equal(generator.noisy[0], y_T)


def test_a_binarised_condition_is_made_on_the_pixels():
    for space, channels in ((None, 1), (LATENTS, 16)):
        size = SIZE if space is None else 32
        known = 0.3 * torch.randn(1, 1, size, size, generator=rng(1))
        generator = Mix(0.8, -0.2)
        encoded = known if space is None else space.encode_masks(known)
        more = {"space": space, "image_size": size}
        sampler = pair_sampler(
            loaded("guider", Knows(encoded), **more), loaded("generator", generator, **more),
            **SETTINGS, binarised_condition=True,
        )  # fmt: skip
        sampler.draw([0])
        wanted = binarise(known)
        assert 0.2 < float((wanted > 0).float().mean()) < 0.8
        shown = generator.conditions[-1] if space is None else space.decode_masks(generator.conditions[-1])
        assert generator.conditions[-1].shape[1] == channels
        assert float((shown != wanted).float().mean()) < 0.02  # x̂₀ at a threshold may fall to either side


def test_pairs_of_latents_are_decoded():
    known_masks = masks(3, 32)
    latents = torch.randn(3, 3, 8, 8, generator=rng(2))
    more = {"space": LATENTS, "image_size": 32}
    sampler = pair_sampler(
        loaded("guider", Knows(LATENTS.encode_masks(known_masks)), **more),
        loaded("generator", Knows(latents), **more), **SETTINGS,
    )  # fmt: skip
    drawn = sampler.draw([4, 5, 6])
    slices = LATENTS.autoencoder.decode(latents)
    for number, candidate in enumerate(drawn):
        assert candidate.index == number + 4
        np.testing.assert_array_equal(candidate.mask, known_masks[number, 0].numpy() > 0)
        np.testing.assert_allclose(candidate.image, slices[number, 0].numpy(), atol=2e-4)
    assert sampler.generator.denoiser.clamp is False
    assert float(latents.abs().max()) > 1.5  # or nothing would be seen of it
    shown: list[Any] = []
    sampler.draw([4, 5, 6], on_step=lambda index, mask, slice_: shown.append(decoded(sampler, mask, slice_)))
    np.testing.assert_array_equal(shown[-1][0] > 0, known_masks[0, 0].numpy() > 0)  # a film strip's frames
    np.testing.assert_allclose(shown[-1][1], slices[0, 0].numpy(), atol=2e-4)


# --- two steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_in_two_steps_the_generator_sees_the_finished_mask_at_every_step(solver):
    guider, generator = Mix(0.9, 0.3), Mix(0.8, -0.2)
    settings = {**SETTINGS, "solver": solver}
    sampler = pair_sampler(loaded("guider", guider, blind=True), loaded("generator", generator), **settings)
    assert type(sampler) is TwoStepSampler
    drawn = sampler.draw([0, 5])
    x_T, y_T = first_noise(3, [0, 5], 1, 1)
    step = SOLVERS[solver].step
    mask = from_noise(Mix(0.9, 0.3), x_T, torch.zeros_like(y_T), sampler.grid, step)
    finished = torch.where(mask > 0, 1.0, -1.0)
    assert len(generator.conditions) == 4
    assert all(torch.equal(shown, finished) for shown in generator.conditions)
    assert not any(shown.any() for shown in guider.conditions)
    slices = from_noise(Mix(0.8, -0.2), y_T, finished, sampler.grid, step)
    for number, candidate in enumerate(drawn):
        np.testing.assert_array_equal(candidate.mask, finished[number, 0].numpy() > 0)
        np.testing.assert_allclose(candidate.image, slices[number, 0].numpy(), atol=1e-5)
    assert 0 < np.mean([candidate.mask for candidate in drawn]) < 1


def test_both_walks_of_two_steps_are_told_and_can_be_stopped():
    guider, generator = Mix(0.9, 0.3), Mix(0.8, -0.2)
    sampler = pair_sampler(loaded("guider", guider, blind=True), loaded("generator", generator), **SETTINGS)
    told: list[int] = []
    sampler.draw([0], on_step=lambda index, mask, slice_: told.append(index))
    assert told == list(range(8)) == list(range(sampler.num_steps))
    calls = len(guider.noisy), len(generator.noisy)

    def stop(index: int, mask: Any, slice_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.draw([0], on_step=stop)
    assert (len(guider.noisy), len(generator.noisy)) == (calls[0] + 1, calls[1])


# --- jointly ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [None, LATENTS])
def test_a_joint_net_makes_the_mask_in_its_first_channels_and_the_slice_in_the_others(space):
    size = SIZE if space is None else 32
    known_masks = masks(2, size)
    slices = torch.rand(2, 1, size, size, generator=rng(2)) * 2 - 1
    if space is not None:
        slices = torch.randn(2, 3, 8, 8, generator=rng(2))
    pair = torch.cat([known_masks if space is None else space.encode_masks(known_masks), slices], dim=1)
    net = Knows(pair)
    generator = loaded("generator", net, space, image_size=size, condition="joint")
    sampler = pair_sampler(None, generator, **SETTINGS, binarised_condition=False)
    assert type(sampler) is JointSampler
    shown: list[Any] = []
    drawn = sampler.draw([0, 5], on_step=lambda index, mask, slice_: shown.append((mask, slice_)))
    pictures = slices if space is None else space.decode_slices(slices)
    for number, candidate in enumerate(drawn):
        np.testing.assert_array_equal(candidate.mask, known_masks[number, 0].numpy() > 0)
        np.testing.assert_allclose(candidate.image, pictures[number, 0].numpy(), atol=2e-4)
    assert len(shown) == 4
    for mask, slice_ in shown:
        torch.testing.assert_close(torch.cat([mask.x0, slice_.x0], dim=1), pair, rtol=0, atol=2e-4)
        assert slice_.eps.shape == slice_.x0.shape
    assert not any(condition.any() for condition in net.conditions)


def test_a_joint_net_starts_from_the_noise_of_both():
    seen: list[torch.Tensor] = []

    class Watch(Knows):
        def forward(self, noisy, timesteps, condition, spacing):
            seen.append(noisy)
            return super().forward(noisy, timesteps, condition, spacing)

    generator = loaded("generator", Watch(torch.zeros(2, 2, SIZE, SIZE)), condition="joint")
    pair_sampler(None, generator, **SETTINGS).draw([2, 9])
    assert torch.equal(seen[0], torch.cat(first_noise(3, [2, 9], 1, 1), dim=1))


# --- slices alone -----------------------------------------------------------------------------------------------


def test_an_unconditional_net_makes_slices_without_masks():
    generator = Mix(0.8, 0.0)
    sampler = slice_sampler(loaded("generator", generator, condition="none"), None, **SETTINGS)
    assert type(sampler) is UnconditionalSampler
    drawn = sampler.draw([0, 5])
    _, y_T = first_noise(3, [0, 5], 1, 1)
    slices = from_noise(Mix(0.8, 0.0), y_T, torch.zeros_like(y_T), sampler.grid, SOLVERS["ddim"].step)
    for number, candidate in enumerate(drawn):
        assert candidate.mask is None
        np.testing.assert_allclose(candidate.image, slices[number, 0].numpy(), atol=1e-5)
    assert not any(condition.any() for condition in generator.conditions)


# --- any batch --------------------------------------------------------------------------------------------------


def random_net(kind: str = "concat", **arguments: Any) -> torch.nn.Module:
    net = network(kind, **arguments)
    randomise(net)
    return net.float()


def exact(way: str, space: LatentSpace | None) -> Any:
    """A sampler of real networks in float32, one image after the other."""
    mask, slice_, size = (1, 1, SIZE) if space is None else (16, 3, 32)
    more = {"space": space, "image_size": size, "one_at_a_time": True}
    guider = loaded("guider", random_net(image_channels=mask, condition_channels=slice_), **more)
    if way == "blind":
        net = random_net(image_channels=mask, condition_channels=0)
        guider = loaded("guider", net, **more)
    if way == "joint":
        net = random_net(image_channels=mask + slice_, condition_channels=0)
        return pair_sampler(None, loaded("generator", net, condition="joint", **more), **SETTINGS)
    if way == "none":
        net = random_net("maisi", image_channels=slice_, condition_channels=0)
        return slice_sampler(loaded("generator", net, condition="none", **more), None, **SETTINGS)
    kind = {"lockstep": "maisi", "blind": "controlnet"}[way]
    net = random_net(kind, image_channels=slice_, condition_channels=mask)
    generator = loaded("generator", net, mask_dropout=0.1, **more)
    return pair_sampler(guider, generator, guidance=2.0, **{**SETTINGS, "solver": "ddpm"})


@pytest.mark.parametrize("space", [None, LATENTS])
@pytest.mark.parametrize("way", ["lockstep", "blind", "joint", "none"])
def test_a_pair_has_the_same_bits_in_any_batch(way, space):
    sampler = exact(way, space)
    assert sampler.exact
    together = sampler.draw([0, 1, 2, 7])
    for candidate in (together[1], together[3]):
        (alone,) = sampler.draw([candidate.index])
        np.testing.assert_array_equal(alone.image, candidate.image)
        if way != "none":
            np.testing.assert_array_equal(alone.mask, candidate.mask)
    assert np.abs(together[0].image - together[1].image).max() > 0.01


# --- what does not fit ------------------------------------------------------------------------------------------


def test_a_generator_of_another_use_is_refused():
    guider = loaded("guider", Mix(0.9, 0.1))
    with pytest.raises(PigError, match="trained with condition none, which infer_pairs cannot use; name one"):
        pair_sampler(guider, loaded("generator", Mix(0.8, 0.0), condition="none"), **SETTINGS)
    with pytest.raises(PigError, match="trained with condition guider, which infer_slices without masks cannot"):
        slice_sampler(loaded("generator", Mix(0.8, 0.0), condition="guider"), None, **SETTINGS)
    with pytest.raises(PigError, match="guider_ckpt is not set; name the guider's weights"):
        pair_sampler(None, loaded("generator", Mix(0.8, 0.0)), **SETTINGS)
    joint = loaded("generator", Mix(0.8, 0.0), condition="joint")
    with pytest.raises(
        PigError, match="guider_ckpt is set and the generator makes the masks itself; leave guider"
    ):
        pair_sampler(guider, joint, **SETTINGS)
    blind = loaded("guider", Mix(0.9, 0.1), blind=True)
    for given, net in ((None, joint), (blind, loaded("generator", Mix(0.8, 0.0)))):
        with pytest.raises(
            PigError, match="binarised_condition is true and the generator is shown .*; give binar"
        ):
            pair_sampler(given, net, **SETTINGS, binarised_condition=True)
    with pytest.raises(PigError, match="the guider's fold is 0 and the generator's is 1"):
        pair_sampler(guider, loaded("generator", Mix(0.8, 0.0), fold=1), **SETTINGS)


def test_what_decides_a_pair_is_told_with_it():
    guider, generator = loaded("guider", Mix(0.9, 0.1)), loaded("generator", Mix(0.8, 0.0), mask_dropout=0.1)
    sampler = pair_sampler(guider, generator, **SETTINGS, guidance=2)
    assert sampler.generators == {generator.sha256: {"data": "d" * 64}}  # a checkpoint without a list of patients
    generator.meta["patients"] = ["p"]
    assert sampler.generators == {generator.sha256: {"data": "d" * 64, "patients": ["p"]}}
    told = sampler.provenance
    del told["versions"]
    assert told == {
        "seed": 3, "guider_sha256": guider.sha256, "generator_sha256": generator.sha256, "generator_fold": 0,
        "solver": "ddim", "steps": 4, "clamp": True, "guidance": 2.0, "spacing": [0.5, 0.25], "amp": False,
        "binarised_condition": False,
    }  # fmt: skip
    assert type(told["guidance"]) is float


@pytest.mark.parametrize("clamp", [True, False])
def test_of_latents_the_guiders_own_clamp_is_told(clamp):
    guider, generator = loaded("guider", Mix(0.9, 0.1), LATENTS), loaded("generator", Mix(0.8, 0.0), LATENTS)
    guider = replace(guider, denoiser=replace(guider.denoiser, clamp=clamp))
    told = pair_sampler(guider, generator, **SETTINGS).provenance
    assert (told["clamp"], told["guider_clamp"]) == (False, clamp)


def test_the_default_guider_is_not_for_a_joint_generator(tmp_path):
    default, joint = tmp_path / "model_guider.pt", loaded("generator", Mix(0.8, 0.0), condition="joint")
    assert find_guider(str(default), default, joint, device="cpu") is None
    assert find_guider(None, default, loaded("generator", Mix(0.8, 0.0)), device="cpu") is None
    for given, generator in ((tmp_path / "own.pt", joint), (default, loaded("generator", Mix(0.8, 0.0)))):
        with pytest.raises(PigError, match=f"guider_ckpt {given} does not exist"):  # it is looked for
            find_guider(given, default, generator, device="cpu")
