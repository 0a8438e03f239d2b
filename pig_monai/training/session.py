"""Running a training, or only its plan."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from pig_monai import processes
from pig_monai.errors import PigError
from pig_monai.plan import TIMED, WARM_UP, duration, file_size, peak_memory, print_plan
from pig_monai.runs import WORDS, Intention, Run
from pig_monai.training.interrupt import stopping
from pig_monai.training.state import saved_states
from pig_monai.training.validation import Best

TrainingStep = Callable[[Engine, Any], Any]
"""What `SupervisedTrainer` takes as ``iteration_update``."""

STATE_PER_WEIGHTS = 4
"""A state holds the weights, their average and Adam's two moments."""


@dataclass(frozen=True)
class Plan:
    """What a dry run says of a training besides what it measures.

    Args:
        iterations: of the whole training.
        epoch_length: iterations that show every slice once.
        training_slices: slices trained on.
        heldout_slices: slices that validate.
        fold: held out; −1 for none.
        image_size: pixels a side.
        batch_size: slices an iteration.
        keep_checkpoints: states that stay.
        more_parameters: of another network that the state holds, such as a discriminator, with its optimiser.
    """

    iterations: int
    epoch_length: int
    training_slices: int
    heldout_slices: int
    fold: int
    image_size: int
    batch_size: int
    keep_checkpoints: int
    more_parameters: int = 0

    def lines(self) -> dict[str, str]:
        """Return the lines to print."""
        heldout = f"{self.heldout_slices} of fold {self.fold} validate" if self.heldout_slices else "none held out"
        return {
            "slices": f"{self.training_slices} to train on, {heldout}",
            "image size": f"{self.image_size} × {self.image_size} pixels",
            "batch size": f"{self.batch_size}",
            "epochs": f"{self.iterations / self.epoch_length:.1f} of {self.epoch_length} iterations",
        }


def train(
    trainer: SupervisedTrainer,
    run: Run,
    plan: Plan,
    best: Best,
    dry_run: bool = False,
    iteration_update: TrainingStep | None = None,
) -> None:
    """Train in the run's folder; or, for a dry run, print the plan and touch nothing.

    Args:
        trainer: with all its handlers.
        run: the run's folder, already checked.
        plan: what a dry run says.
        best: knows the lowest validation loss at the end.
        dry_run: print the plan instead.
        iteration_update: the trainer's own, where its steps are not MONAI's.

    Raises:
        PigError: started by torchrun.
        SystemExit: 128 + the signal's number, after a training that a signal stopped was saved.
    """
    if processes.count() > 1:
        raise PigError("a training runs in one process", "start it without torchrun, on one GPU (--device cuda:0)")
    if dry_run:
        print_training_plan(trainer, run, plan, iteration_update)
        return
    run.open()
    _run(trainer)
    signal = stopping(trainer)
    if signal:
        print(
            f"stopped by {signal.name} after iteration {trainer.state.iteration}, which is saved in {run.folder}; "
            "the same command continues",
            file=sys.stderr,
        )
        sys.exit(128 + signal)
    told = f"finished after iteration {trainer.state.iteration}: weights in {run.folder}"
    if best.iteration is not None:
        told += f"; lowest validation loss {best.loss:.4g} after iteration {best.iteration}"
    print(told, file=sys.stderr)


def _run(trainer: SupervisedTrainer) -> None:
    """Run an engine; if it fails, end the processes that load its slices.

    They ignore signals (`start_worker`), and Python would wait for them for ever.
    """
    try:
        trainer.run()
    except BaseException:
        for loader in multiprocessing.active_children():
            loader.kill()
        raise


def print_training_plan(
    trainer: SupervisedTrainer, run: Run, plan: Plan, iteration_update: TrainingStep | None = None
) -> None:
    """Time a few real training steps, of which nothing is kept, and print what the whole would take."""
    seconds = rehearse(trainer, iteration_update)
    iterations, found = plan.iterations, run.check()
    done = _iterations_done(run, found)
    to_go = max(iterations - done, 0)
    network: nn.Module = trainer.network
    weights = 4 * sum(p.numel() for p in network.state_dict().values())
    beside = 4 * plan.more_parameters * (STATE_PER_WEIGHTS - 1)  # it has no average
    disk = weights * 2 + (plan.keep_checkpoints + 1) * (weights * STATE_PER_WEIGHTS + beside)
    print_plan(
        f"plan of the {run.workflow}'s training",
        {
            **plan.lines(),
            "parameters": f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M",
            "output_dir": f"{run.folder} ({WORDS[found]})",
            "iterations": f"{iterations}, {done} done, {to_go} to go",
            "an iteration": f"{duration(seconds)} ({trainer.state.device})",
            "time to go": f"about {duration(to_go * seconds)}, validation and previews not counted",
            "peak memory": f"{file_size(peak_memory(trainer.state.device))}",
            "disk": f"about {file_size(disk)}",
        },
    )


def _iterations_done(run: Run, found: Intention) -> int:
    states = saved_states(run.folder / "checkpoints") if found == "continue" else []
    return int(states[0].stem.removeprefix("state_")) if states else 0


def rehearse(trainer: SupervisedTrainer, iteration_update: TrainingStep | None = None) -> float:
    """Return the seconds of a training step, measured on a few real ones, after which the weights are no run's."""
    clock = _Clock(torch.device(trainer.state.device))
    rehearsal = SupervisedTrainer(
        device=trainer.state.device,
        max_epochs=1,
        epoch_length=WARM_UP + TIMED,
        train_data_loader=trainer.data_loader,
        network=trainer.network,
        optimizer=trainer.optimizer,
        loss_function=trainer.loss_function,
        inferer=trainer.inferer,
        prepare_batch=trainer.prepare_batch,
        iteration_update=iteration_update,
        train_handlers=[clock],
        optim_set_to_none=True,
        decollate=False,
    )
    _run(rehearsal)
    return clock.seconds / TIMED


class _Clock:
    """Times the iterations after the warm-up."""

    seconds = 0.0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=WARM_UP), self._start)
        engine.add_event_handler(Events.COMPLETED, self._stop)

    def _start(self, engine: Engine) -> None:
        self.since = self._now()

    def _stop(self, engine: Engine) -> None:
        self.seconds = self._now() - self.since

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
