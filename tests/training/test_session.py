import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from pig_monai.errors import PigError
from pig_monai.runs import Run
from pig_monai.training import session
from pig_monai.training.interrupt import SIGNALS, StopOnSignal
from pig_monai.training.session import TIMED, WARM_UP, Plan, rehearse, train
from pig_monai.training.validation import Best
from tests.conftest import ROOT
from tests.training.toy import Clock

PLAN = Plan(iterations=40, epoch_length=4, training_slices=30, heldout_slices=7, fold=2, image_size=16,
            batch_size=8, keep_checkpoints=2)  # fmt: skip


class Timed(nn.Linear):
    """A network whose n-th call takes seconds(n) of the clock's time."""

    def __init__(self, clock, seconds):
        super().__init__(1, 1)
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def forward(self, inputs):
        self.calls += 1
        self.clock.advance(self.seconds(self.calls))
        return super().forward(inputs)


def trainer(network, handlers=(), iterations=40):
    return SupervisedTrainer(
        device="cpu", max_epochs=1, network=network, loss_function=nn.MSELoss(), decollate=False,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}] * iterations,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), train_handlers=list(handlers),
    )  # fmt: skip


class Untouched:
    """A handler of the training that a dry run must not call."""

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine):
        raise AssertionError("the training itself was started")


def run_folder(folder):
    return Run(folder, "guider", {}, ["checkpoints"])


def test_a_rehearsal_times_the_steps_after_the_first_ones(monkeypatch):
    clock = Clock(monkeypatch, session)
    network = Timed(clock, lambda call: 30.0 if call <= WARM_UP else 0.25 * call)
    seconds = rehearse(trainer(network))
    assert seconds == pytest.approx(0.25 * sum(range(WARM_UP + 1, WARM_UP + TIMED + 1)) / TIMED)
    assert network.calls == WARM_UP + TIMED


def test_a_dry_run_tells_time_and_sizes_and_touches_nothing(monkeypatch, tmp_path, capsys):
    clock = Clock(monkeypatch, session)
    monkeypatch.setattr(session, "peak_memory", lambda device: 2.5e9)
    network = Timed(clock, lambda call: 0.5)
    network.more = nn.Linear(1000, 2000)  # 2 002 000 parameters, and 2 of the other
    train(trainer(network, [Untouched()]), run_folder(tmp_path / "run"), PLAN, Best(), dry_run=True)
    assert not (tmp_path / "run").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "plan of the guider's training (a dry run: nothing was written)"
    told = dict(line.strip().split(": ", 1) for line in lines[1:])
    assert {name: value.strip() for name, value in told.items()} == {
        "slices": "30 to train on, 7 of fold 2 validate",
        "image size": "16 × 16 pixels",
        "batch size": "8",
        "epochs": "10.0 of 4 iterations",
        "parameters": "2.00 M",
        "output_dir": f"{tmp_path / 'run'} (a new run)",
        "iterations": "40, 0 done, 40 to go",
        "an iteration": "0.5 s (cpu)",
        "time to go": "about 20 s, validation and previews not counted",
        "peak memory": "2.5 GB",
        "disk": "about 112 MB",  # 8 MB of weights: two exports, and three states of four times that
    }


def test_the_guide_shows_a_dry_run_as_it_is_printed(monkeypatch, tmp_path, capsys):
    shown = (ROOT / "docs/guide.md").read_text().split("```\nplan of the guider's training")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch, session)
    monkeypatch.setattr(session, "peak_memory", lambda device: 735e6)
    network = Timed(clock, lambda call: 1.2)
    network.more = nn.Linear(1, 2_280_000 // 2 - 1)  # and 2 of the other
    train(trainer(network), run_folder("runs/guider"), Plan(4000, 18, 287, 64, 0, 64, 16, 2), Best(), dry_run=True)
    assert capsys.readouterr().out == f"plan of the guider's training{shown}"


def test_a_plan_counts_and_times_what_is_trained_beside_the_network(monkeypatch, tmp_path, capsys):
    clock = Clock(monkeypatch, session)
    judge = nn.Linear(1000, 999)  # 999 999 parameters

    def step(engine, batch):
        clock.advance(2.0)
        return {"loss": torch.zeros(())}

    plan = replace(PLAN, more_parameters=sum(p.numel() for p in judge.parameters()) + 1)
    network = Timed(clock, lambda call: 100.0)
    train(trainer(network), run_folder(tmp_path / "run"), plan, Best(), dry_run=True, iteration_update=step)
    told = capsys.readouterr().out
    assert network.calls == 0
    assert "an iteration: 2 s (cpu)" in told
    assert "about 36 MB" in told  # three states, each with its 4 MB of weights and Adam's two moments


def test_a_plan_without_a_fold_says_so():
    assert Plan(40, 4, 30, 0, -1, 16, 8, 2).lines()["slices"] == "30 to train on, none held out"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_training_says_so_and_ends_with_the_signals_status(number, tmp_path, capsys):
    class KilledAtThree(nn.Linear):
        calls = 0

        def forward(self, inputs):
            self.calls += 1
            if self.calls == 3:
                os.kill(os.getpid(), number)
            return super().forward(inputs)

    engine = trainer(KilledAtThree(1, 1), [StopOnSignal()])
    with pytest.raises(SystemExit) as ended:
        train(engine, run_folder(tmp_path / "run"), PLAN, Best())
    assert ended.value.code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(
            f"stopped by {number.name} after iteration 3, which is saved in {tmp_path / 'run'}; "
            "the same command continues"
        )
    )


def test_a_training_that_ends_by_itself_says_nothing_of_signals(tmp_path, capsys):
    engine = trainer(nn.Linear(1, 1), [StopOnSignal()], iterations=4)
    train(engine, run_folder(tmp_path / "run"), PLAN, Best())
    assert engine.state.iteration == 4
    assert "stopped" not in capsys.readouterr().err


def deaf(ready):
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    ready.set()
    time.sleep(600)


def test_a_training_that_fails_leaves_no_loader_behind():
    """Loaders ignore SIGTERM, with which Python would end them and then wait for ever."""

    class Fails:
        def run(self):
            raise PigError("a slice cannot be read", "mend it")

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    loader = context.Process(target=deaf, args=(ready,), daemon=True)
    loader.start()
    assert ready.wait(60)
    loader.terminate()  # what Python does at its end
    loader.join(0.5)
    assert loader.is_alive()
    with pytest.raises(PigError, match="cannot be read"):
        session._run(Fails())
    loader.join(60)
    assert not loader.is_alive()
