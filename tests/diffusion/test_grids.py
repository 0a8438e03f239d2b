import itertools

import pytest

from pig_monai.diffusion.grids import lambda_grid, uniform_grid
from pig_monai.diffusion.schedule import CLEAN, NoiseSchedule
from pig_monai.errors import PigError

SCHEDULE = NoiseSchedule()


@pytest.mark.parametrize("grid", [uniform_grid, lambda_grid])
@pytest.mark.parametrize("steps", [2, 3, 7, 25, 100, 256, 1000, 1023, 1024])
def test_grids_walk_from_pure_noise_to_clean_without_a_gap(grid, steps):
    pairs = grid(SCHEDULE, steps)
    assert len(pairs) == steps
    assert pairs[0][0] == 1023
    assert pairs[-1][1] == CLEAN
    assert all(t > t_next for t, t_next in pairs)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(pairs))


def test_uniform_grid_is_the_papers():
    # the paper counts t = 1024, 1020, …, 4 and then ᾱ = 1; 0-based that is one less
    assert [t for t, _ in uniform_grid(SCHEDULE, 256)] == [t - 1 for t in range(1024, 0, -4)]


def test_lambda_grid_takes_even_steps_in_lambda():
    times = [t for t, _ in lambda_grid(SCHEDULE, 25)]
    lambdas = [SCHEDULE.half_log_snr(t) for t in times]
    even = [lambdas[0] + k * (lambdas[-1] - lambdas[0]) / 24 for k in range(25)]
    # t is a whole number: a time may be off by half the distance to its neighbour
    for t, found, wanted in zip(times, lambdas, even, strict=True):
        nearest = min(abs(SCHEDULE.half_log_snr(s) - wanted) for s in range(max(0, t - 2), min(1023, t + 2) + 1))
        assert abs(found - wanted) == pytest.approx(nearest, abs=1e-12)
    assert times[-1] == 0


@pytest.mark.parametrize("steps", [1, 0, 1025])
def test_numbers_of_steps_outside_the_schedule_are_refused(steps):
    with pytest.raises(PigError, match=f"num_inference_steps is {steps}"):
        lambda_grid(SCHEDULE, steps)
