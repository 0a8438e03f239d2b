import pytest
import torch
from torch import nn

from pig_monai.diffusion.grids import lambda_grid, uniform_grid
from pig_monai.diffusion.noise import PairNoise
from pig_monai.diffusion.sampling import Denoiser, binarise, sample_pairs
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.diffusion.solvers import SOLVERS, ddim_step
from pig_monai.networks import diffusion_network
from tests.diffusion.toy import rng

SCHEDULE = NoiseSchedule()


class Linear(nn.Module):
    """A network whose output is a fixed mix of its image, its condition and the time: easy to write down."""

    def __init__(self, a: float, b: float, c: float) -> None:
        super().__init__()
        self.a, self.b, self.c = a, b, c

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor, spacing: torch.Tensor | None
    ) -> torch.Tensor:
        time = timesteps.to(noisy.dtype).reshape(-1, 1, 1, 1) / 1024
        return self.a * noisy + self.b * condition + self.c * time


def images(key: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng(key), dtype=torch.float64)


def no_draw(like: torch.Tensor) -> torch.Tensor:
    raise AssertionError("a deterministic solver drew noise")


def algorithm_2(model_x, model_y, x, y, T=1024, steps=256):
    """Algorithm 2 as printed, in float64, with the uniform sub-sequence t = T, T − T/steps, …"""
    betas = [1e-4 + (0.02 - 1e-4) * i / (T - 1) for i in range(T)]
    alpha_bar = [1.0]
    for beta in betas:
        alpha_bar.append(alpha_bar[-1] * (1 - beta))
    for t in range(T, 0, -T // steps):
        a, a_next = alpha_bar[t], alpha_bar[t - T // steps]
        eps_x = model_x(x, y, t)
        x0 = (x - (1 - a) ** 0.5 * eps_x) / a**0.5
        x = a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps_x
        eps_y = model_y(x0, y, t)
        y0 = (y - (1 - a) ** 0.5 * eps_y) / a**0.5
        y = a_next**0.5 * y0 + (1 - a_next) ** 0.5 * eps_y
    return x0, y0


@pytest.mark.parametrize("steps", [8, 256])
def test_paired_loop_is_algorithm_2(steps):
    x_T, y_T = images(1, 2, 1, 4, 4), images(2, 2, 1, 4, 4)
    guider, generator = Linear(0.9, 0.1, 0.05), Linear(0.8, -0.2, 0.1)
    wanted = algorithm_2(
        lambda x, y, t: 0.9 * x + 0.1 * y + 0.05 * (t - 1) / 1024,  # our timesteps are 0-based
        lambda x0, y, t: 0.8 * y - 0.2 * x0 + 0.1 * (t - 1) / 1024,
        x_T, y_T, steps=steps,
    )  # fmt: skip
    found = sample_pairs(
        Denoiser(guider, SCHEDULE, "epsilon", clamp=False),
        Denoiser(generator, SCHEDULE, "epsilon", clamp=False),
        SCHEDULE, uniform_grid(SCHEDULE, steps), ddim_step, x_T, y_T, no_draw,
    )  # fmt: skip
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_generator_sees_the_estimate_of_the_same_step():
    seen, made = [], []

    def predict_mask(x, y, t):
        estimate = Denoiser(Linear(0.9, 0.1, 0), SCHEDULE, "epsilon")(x, y, t)
        made.append(estimate.x0)
        return estimate

    def predict_slice(y, condition, t):
        seen.append(condition)
        return Denoiser(Linear(0.9, 0.1, 0), SCHEDULE, "epsilon")(y, condition, t)

    sample_pairs(
        predict_mask, predict_slice, SCHEDULE, lambda_grid(SCHEDULE, 5), SOLVERS["dpmpp_2m"].step,
        images(1, 1, 1, 4, 4), images(2, 1, 1, 4, 4), no_draw, condition=lambda x0: x0 + 1,
    )  # fmt: skip
    assert len(seen) == 5
    assert all(torch.equal(condition, x0 + 1) for condition, x0 in zip(seen, made, strict=True))


def test_clamped_estimates_still_agree_with_the_state():
    x_t, condition = 6 * images(1, 1, 1, 4, 4), images(2, 1, 1, 4, 4)
    x0, eps = Denoiser(Linear(0.5, 0.1, 0), SCHEDULE, "v", clamp=True)(x_t, condition, 300)
    free = Denoiser(Linear(0.5, 0.1, 0), SCHEDULE, "v", clamp=False)(x_t, condition, 300).x0
    assert float(free.abs().max()) > 1  # so that there is something to clamp
    torch.testing.assert_close(x0, free.clamp(-1, 1))
    torch.testing.assert_close(SCHEDULE.add_noise(x0, eps, torch.tensor([300])), x_t, rtol=0, atol=1e-12)


def test_binarising_is_absolute():
    empty = torch.full((1, 1, 9, 9), -0.9)
    empty[..., 4, 4] = 0.5  # a lone bright pixel is no lesion …
    assert torch.equal(binarise(empty), torch.full_like(empty, -1))
    lesion = torch.full((1, 1, 9, 9), -1.0)
    lesion[..., 2:7, 2:7] = 1.0
    found = binarise(lesion)
    # … a 5 × 5 lesion stays: the centre, and every pixel whose 5 × 5 neighbourhood is more than half lesion
    counts = torch.nn.functional.conv2d((lesion > 0).float(), torch.ones(1, 1, 5, 5), padding=2)
    sizes = torch.nn.functional.conv2d(torch.ones_like(lesion), torch.ones(1, 1, 5, 5), padding=2)
    assert torch.equal(found > 0, counts > sizes / 2)


def trained_like_unet() -> nn.Module:
    torch.manual_seed(0)
    network = diffusion_network("concat", [16, 32], [False, True], 1, 16, norm_num_groups=8, patch_size=2)
    for parameter in network.parameters():  # a fresh net's last layer is zero
        nn.init.normal_(parameter, std=0.08)
    return network.eval()


@pytest.mark.parametrize(("one_at_a_time", "tolerance"), [(True, 0), (False, 1e-4)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_pair_does_not_depend_on_its_batch(solver, one_at_a_time, tolerance):
    denoiser = Denoiser(trained_like_unet(), SCHEDULE, "v", one_at_a_time=one_at_a_time)
    grid = SOLVERS[solver].timesteps(SCHEDULE, 6)

    def draw(indices: list[int]) -> torch.Tensor:
        noise = PairNoise(11, indices, "cpu")
        result = sample_pairs(
            denoiser,
            denoiser,
            SCHEDULE,
            grid,
            SOLVERS[solver].step,
            noise.draw(1, 16, 16),
            noise.draw(1, 16, 16),
            noise,
        )
        return torch.stack(result)

    together = draw(list(range(8)))
    assert float(together.std()) > 0.05
    for i in (0, 3, 7):
        alone = draw([i])
        torch.testing.assert_close(alone[:, 0], together[:, i], rtol=0, atol=tolerance)
    assert not torch.equal(together[:, 0], together[:, 1])


def test_only_the_current_state_is_held():
    alive: list[int] = []
    import gc
    import weakref

    references: list[weakref.ref] = []

    def predict(noisy, condition, t):
        estimate = Denoiser(Linear(0.9, 0.0, 0.0), SCHEDULE, "epsilon")(noisy, condition, t)
        references.append(weakref.ref(estimate.x0))
        gc.collect()
        alive.append(sum(reference() is not None for reference in references))
        return estimate

    sample_pairs(
        predict, predict, SCHEDULE, lambda_grid(SCHEDULE, 40), SOLVERS["dpmpp_2m"].step,
        images(1, 1, 1, 4, 4), images(2, 1, 1, 4, 4), no_draw,
    )  # fmt: skip
    assert max(alive) <= 4  # x̂₀ of two streams, now and one step before
