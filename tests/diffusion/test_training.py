import math

import pytest
import torch
from torch import nn

from pig_monai.diffusion.noise import Purpose, seeded_generator
from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.diffusion.training import (
    AutocastInferer,
    DiffusionLoss,
    GeneratorBatch,
    GuiderBatch,
    Target,
    antithetic_timesteps,
)
from pig_monai.errors import PigError
from pig_monai.networks import diffusion_network
from tests.diffusion.test_sampling import Linear
from tests.diffusion.toy import rng

SCHEDULE = NoiseSchedule()


def batch() -> dict[str, torch.Tensor]:
    generator = rng(9)
    return {
        "image": torch.rand(5, 1, 6, 6, generator=generator, dtype=torch.float64) * 2 - 1,
        "label": (torch.rand(5, 1, 6, 6, generator=generator) > 0.7).double(),
    }


def literal_noise(seed: int, iteration: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = seeded_generator(Purpose.TRAINING, seed, iteration)
    t = antithetic_timesteps(5, 1024, generator)
    eps_1, eps_2 = (torch.randn(5, 1, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return t, eps_1, eps_2


def test_guiders_loss_is_algorithm_1():
    network = Linear(0.7, -0.1, 0.3)
    prepare = GuiderBatch(SCHEDULE, "epsilon", seed=3)
    inputs, target, _, kwargs = prepare(batch())
    found = DiffusionLoss()(network(inputs, **kwargs), target)

    t, eps_1, eps_2 = literal_noise(3, 0)
    total, count = 0.0, 0
    for b in range(5):  # pixel by pixel, as printed
        alpha_bar = 1.0
        for i in range(1, int(t[b]) + 2):
            alpha_bar *= 1 - (1e-4 + (0.02 - 1e-4) * (i - 1) / 1023)
        for p in range(6):
            for q in range(6):
                x0 = 2 * float(batch()["label"][b, 0, p, q]) - 1
                y0 = float(batch()["image"][b, 0, p, q])
                e1, e2 = float(eps_1[b, 0, p, q]), float(eps_2[b, 0, p, q])
                x_t = math.sqrt(alpha_bar) * x0 + math.sqrt(1 - alpha_bar) * e1
                y_t = math.sqrt(alpha_bar) * y0 + math.sqrt(1 - alpha_bar) * e2
                total += (e1 - (0.7 * x_t - 0.1 * y_t + 0.3 * int(t[b]) / 1024)) ** 2
                count += 1
    assert float(found) == pytest.approx(total / count, rel=1e-10)


def test_noise_of_an_iteration_depends_on_seed_and_iteration_alone():
    straight, resumed = GuiderBatch(SCHEDULE, seed=3), GuiderBatch(SCHEDULE, seed=3)
    for _ in range(4):
        straight(batch())
    resumed.iteration = 4
    torch.testing.assert_close(straight(batch())[0], resumed(batch())[0], rtol=0, atol=0)


def test_timesteps_are_antithetic_and_uniform():
    t = torch.stack([antithetic_timesteps(8, 1024, rng(i)) for i in range(4000)])
    assert torch.equal(t[:, :4] + t[:, 4:], torch.full((4000, 4), 1023))
    counts = torch.bincount((t // 64).flatten(), minlength=16) / t.numel()
    assert float((counts - 1 / 16).abs().max()) < 0.005
    assert antithetic_timesteps(5, 1024, rng(1)).shape == (5,)


def test_generator_is_conditioned_on_the_clean_mask():
    prepare = GeneratorBatch(SCHEDULE, "epsilon", seed=3)
    inputs, (target, weight, _), _, shown = prepare(batch())
    t, _, eps_2 = literal_noise(3, 0)
    torch.testing.assert_close(shown["condition"], batch()["label"] * 2 - 1)
    torch.testing.assert_close(inputs, SCHEDULE.add_noise(batch()["image"], eps_2, t))
    torch.testing.assert_close(target, eps_2)
    assert weight is None


def test_generator_is_conditioned_on_the_frozen_guiders_estimate():
    guider = Denoiser(Linear(0.9, 0.1, 0.0), SCHEDULE, "epsilon", clamp=True)
    prepare = GeneratorBatch(SCHEDULE, "epsilon", seed=3, condition="guider", guider=guider, loss_weight="lesion")
    _, (_, weight, _), _, shown = prepare(batch())
    t, eps_1, eps_2 = literal_noise(3, 0)
    x_t = SCHEDULE.add_noise(batch()["label"] * 2 - 1, eps_1, t)
    y_t = SCHEDULE.add_noise(batch()["image"], eps_2, t)
    alpha_bar = (SCHEDULE.alphas[t] ** 2).reshape(-1, 1, 1, 1)
    x0 = ((x_t - (1 - alpha_bar).sqrt() * (0.9 * x_t + 0.1 * y_t)) / alpha_bar.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(shown["condition"], x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(weight, 1 / (1 + torch.exp(-x0)))


def test_lesion_weight_is_the_authors():
    prepare = GeneratorBatch(SCHEDULE, loss_weight="lesion")
    _, (target, weight, timesteps), _, _ = prepare(batch())
    inside = batch()["label"] > 0
    assert float(weight[inside].mean()) == pytest.approx(0.731, abs=1e-3)
    assert float(weight[~inside].mean()) == pytest.approx(0.269, abs=1e-3)
    prediction = torch.zeros_like(target)
    wanted = (weight * target**2).sum() / target.numel()
    assert float(DiffusionLoss()(prediction, Target(target, weight, timesteps))) == pytest.approx(float(wanted))


@pytest.mark.parametrize("loss_weight", ["none", "lesion"])
def test_asked_for_the_sample_its_errors_are_weighted_by_the_noise(loss_weight):
    _, (x0, weight, t), _, _ = GuiderBatch(SCHEDULE, "sample", seed=3)(batch())
    torch.testing.assert_close(x0, batch()["label"] * 2 - 1)
    noise = (1 / (1 - SCHEDULE.alphas[t] ** 2)).clamp(max=20).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(weight, noise)
    prepare = GeneratorBatch(SCHEDULE, "sample", seed=3, loss_weight=loss_weight)
    _, (y0, weight, _), _, shown = prepare(batch())
    torch.testing.assert_close(y0, batch()["image"])
    lesion = 1 / (1 + torch.exp(-shown["condition"])) if loss_weight == "lesion" else 1
    torch.testing.assert_close(weight, lesion * noise)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"condition": "guider"}, "guider_ckpt"),
        ({"condition": "noise"}, "condition is 'noise'"),
        ({"loss_weight": "heavy"}, "loss_weight is 'heavy'"),
        ({"prediction": "x0"}, "prediction is 'x0'"),
    ],
)
def test_unknown_options_are_refused(options, named):
    with pytest.raises(PigError, match=named):
        GeneratorBatch(SCHEDULE, **options)


@pytest.mark.parametrize(("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_activations_in_training_have_the_promised_precision(amp, dtype):
    network = diffusion_network("concat", [16, 32], [False, True], 1, 16, norm_num_groups=8)
    seen = set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    inputs, target, _, kwargs = GuiderBatch(SCHEDULE, "v")({k: v.float()[..., :4, :4] for k, v in batch().items()})
    output = AutocastInferer(amp)(inputs, network, **kwargs)
    assert seen == {dtype}
    assert output.dtype == torch.float32
    DiffusionLoss()(output, target).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
