import math

import pytest
import torch

from pig_monai.diffusion.schedule import CLEAN, NoiseSchedule
from pig_monai.errors import PigError


def literal_alpha_bar(t: int, T: int = 1024) -> float:
    """ᾱ of the paper's 1-based step t, by its product."""
    alpha_bar = 1.0
    for i in range(1, t + 1):
        alpha_bar *= 1 - (1e-4 + (0.02 - 1e-4) * (i - 1) / (T - 1))
    return alpha_bar


def test_alpha_bar_is_the_papers_product():
    schedule = NoiseSchedule()
    for t in (1, 2, 300, 1024):
        assert float(schedule.alphas[t - 1]) ** 2 == pytest.approx(literal_alpha_bar(t), rel=1e-12)
    assert float(schedule.alphas[CLEAN]) == 1
    assert math.sqrt(literal_alpha_bar(1024)) == pytest.approx(0.0056, abs=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_estimates_undo_what_noise_and_target_did(prediction):
    schedule = NoiseSchedule()
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 1, 3, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 1, 500, 1000, 1023])
    x_t = schedule.add_noise(x0, noise, t)
    output = schedule.target(x0, noise, t, prediction)
    x0_hat, eps_hat = schedule.estimates(output, x_t, t, prediction)
    torch.testing.assert_close(x0_hat, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(eps_hat, noise, rtol=0, atol=1e-10)
    torch.testing.assert_close(schedule.noise_between(x0, x_t, t), noise, rtol=0, atol=1e-10)


def test_v_target_is_its_definition():
    schedule = NoiseSchedule()
    x0, noise = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64)
    a = literal_alpha_bar(101)
    wanted = math.sqrt(a) * 3 - math.sqrt(1 - a) * 2
    assert float(schedule.target(x0, noise, torch.tensor([100]), "v")) == pytest.approx(wanted, rel=1e-12)


def test_an_error_of_the_sample_counts_as_the_error_of_v_where_there_is_noise():
    schedule = NoiseSchedule()
    generator = torch.Generator().manual_seed(0)
    x0, noise, error = torch.randn(3, 4, 1, 3, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 100, 500, 1023])
    x_t = schedule.add_noise(x0, noise, t)
    told = schedule.error_weight(t, x0, "sample").squeeze() * error.square().mean(dim=(1, 2, 3))
    # v̂ of x̂₀ = x₀ + error: from x_t and x̂₀ follows ε̂, from both v̂
    eps_hat = schedule.noise_between(x0 + error, x_t, t)
    v, v_hat = schedule.target(x0, noise, t, "v"), schedule.target(x0 + error, eps_hat, t, "v")
    wanted = (v_hat - v).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(told[1:], wanted[1:], rtol=1e-9, atol=0)
    assert 1 - literal_alpha_bar(1) < 1e-3  # where it would count ten thousand times
    assert float(told[0]) == pytest.approx(20 * float(error[0].square().mean()))
    assert schedule.error_weight(t, x0, "v") is None


def test_first_step_keeps_its_noise_in_float32():
    # 1 − ᾱ₀ is 1e-4; formed in half precision it would be 0 and the noise would be lost
    schedule = NoiseSchedule()
    x_t = schedule.add_noise(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0]))
    assert float(x_t) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "named"), [((1,), "num_train_timesteps"), ((1024, 0.1, 0.01), "beta_start")]
)
def test_impossible_schedules_are_refused(arguments, named):
    with pytest.raises(PigError, match=named):
        NoiseSchedule(*arguments)
