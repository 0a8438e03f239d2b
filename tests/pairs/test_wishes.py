"""Spacing and guidance: who can hear them, and what the networks are told."""

import pytest
import torch

from pig_monai.errors import PigError
from pig_monai.pairs.ways import pair_sampler
from pig_monai.pairs.wishes import wished_spacing
from tests.pairs.test_ways import SETTINGS
from tests.pairs.toy import Mix, loaded

GUIDER = loaded("guider", Mix(0.9, 0.1))
MAISI = {"network": {"name": "maisi", "arguments": {"condition_channels": 1}}}


def told(**more):
    """What a generator's network is told of the spacing, and what the pairs' entries say."""
    network = Mix(0.8, -0.2)
    wish = {"spacing": more.pop("wish")} if "wish" in more else {}
    sampler = pair_sampler(GUIDER, loaded("generator", network, **more), **SETTINGS, **wish)
    sampler.draw([0, 1])
    assert sampler.spacing == sampler.provenance["spacing"]
    return network.spacings, sampler.spacing


def test_a_generator_with_a_spacing_input_is_told_the_wish():
    spacings, said = told(**MAISI, wish=[0.1, 0.2])
    assert len(spacings) == 4
    for spacing in spacings:
        assert torch.equal(spacing, torch.tensor([[0.1, 0.2], [0.1, 0.2]]))
    assert said == [0.1, 0.2]


@pytest.mark.parametrize(("known", "shown"), [([0.5, 0.25], [0.5, 0.25]), (None, [0.0, 0.0])])
def test_without_a_wish_it_is_told_its_training_sets_median(known, shown):
    spacings, said = told(**MAISI, spacing=known)
    assert torch.equal(spacings[0], torch.tensor([shown, shown]))
    assert said == known


def test_the_others_are_told_nothing_and_refuse_a_wish():
    spacings, said = told()
    assert spacings == [None] * 4
    assert said == [0.5, 0.25]  # of the training set: what the entries say
    with pytest.raises(PigError, match=r"spacing is \[0.1, 0.1\] and the generator's network is concat; leave"):
        told(wish=[0.1, 0.1])


@pytest.mark.parametrize(
    "wish",
    [0.1, "0.1,0.1", [0.1], [0.1, 0.1, 1.0], [0, 0.1], [-0.1, 0.1], [float("nan"), 1], [1000, 0.1], ["a", 1]],
)
def test_what_is_no_spacing_is_refused(wish):
    with pytest.raises(PigError, match="give two numbers in mm, as in --spacing"):
        wished_spacing(loaded("generator", Mix(0, 0), **MAISI), wish)


def guided(guidance, **more):
    network = Mix(0.8, -0.2)
    pair_sampler(GUIDER, loaded("generator", network, **more), **SETTINGS, guidance=guidance).draw([0])
    return len(network.conditions)


@pytest.mark.parametrize("shown_without", [{"mask_dropout": 0.1}, {"unlabelled": 7}, {"base_sha256": "a" * 64}])
def test_a_generator_that_was_shown_slices_without_their_masks_can_be_guided(shown_without):
    assert guided(2.0, **shown_without) == 8  # two calls a step
    assert guided(1, **shown_without) == 4
    assert guided(3, condition="guider", **shown_without) == 8


@pytest.mark.parametrize("known", [{}, {"mask_dropout": 0.0}, {"unlabelled": 0}, {"base_sha256": None}])
def test_a_generator_that_never_was_is_not_guided(known):
    assert guided(1.0, **known) == 4
    with pytest.raises(
        PigError, match=r"guidance is 2.0 and the generator was never shown a slice without its mask"
    ):
        guided(2.0, **known)


def test_a_joint_net_knows_no_mask_to_be_guided_by():
    generator = loaded("generator", Mix(0.8, 0), condition="joint", unlabelled=7)
    with pytest.raises(PigError, match="guidance is 2"):
        pair_sampler(None, generator, **SETTINGS, guidance=2)


@pytest.mark.parametrize("guidance", [-1, 100, "two", None, float("nan"), float("inf")])
def test_what_is_no_guidance_is_refused(guidance):
    with pytest.raises(PigError, match="give a number of at least 0; 1 is none"):
        guided(guidance, mask_dropout=0.1)
