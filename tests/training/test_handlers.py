import math

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.handlers import from_engine
from torch import nn

from pig_monai.errors import PigError
from pig_monai.training.events import tell_figures
from pig_monai.training.handlers import GradientClip, ListedOutput, ProgressBar, StopAt, StopWhenBroken
from tests.training.toy import run


def train(handlers: list, iterations: int, gain: float = 1.0) -> nn.Linear:
    """Minimise gain · w by plain gradient descent from w = 0: after n steps of rate 1, w = -n · gain."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    data = [{"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}] * iterations
    handlers = [handler(network) if isinstance(handler, type(lambda: 0)) else handler for handler in handlers]
    trainer = SupervisedTrainer(
        device="cpu", max_epochs=1, train_data_loader=data, network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda prediction, target: gain * prediction, train_handlers=handlers, decollate=False,
    )  # fmt: skip
    trainer.run()
    return network


def test_gradients_are_clipped_before_the_step():
    assert float(train([], 3, gain=5.0).weight.detach()) == -15
    clipped = train([lambda network: GradientClip(network, 2.0)], 3, gain=5.0)
    assert float(clipped.weight.detach()) == pytest.approx(-6)
    free = train([lambda network: GradientClip(network, 0)], 3, gain=5.0)
    assert float(free.weight.detach()) == -15


def test_training_stops_at_its_last_iteration():
    assert float(train([StopAt(2)], 5).weight.detach()) == -2


def test_a_loss_that_is_no_number_ends_the_training():
    with pytest.raises(PigError, match=r"the loss is nan at iteration 2; .*init_ckpt"):
        train([StopWhenBroken(every=2)], 5, gain=math.nan)


def test_mlflows_handler_finds_the_loss_of_a_list():
    find, found = from_engine(["loss"], first=True), []  # how MONAI's runner sets MLflow's handler up
    run(lambda n: {"loss": float(n)}, [ListedOutput(), lambda engine: found.append(find(engine.state.output))], 3)
    assert found == [1.0, 2.0, 3.0]


def test_the_bar_shows_a_smooth_loss_and_the_last_validation():
    bar, shown = ProgressBar("guider", 20), []

    def validate(engine):
        if engine.state.iteration in (5, 15):
            tell_figures(engine, {"validation_loss": engine.state.iteration / 4})
            tell_figures(engine, {"loss": 100.0})

    def look(engine):
        if engine.state.iteration % 10 == 0:
            shown.append((bar.bar.n, bar.bar.postfix))

    run(lambda n: {"loss": torch.tensor(float(n))}, [validate, bar, look], 20)
    smooth = [1.0]
    for loss in range(2, 21):
        smooth.append(0.98 * smooth[-1] + 0.02 * loss)
    assert shown == [
        (10, f"loss={smooth[9]:.4f}, validation=1.2500"),
        (20, f"loss={smooth[19]:.4f}, validation=3.7500"),
    ]
