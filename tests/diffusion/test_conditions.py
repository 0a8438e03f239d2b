"""What a generator is shown of the masks in training, and what it is asked for."""

import pytest
import torch

from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.schedule import NoiseSchedule, RectifiedFlow
from pig_monai.diffusion.training import (
    AutocastInferer,
    DiffusionLoss,
    GeneratorBatch,
    GuiderBatch,
    JointBatch,
    generator_batch,
)
from pig_monai.errors import PigError
from tests.diffusion.test_sampling import Linear
from tests.diffusion.test_training import batch, literal_noise
from tests.diffusion.toy import rng
from tests.generators.known import network, randomise

SCHEDULE = NoiseSchedule()


def many(count: int = 64) -> dict[str, torch.Tensor]:
    generator = rng(9)
    return {
        "image": torch.rand(count, 1, 2, 2, generator=generator) * 2 - 1,
        "label": (torch.rand(count, 1, 2, 2, generator=generator) > 0.7).float(),
    }


def hidden(condition: torch.Tensor) -> torch.Tensor:
    return (condition == 0).flatten(1).all(dim=1)


def test_a_mask_that_nobody_drew_is_shown_as_zeros():
    labelled = torch.tensor([True, False, True, True, False])
    shown = GeneratorBatch(SCHEDULE, seed=3)({**batch(), "labelled": labelled})[3]["condition"]
    assert torch.equal(hidden(shown), ~labelled)
    assert torch.equal(shown[labelled], (batch()["label"] * 2 - 1)[labelled])


def test_an_unlabelled_slices_lesion_weight_is_the_same_everywhere():
    labelled = torch.tensor([True, False, True, True, False])
    prepare = GeneratorBatch(SCHEDULE, seed=3, loss_weight="lesion")
    weight = prepare({**batch(), "labelled": labelled})[1].weight
    torch.testing.assert_close(weight[~labelled], torch.full_like(weight[~labelled], 0.5))
    assert float(weight[labelled].std()) > 0.1


def test_what_the_frozen_guider_says_of_an_unlabelled_slice_is_not_shown():
    guider = Denoiser(Linear(0.9, 0.1, 0.0), SCHEDULE, "epsilon")
    labelled = torch.tensor([True, False, True, True, False])
    prepare = GeneratorBatch(SCHEDULE, seed=3, condition="guider", guider=guider)
    assert torch.equal(hidden(prepare({**batch(), "labelled": labelled})[3]["condition"]), ~labelled)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_wanted_share_of_masks_is_dropped(share):
    prepare = GeneratorBatch(SCHEDULE, seed=3, mask_dropout=share)
    steps = [prepare(many()) for _ in range(200)]
    dropped = torch.stack([hidden(step[3]["condition"]) for step in steps])
    deviation = (share * (1 - share) / dropped.numel()) ** 0.5
    assert float(dropped.float().mean()) == pytest.approx(share, abs=4 * deviation)
    # at every place of a batch, and whatever the noise level
    assert float((dropped.float().mean(dim=0) - share).abs().max()) < 5 * (share * (1 - share) / 200) ** 0.5
    noisy = torch.stack([step[1].timesteps >= 512 for step in steps])
    for half in (noisy, ~noisy):
        assert float(dropped[half].float().mean()) == pytest.approx(share, abs=6 * deviation)


def test_dropping_changes_nothing_but_what_is_shown_and_depends_on_seed_and_iteration_alone():
    without, dropping = GeneratorBatch(SCHEDULE, seed=3), GeneratorBatch(SCHEDULE, seed=3, mask_dropout=0.5)
    for _ in range(3):
        (inputs, target, _, shown), (others, their_target, _, theirs) = without(many()), dropping(many())
        assert torch.equal(inputs, others)
        assert torch.equal(target.value, their_target.value)
        gone = hidden(theirs["condition"])
        assert 10 < int(gone.sum()) < 54
        assert torch.equal(theirs["condition"][~gone], shown["condition"][~gone])
    resumed = GeneratorBatch(SCHEDULE, seed=3, mask_dropout=0.5)
    resumed.iteration = 2
    assert torch.equal(resumed(many())[3]["condition"], theirs["condition"])
    other_seed = GeneratorBatch(SCHEDULE, seed=4, mask_dropout=0.5)
    other_seed.iteration = 2
    assert not torch.equal(other_seed(many())[3]["condition"], theirs["condition"])


def test_without_dropping_every_bit_is_that_of_the_two_noises():
    """Noise levels and noises are drawn first, in this order: trainings go on as before there was any dropping."""
    t, eps_1, eps_2 = literal_noise(3, 0)
    inputs, target, _, shown = GeneratorBatch(SCHEDULE, "epsilon", seed=3)(batch())
    assert torch.equal(inputs, SCHEDULE.add_noise(batch()["image"], eps_2, t))
    assert torch.equal(target.value, eps_2)
    assert torch.equal(shown["condition"], batch()["label"] * 2 - 1)
    inputs, target, _, shown = GuiderBatch(SCHEDULE, "epsilon", seed=3)(batch())
    assert torch.equal(inputs, SCHEDULE.add_noise(batch()["label"] * 2 - 1, eps_1, t))
    assert torch.equal(target.value, eps_1)


