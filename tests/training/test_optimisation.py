import math

import pytest
import torch
from torch import nn

from pig_monai.errors import PigError
from pig_monai.training.optimisation import exponential_moving_average, learning_rate_schedule


def test_moving_average_follows_its_formula_with_warm_up():
    network = nn.Linear(1, 1, bias=False)
    values = [1.0, 3.0, -2.0, 5.0, 4.0]
    nn.init.constant_(network.weight, values[0])
    ema = exponential_moving_average(network, decay=0.3)
    wanted = values[0]
    for n, value in enumerate(values):
        nn.init.constant_(network.weight, value)
        ema.update_parameters(network)
        if n > 0:  # the first update copies
            decay = min(0.3, (1 + n) / (10 + n))
            wanted = decay * wanted + (1 - decay) * value
        assert float(ema.module.weight) == pytest.approx(wanted, rel=1e-6)


def test_no_decay_keeps_the_latest_weights():
    network = nn.Linear(2, 2)
    ema = exponential_moving_average(network, decay=0)
    for _ in range(3):
        nn.init.normal_(network.weight)
        ema.update_parameters(network)
    assert torch.equal(ema.module.weight, network.weight)


@pytest.mark.parametrize("decay", [1, 1.5, -0.1])
def test_impossible_decays_are_refused(decay):
    with pytest.raises(PigError, match="ema_decay"):
        exponential_moving_average(nn.Linear(1, 1), decay)


def rates(kind: str, steps: int, start: int = 0, **losses: float) -> list[float]:
    optimizer = torch.optim.Adam(nn.Linear(1, 1).parameters(), lr=2.0)
    schedule = learning_rate_schedule(optimizer, kind, max_iterations=1000, epoch_length=2, start=start)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(*losses.values())
    return found


def test_cosine_warms_up_and_ends_at_zero():
    found = rates("cosine", 1001)
    for n in (0, 50, 99, 100, 500, 999, 1000):
        warm = min(1.0, (n + 1) / 100)
        assert found[n] == pytest.approx(2 * warm * (1 + math.cos(math.pi * n / 1000)) / 2, abs=1e-9)
    assert found[1000] == pytest.approx(0, abs=1e-12)


def test_plateau_quarters_after_more_than_four_epochs_without_progress():
    # epochs of two iterations: the first sets the best loss, five more do not improve on it
    assert rates("plateau", 14, loss=1.0) == [2.0] * 12 + [0.5] * 2


def test_a_later_start_leaves_warm_up_and_end_where_they_are_needed():
    found = rates("cosine", 1001, start=400)
    for n in (400, 450, 499, 500, 700, 999, 1000):
        warm = min(1.0, (n - 399) / 100)
        assert found[n] == pytest.approx(2 * warm * (1 + math.cos(math.pi * (n - 400) / 600)) / 2, abs=1e-9)
    assert rates("cosine", 1001, start=1000)[1000] == pytest.approx(0.02)  # never begins, divides by nothing
    assert rates("plateau", 17, start=3, loss=1.0) == [2.0] * 15 + [0.5] * 2


@pytest.mark.parametrize("stopped", [2, 5, 10])
def test_a_resumed_plateau_goes_on_where_it_was(stopped):
    optimizer = torch.optim.Adam(nn.Linear(1, 1).parameters(), lr=2.0)
    found, state = [], None
    for steps in (stopped, 17 - stopped):
        schedule = learning_rate_schedule(optimizer, "plateau", max_iterations=1000, epoch_length=2, start=3)
        if state is not None:
            schedule.load_state_dict(state)
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            schedule.step(1.0)
        state = schedule.state_dict()
    assert found == [2.0] * 15 + [0.5] * 2


def test_unknown_schedules_are_refused():
    with pytest.raises(PigError, match="lr_schedule is 'linear'"):
        rates("linear", 1)


def test_a_resumed_moving_average_goes_on_where_it_was():
    network = nn.Linear(1, 1, bias=False)
    through, again = (exponential_moving_average(network, decay=0.9) for _ in range(2))
    for value in (1.0, 3.0, -2.0):
        nn.init.constant_(network.weight, value)
        through.update_parameters(network)
    again.update_parameters(network)  # has counted updates of its own before it takes over the state
    again.load_state_dict(through.state_dict())
    for value in (5.0, 4.0):
        nn.init.constant_(network.weight, value)
        for ema in (through, again):
            ema.update_parameters(network)
    assert torch.equal(again.module.weight, through.module.weight)
