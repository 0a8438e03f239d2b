"""The branch of a `controlnet` and a `maisi`: silent at first, silent where nothing is known, else it steers."""

import pytest
import torch
from monai.networks.nets import ControlNet

from tests.generators.known import TIMES, images, masks, network, randomise

KINDS = ("controlnet", "maisi")


def unconditional(controlled):
    """The same network without its branch."""
    kind = controlled.spec["name"]
    alone = network(kind, condition_channels=0)
    alone.load_state_dict({k: v for k, v in controlled.state_dict().items() if k.startswith("unet.")})
    return alone


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_branch_leaves_the_unconditional_net_as_it_was(kind):
    controlled = network(kind)
    randomise(controlled.unet)
    found = controlled(images(1), TIMES, masks(2))
    assert torch.equal(found, unconditional(controlled)(images(1), TIMES, masks(2)))
    assert float(found.detach().std()) > 0.05  # it does say something
    controlled.start_branch()  # what it copies is no output of the branch
    assert torch.equal(found, controlled(images(1), TIMES, masks(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_branch_steers(kind):
    controlled = network(kind)
    randomise(controlled)
    one, other = (controlled(images(1), TIMES, masks(key)) for key in (2, 3))
    alone = unconditional(controlled)(images(1), TIMES, masks(2))
    for a, b in ((one, other), (one, alone)):
        assert float((a - b).abs().amax(dim=(1, 2, 3)).min()) > 0.01  # in every image


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_mask_silences_the_branch_for_its_image_alone(kind):
    controlled = network(kind)
    randomise(controlled)
    condition = masks(2)
    known = controlled(images(1), TIMES, condition)
    condition[1] = 0
    mixed = controlled(images(1), TIMES, condition)
    alone = unconditional(controlled)(images(1), TIMES, condition)
    torch.testing.assert_close(mixed[1], alone[1], rtol=0, atol=1e-10)
    torch.testing.assert_close(mixed[[0, 2]], known[[0, 2]], rtol=0, atol=1e-10)
    assert torch.equal(controlled(images(1), TIMES, torch.zeros_like(condition)), alone)


def test_the_branchs_outputs_join_the_skip_connections():
    """MONAI's two networks, called as its ControlNet inferer calls them."""
    controlled = network("controlnet")
    randomise(controlled)
    assert isinstance(controlled.control, ControlNet)
    down, middle = controlled.control(images(1), TIMES, masks(2))
    wanted = controlled.unet(
        images(1), TIMES, down_block_additional_residuals=down, mid_block_additional_residual=middle
    )
    torch.testing.assert_close(controlled(images(1), TIMES, masks(2)), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_middle_of_the_net_sees_nothing_of_the_skip_connections(kind):
    controlled = network(kind)
    randomise(controlled)
    seen = []
    controlled.unet.middle_block.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("hidden_states", *args[:1]).clone()), with_kwargs=True
    )
    for condition in (masks(2), torch.zeros_like(masks(2))):
        controlled(images(1), TIMES, condition)
    assert torch.equal(*seen)


@pytest.mark.parametrize("kind", KINDS)
def test_both_networks_learn_together(kind):
    controlled = network(kind)
    randomise(controlled)
    controlled(images(1), TIMES, masks(2)).square().mean().backward()
    silent = [name for name, p in controlled.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_starts_as_a_copy_of_the_encoder(kind):
    controlled = network(kind)
    randomise(controlled.unet)
    before = {name: value.clone() for name, value in controlled.control.state_dict().items()}
    controlled.start_branch()
    base = controlled.unet.state_dict()
    encoder = ("conv_in.", "time_embed.", "down_blocks.", "middle_block.")
    for name, value in controlled.control.state_dict().items():
        # MAISI's net is told the spacing beside the time, its branch is not: there the two have other widths
        copied = name.startswith(encoder) and not (kind == "maisi" and "time_emb_proj.weight" in name)
        assert torch.equal(value, base[name] if copied else before[name]), name
        assert copied == (not torch.equal(value, before[name])), name