@pytest.mark.parametrize("options", [{"condition": "none"}, {"mask_dropout": 1.0}])
def test_an_unconditional_net_sees_no_mask(options):
    t, _, eps = literal_noise(3, 0)
    inputs, target, _, shown = GeneratorBatch(SCHEDULE, "epsilon", seed=3, **options)(batch())
    assert not shown["condition"].any()
    assert torch.equal(inputs, SCHEDULE.add_noise(batch()["image"], eps, t))
    assert torch.equal(target.value, eps)


def test_spacing_is_passed_on():
    spacing = torch.rand(5, 2, generator=rng(1))
    assert torch.equal(GeneratorBatch(SCHEDULE)({**batch(), "spacing": spacing})[3]["spacing"], spacing)
    assert GeneratorBatch(SCHEDULE)(batch())[3]["spacing"] is None
    assert JointBatch(SCHEDULE)(batch())[3]["spacing"] is None


def test_a_joint_net_is_told_the_same_spacing_in_training_as_in_sampling():
    net = network("maisi", image_channels=2, condition_channels=0).float()
    randomise(net)
    spacing = torch.tensor([[1.0, 2.0]]).expand(5, 2)
    images = {name: value.float() for name, value in batch().items()}
    noisy, target, _, shown = JointBatch(SCHEDULE, "v", seed=3)({**images, "spacing": spacing})
    trained = AutocastInferer(False)(noisy, net, **shown)
    t, nothing = target.timesteps, torch.zeros_like(noisy[:, :1])
    sampled = Denoiser(net, SCHEDULE, "v", clamp=False, spacing=spacing[0])(noisy, nothing, t)
    torch.testing.assert_close(sampled.x0, SCHEDULE.estimates(trained, noisy, t, "v")[0])
    untold = Denoiser(net, SCHEDULE, "v", clamp=False)(noisy, nothing, t)
    assert float((untold.x0 - sampled.x0).detach().abs().max()) > 0.01  # the spacing counts


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [
        (SCHEDULE, "epsilon"),
        (SCHEDULE, "v"),
        (SCHEDULE, "sample"),
        (RectifiedFlow(), "flow"),
        (RectifiedFlow(), "flow_sample"),
    ],
)
def test_a_joint_net_is_asked_for_both_noises(schedule, prediction):
    images = {
        "image": batch()["image"].repeat(1, 3, 1, 1),
        "label": batch()["label"],
    }  # three channels of a latent
    inputs, target, _, shown = JointBatch(schedule, prediction, seed=3)(images)
    mask = GuiderBatch(schedule, prediction, seed=3)(images)
    slice_ = GeneratorBatch(schedule, prediction, seed=3)(images)
    assert torch.equal(inputs, torch.cat([mask[0], slice_[0]], dim=1))
    assert torch.equal(target.value, torch.cat([mask[1].value, slice_[1].value], dim=1))
    assert not shown["condition"].any()
    # every channel counts alike
    error = DiffusionLoss()(torch.zeros_like(inputs), target)
    weight = 1.0 if target.weight is None else target.weight
    assert float(error) == pytest.approx(float((weight * target.value.square()).mean()), rel=1e-12)


GUIDER = Denoiser(torch.nn.Identity(), SCHEDULE, "v")
SETTINGS = {"schedule": SCHEDULE, "prediction": "v", "seed": 3, "guider": None}


@pytest.mark.parametrize(
    ("condition", "options", "told"),
    [
        ("none", {"loss_weight": "lesion"}, "loss_weight is lesion and condition is none; give loss_weight none"),
        ("none", {"mask_dropout": 0.1}, "mask_dropout is 0.1 and condition is none; give mask_dropout 0"),
        ("joint", {"loss_weight": "lesion"}, "loss_weight is lesion and condition is joint"),
        ("joint", {"mask_dropout": 0.1}, "mask_dropout is 0.1 and condition is joint"),
        ("joint", {"learn_from": "all"}, "learn_from is all and condition is joint; give learn_from lesion"),
        ("none", {"guider": GUIDER}, "guider_ckpt is set and condition is none; leave guider_ckpt out"),
        ("joint", {"guider": GUIDER}, "guider_ckpt is set and condition is joint; leave guider_ckpt out"),
        ("guider", {}, "condition is guider but guider_ckpt is not set"),
        ("masks", {}, "condition is 'masks'; give mask, guider, none or joint"),
    ],
)
def test_settings_without_a_meaning_are_refused(condition, options, told):
    given = {"learn_from": "lesion", "loss_weight": "none", "mask_dropout": 0.0, **SETTINGS, **options}
    with pytest.raises(PigError, match=told):
        generator_batch(condition, **given)


def test_each_condition_has_its_batches():
    left = {"loss_weight": "none", "mask_dropout": 0.0, **SETTINGS}
    assert isinstance(generator_batch("joint", learn_from="lesion", **left), JointBatch)
    for condition in ("mask", "none"):
        made = generator_batch(condition, learn_from="all", **left)
        assert isinstance(made, GeneratorBatch)
        assert made.condition == condition
