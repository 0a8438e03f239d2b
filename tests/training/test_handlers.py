import math

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from pig_monai.errors import PigError
from pig_monai.training.handlers import GradientClip, LossLog, StopAt, StopWhenBroken


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


def test_losses_are_logged_as_means(tmp_path):
    train([LossLog(tmp_path / "losses.csv", every=2)], 5)  # the losses are 0, -1, -2, -3, -4
    assert (tmp_path / "losses.csv").read_text().split() == ["iteration,loss", "2,-0.5", "4,-2.5"]
