"""Small handlers for `SupervisedTrainer`, in the order in which a training config lists them."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from pig_monai.errors import PigError
from pig_monai.training.events import TrainingEvents, listen, measured
from pig_monai.training.optimisation import EpochPlateau


def last_loss(engine: Engine) -> Tensor:
    """Return the last loss, still on its device: reading its value makes a GPU wait."""
    output: Any = engine.state.output
    loss: Tensor = output["loss"].detach()
    return loss


class GradientClip:
    """Clips the gradient's norm before each optimiser step.

    Args:
        network: whose gradients.
        max_norm: largest norm; 0 does not clip.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Listen for finished backward passes."""
        if self.max_norm > 0:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip in place."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class AverageWeights:
    """Tells the moving average of every optimiser step.

    Args:
        ema: the average.
        network: the network in training.
    """

    def __init__(self, ema: AveragedModel, network: nn.Module) -> None:
        self.ema = ema
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Listen for finished iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Update the average."""
        self.ema.update_parameters(self.network)


class LearningRate:
    """Steps the learning rate's schedule after every iteration.

    Args:
        schedule: of `pig_monai.training.optimisation.learning_rate_schedule`.
        part: of the loss, among the output's ``parts``, that a plateau is told; None for the loss itself.
    """

    def __init__(self, schedule: LambdaLR | EpochPlateau, part: str | None = None) -> None:
        self.schedule = schedule
        self.part = part

    def attach(self, engine: Engine) -> None:
        """Listen for finished iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Step."""
        if isinstance(self.schedule, EpochPlateau):
            output: Any = engine.state.output
            self.schedule.step(last_loss(engine) if self.part is None else output["parts"][self.part])
        else:
            self.schedule.step()


class StopWhenBroken:
    """Ends a training whose loss is no longer a number.

    Reading the loss makes a GPU wait, so it is looked at now and then; `TrainingState` looks at the weights before
    it saves any.

    Args:
        every: iterations between two looks.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every

    def attach(self, engine: Engine) -> None:
        """Listen for every ``every`` finished iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self)

    def __call__(self, engine: Engine) -> None:
        """Check the loss.

        Raises:
            PigError: the loss is not finite.
        """
        if not bool(torch.isfinite(last_loss(engine))):
            raise broken(f"the loss is {float(last_loss(engine))}", engine)


def broken(what: str, engine: Engine) -> PigError:
    """Return the error of a training that has gone wrong for good."""
    return PigError(
        f"{what} at iteration {engine.state.iteration}",
        "start in a new output_dir with a lower learning_rate; --init_ckpt may name the weights in this one",
    )


class StopAt:
    """Ends a training at ``max_iterations``, whichever of it and ``max_epochs`` comes first.

    Args:
        max_iterations: the number of optimiser steps.
    """

    def __init__(self, max_iterations: int) -> None:
        self.max_iterations = max_iterations

    def attach(self, engine: Engine) -> None:
        """Listen for the start (a resumed training may be there already) and for finished iterations."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Terminate the engine when its time has come."""
        if engine.state.iteration >= self.max_iterations:
            engine.terminate()


class ProgressBar:
    """One bar over the whole training: iterations, rate, remaining time, a smoothed loss.

    Args:
        name: what is trained.
        iterations: of the whole training.
    """

    def __init__(self, name: str, iterations: int) -> None:
        self.name = name
        self.iterations = iterations
        self.validation: float | None = None

    def attach(self, engine: Engine) -> None:
        """Listen for start, iterations, figures and end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._end)
        listen(engine, TrainingEvents.MEASURED, self._measured)

    def _measured(self, engine: Engine) -> None:
        self.validation = measured(engine).get("validation_loss", self.validation)

    def _start(self, engine: Engine) -> None:
        done = min(engine.state.iteration, self.iterations)
        self.smooth: Tensor | None = None
        self.bar = tqdm(total=self.iterations, initial=done, desc=self.name, unit="it", mininterval=1.0)

    def __call__(self, engine: Engine) -> None:
        """Advance by one iteration."""
        loss = last_loss(engine)
        self.smooth = loss if self.smooth is None else 0.98 * self.smooth + 0.02 * loss
        if engine.state.iteration % 10 == 0:
            shown = {"loss": float(self.smooth), "validation": self.validation}
            self.bar.set_postfix(
                {name: f"{value:.4f}" for name, value in shown.items() if value is not None}, refresh=False
            )
        self.bar.update()

    def _end(self, engine: Engine, *exception: BaseException) -> None:
        self.bar.close()
        if exception:
            raise exception[0]  # ignite leaves an exception to its handlers


class ListedOutput:
    """Leaves an iteration's output as a list, as if it were decollated: so MLflow's handler finds the loss in it.

    Comes after all handlers of ours, which read the whole batch's output; the runner appends MLflow's to them.
    """

    def attach(self, engine: Engine) -> None:
        """Listen for finished iterations."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Put the output into a list."""
        state: Any = engine.state
        state.output = [state.output]
