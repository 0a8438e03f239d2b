import math
import os
import random
import signal

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from pig_monai.errors import PigError
from pig_monai.files import save_torch
from pig_monai.training.interrupt import StopOnSignal
from pig_monai.training.state import RandomState, TrainingState, WeightsExport
from pig_monai.training.validation import Best
from tests.training.toy import run


def draws():
    python = [random.random(), random.gauss(0, 1)]
    return [*python, np.random.normal(), np.random.randint(1000), *torch.rand(3).tolist()]


def test_global_random_numbers_go_on_after_a_round_trip(tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    random.gauss(0, 1), np.random.normal(), torch.rand(5)  # Gaussians come in twos: one of each waits
    save_torch(tmp_path / "state.pt", RandomState().state_dict())
    wanted = draws()
    random.seed(7), np.random.seed(8), torch.manual_seed(9)
    assert draws() != wanted
    RandomState().load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == wanted


class Stream:
    iteration = 0


class Training:
    """A network whose weight is the iteration; the iterations in ``lowest`` have ever lower validation losses."""

    def __init__(self, folder, lowest=(), keep=2, interval=2):
        self.network = nn.Linear(1, 1, bias=False)
        self.best, self.stream, self.lowest, self.ran = Best(), Stream(), lowest, []
        objects = {"network": self.network, "validation": self.best}
        self.state = TrainingState(folder, objects, [self.stream], interval, self.best, keep)

    def step(self, iteration):
        self.ran.append(iteration)
        nn.init.constant_(self.network.weight, iteration)
        if iteration in self.lowest:
            self.best.tell(iteration, -iteration)

    def run(self, iterations):
        return run(self.step, [self.state], iterations)


def weight(path):
    return float(torch.load(path, weights_only=True)["network"]["weight"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_latest_states_are_kept_and_the_best_beside_them(keep, tmp_path):
    Training(tmp_path, lowest=(2, 4), keep=keep).run(11)
    latest = [f"state_{n:08d}.pt" for n in (6, 8, 10, 11)[-keep:]]  # every two iterations, and at the end
    assert names(tmp_path) == ["best.pt", *latest]
    assert [weight(tmp_path / name) for name in latest] == [6, 8, 10, 11][-keep:]
    assert weight(tmp_path / "best.pt") == 4
    assert torch.load(tmp_path / "best.pt", weights_only=True)["validation"]["iteration"] == 4


def test_a_training_goes_on_from_the_latest_state_and_never_from_the_best(tmp_path):
    Training(tmp_path, lowest=(4,)).run(8)
    again = Training(tmp_path)
    again.run(11)
    assert again.ran == [9, 10, 11]
    assert (again.best.iteration, again.stream.iteration) == (4, 8)
    assert weight(tmp_path / "best.pt") == 4
    for path in tmp_path.glob("state_*.pt"):
        path.unlink()
    fresh = Training(tmp_path)
    fresh.run(3)
    assert fresh.ran == [1, 2, 3]
    assert fresh.best.iteration is None


def test_a_best_state_that_a_kill_left_ahead_of_the_latest_does_not_lead(tmp_path):
    Training(tmp_path, lowest=(4, 8)).run(8)
    (tmp_path / "state_00000008.pt").unlink()  # best.pt of iteration 8 was written, its state was not
    again = Training(tmp_path, lowest=(8,))
    again.run(8)
    assert again.ran == [7, 8]
    assert weight(tmp_path / "best.pt") == 8


def test_a_torn_state_is_written_anew_and_does_not_count(tmp_path):
    Training(tmp_path, keep=2).run(6)
    torn = tmp_path / "state_00000006.pt"
    torn.write_bytes(torn.read_bytes()[:100])
    again = Training(tmp_path, keep=2)
    again.run(6)
    assert again.ran == [5, 6]
    assert weight(torn) == 6
    assert names(tmp_path) == ["state_00000004.pt", "state_00000006.pt"]


def test_states_that_cannot_be_used_are_no_reason_to_start_afresh(tmp_path):
    Training(tmp_path, keep=1).run(6)
    path = tmp_path / "state_00000006.pt"
    state = torch.load(path, weights_only=True)
    del state["random"]
    torch.save(state, path)
    with pytest.raises(PigError, match="hold no random: another version wrote them"):
        Training(tmp_path, keep=1).run(8)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PigError, match="none of the 1 states"):
        Training(tmp_path, keep=1).run(8)


def test_a_best_that_is_found_when_all_is_done_is_kept(tmp_path):
    """As after a stop in the last iteration, whose validation is made up for by the same command."""
    Training(tmp_path, lowest=(4,)).run(6)
    again = Training(tmp_path)

    class MadeUpFor:
        def attach(self, engine):
            engine.add_event_handler(Events.COMPLETED, lambda engine: again.best.tell(6, -6))

    run(again.step, [MadeUpFor(), again.state], 6)
    assert again.ran == []
    assert weight(tmp_path / "best.pt") == 6
    state = torch.load(tmp_path / "state_00000006.pt", weights_only=True)
    assert state["validation"]["iteration"] == 6


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    training = Training(tmp_path)
    training.step = lambda n: nn.init.constant_(training.network.weight, 1 if n < 4 else math.inf)
    with pytest.raises(PigError, match="the weights are no longer numbers at iteration 4"):
        training.run(8)
    assert names(tmp_path) == ["state_00000002.pt"]


class Meta:
    role = "guider"

    def __call__(self, iteration):
        return {"iteration": iteration}


def test_exported_weights_are_the_average_and_the_best_average(tmp_path):
    ema, best = nn.Module(), Best()
    ema.module = nn.Linear(1, 1, bias=False)
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 7: 4.0}

    def step(iteration):
        nn.init.constant_(ema.module.weight, 10 * iteration)
        if iteration in losses:
            best.tell(iteration, losses[iteration])

    export = WeightsExport(tmp_path, ema, Meta(), 2, best)
    run(step, [export], 7)
    for name, iteration in (("model_guider.pt", 7), ("model_guider_best.pt", 4)):
        content = torch.load(tmp_path / name, weights_only=True)
        assert content["meta"] == {"iteration": iteration}
        assert float(content["model"]["weight"]) == 10 * iteration
    run(lambda n: nn.init.constant_(ema.module.weight, math.nan), [export], 8)
    assert torch.load(tmp_path / "model_guider.pt", weights_only=True)["meta"] == {"iteration": 7}


def test_weights_of_a_finished_run_stay_the_same_file(tmp_path):
    class Versioned(Meta):
        version = 1

        def __call__(self, iteration):
            return {"iteration": iteration, "version": self.version}

    ema, meta, best = nn.Module(), Versioned(), Best()
    ema.module = nn.Linear(1, 1)
    best.tell(4, 1.0)
    export = WeightsExport(tmp_path, ema, meta, 2, best)
    run(lambda n: None, [export], 4)
    meta.version = 2

    def go_on():
        engine = Engine(lambda *_: None)
        engine.state.iteration = 4
        export.attach(engine)
        engine.fire_event(Events.COMPLETED)

    def versions():
        paths = (tmp_path / f"model_guider{name}.pt" for name in ("", "_best"))
        return [torch.load(path, weights_only=True)["meta"]["version"] for path in paths]

    go_on()
    assert versions() == [1, 1]
    (tmp_path / "model_guider_best.pt").write_bytes(b"torn")
    go_on()
    assert versions() == [2, 2]


@pytest.mark.parametrize("when_stopped", [True, False])
def test_a_meta_that_takes_long_is_not_made_when_a_signal_ends_the_training(when_stopped, tmp_path):
    made = []

    class Slow(Meta):
        def __call__(self, iteration):
            made.append(iteration)
            return super().__call__(iteration)

    def step(iteration):
        if iteration == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    ema = nn.Module()
    ema.module = nn.Linear(1, 1)
    export = WeightsExport(tmp_path, ema, Slow(), 4, Best(), when_stopped=when_stopped)
    run(step, [export, StopOnSignal()], 8)
    exported = torch.load(tmp_path / "model_guider.pt", weights_only=True)["meta"]["iteration"]
    assert (exported, made) == ((5, [0, 4, 5]) if when_stopped else (4, [4]))
    run(lambda n: None, [export, StopOnSignal()], 6)
    assert torch.load(tmp_path / "model_guider.pt", weights_only=True)["meta"] == {"iteration": 6}
