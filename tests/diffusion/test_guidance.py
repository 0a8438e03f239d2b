import pytest
import torch
from torch import nn

from pig_monai.diffusion.sampling import Denoiser
from pig_monai.diffusion.schedule import NoiseSchedule, RectifiedFlow
from tests.diffusion.test_sampling import Linear, images

CALLS = [(0.8, -0.2, 0.1, 1.0), (0.8, -0.2, 0.1, 3.0), (0.8, 0.5, 0.0, 0.0)]


class Counted(nn.Module):
    """Counts the calls of a network, and keeps what it was shown."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shown: list[tuple[torch.Tensor, ...]] = []

    def forward(self, noisy, timesteps, condition, spacing):
        self.shown.append((noisy, timesteps, condition, spacing))
        return self.network(noisy, timesteps, condition, spacing)


@pytest.mark.parametrize(("a", "b", "c", "w"), CALLS)
@pytest.mark.parametrize(
    ("schedule", "prediction"), [(NoiseSchedule(), "epsilon"), (NoiseSchedule(), "v"), (RectifiedFlow(), "flow")]
)
def test_guidance_goes_w_times_as_far_from_nothing_known_to_the_condition(schedule, prediction, a, b, c, w):
    x_t, condition, t = images(1, 2, 1, 4, 4), images(2, 2, 1, 4, 4), 300
    null, known = a * x_t + c * t / 1024, a * x_t + b * condition + c * t / 1024
    output = null + w * (known - null)
    x0, eps = Denoiser(Linear(a, b, c), schedule, prediction, clamp=False, guidance=w)(x_t, condition, t)
    if prediction == "flow":
        s = 301 / 1024
        wanted = x_t + s * output, x_t - (1 - s) * output
    else:
        alpha_bar = schedule.alphas[t] ** 2
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        wanted = ((x_t - sigma * output) / alpha, output)
        if prediction == "v":
            wanted = alpha * x_t - sigma * output, sigma * x_t + alpha * output
    torch.testing.assert_close(x0, wanted[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(eps, wanted[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 1), (2.0, 2), (0.0, 2)])
def test_without_guidance_the_network_is_called_once(guidance, calls):
    network = Counted(Linear(0.8, -0.2, 0.1))
    spacing = torch.tensor([0.1, 0.2])
    condition = images(2, 3, 1, 4, 4)
    Denoiser(network, NoiseSchedule(), "v", guidance=guidance, spacing=spacing)(
        images(1, 3, 1, 4, 4), condition, 5
    )
    assert len(network.shown) == calls
    conditions = [shown[2] for shown in network.shown]
    assert torch.equal(conditions[0], condition)
    assert all(torch.equal(other, torch.zeros_like(condition)) for other in conditions[1:])
    for _, timesteps, _, told in network.shown:
        assert timesteps.tolist() == [5, 5, 5]
        torch.testing.assert_close(told, torch.tensor([[0.1, 0.2]] * 3, dtype=torch.float64), rtol=0, atol=1e-7)


def test_one_at_a_time_each_image_keeps_its_own_time_condition_and_spacing():
    network = Counted(Linear(0.8, -0.2, 0.1))
    noisy, condition = images(1, 3, 1, 4, 4), images(2, 3, 1, 4, 4)
    t, spacing = torch.tensor([3, 500, 900]), torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.0, 0.0]])
    together = Denoiser(Linear(0.8, -0.2, 0.1), NoiseSchedule(), "v", spacing=spacing)(noisy, condition, t)
    alone = Denoiser(network, NoiseSchedule(), "v", spacing=spacing, one_at_a_time=True)(noisy, condition, t)
    assert torch.equal(alone.x0, together.x0)
    for i, shown in enumerate(network.shown):
        wanted = (noisy[i : i + 1], t[i : i + 1], condition[i : i + 1], spacing[i : i + 1].double())
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(shown, wanted, strict=True))


class Rounded(nn.Module):
    """A network in bfloat16 whose output without the condition is 1, and a 256th less with it."""

    def forward(self, noisy, timesteps, condition, spacing):
        return torch.where(condition != 0, 1 - 2.0**-8, 1.0).bfloat16()


def test_guidance_is_formed_in_float32():
    """In bfloat16, 1 − 1.5 / 256 would be rounded to a whole 256th."""
    ones = torch.ones(1, 1, 4, 4)
    denoiser = Denoiser(Rounded(), NoiseSchedule(), "epsilon", clamp=False, amp=True, guidance=1.5)
    assert torch.equal(denoiser(ones, ones, 300).eps, ones - 1.5 * 2.0**-8)
