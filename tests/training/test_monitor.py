import csv
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from pig_monai.diffusion.training import Target
from pig_monai.training import monitor
from pig_monai.training.events import TrainingEvents, listen, measured, tell_figures, tell_picture
from pig_monai.training.monitor import Measurements, MetricsTable, TensorBoard, weight_distance
from pig_monai.training.optimisation import exponential_moving_average
from tests.training.toy import Clock, run


def output(errors, timesteps, weight=1.0):
    """An iteration whose images have these errors, the same in each of their four pixels."""
    error = torch.tensor(errors).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    target = Target(torch.zeros_like(error), torch.full_like(error, weight), torch.tensor(timesteps))
    return {"pred": error, "label": target, "loss": error.mean()}


def measurements(T, every):
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.25)
    return Measurements(network, exponential_moving_average(network, 0.9), optimizer, T, every)


class Heard:
    """Notes the figures of every measurement with its iteration."""

    def __init__(self):
        self.figures = {}

    def attach(self, engine):
        listen(engine, TrainingEvents.MEASURED, self)

    def __call__(self, engine):
        self.figures[engine.state.iteration] = measured(engine)


def test_losses_are_means_over_the_images_of_each_quarter_of_the_noise_levels():
    heard = Heard()
    outputs = {
        1: output([1.0, 2.0, 3.0], [0, 255, 256]),
        2: output([4.0, 5.0, 6.0], [511, 1023, 200]),
        3: output([7.0, 8.0, 9.0], [600, 700, 767], weight=0.5),
        4: output([1.0, 1.0, 1.0], [768, 1000, 1023]),
    }
    run(outputs.__getitem__, [heard, measurements(1024, every=2)], 4)
    first, second = heard.figures[2], heard.figures[4]
    assert first["loss"] == pytest.approx((1 + 4 + 9 + 16 + 25 + 36) / 6)
    assert first["loss_t0"] == pytest.approx((1 + 4 + 36) / 3)
    assert first["loss_t256"] == pytest.approx((9 + 16) / 2)
    assert "loss_t512" not in first  # no image was that noisy
    assert first["loss_t768"] == pytest.approx(25)
    assert second["loss_t512"] == pytest.approx((49 + 64 + 81) / 3 / 2)
    assert second["loss"] == pytest.approx(((49 + 64 + 81) / 2 + 3) / 6)
    assert set(second) & {"loss_t0", "loss_t256"} == set()


def test_quarters_of_a_number_that_four_does_not_divide():
    heard = Heard()
    run(lambda n: output([float(t) for t in range(10)], list(range(10))), [heard, measurements(10, every=1)], 1)
    squares = {"loss_t0": (0, 1, 4), "loss_t3": (9, 16), "loss_t5": (25, 36, 49), "loss_t8": (64, 81)}
    for name, values in squares.items():  # 10 / 4 = 2.5: the quarters begin at 0, 2.5, 5 and 7.5
        assert heard.figures[1][name] == pytest.approx(sum(values) / len(values))


def test_learning_rate_and_distance_are_those_of_the_iteration():
    heard, measure = Heard(), measurements(1024, every=1)

    def step(iteration):
        measure.optimizer.param_groups[0]["lr"] = iteration / 8
        with torch.no_grad():
            measure.network.weight.fill_(3 * iteration)
            measure.network.bias.fill_(4 * iteration)
            measure.ema.module.weight.fill_(0)
            measure.ema.module.bias.fill_(8 if iteration == 2 else 0)
        return output([1.0], [0])

    run(step, [heard, measure], 2)
    assert [heard.figures[n]["learning_rate"] for n in (1, 2)] == [0.125, 0.25]
    assert heard.figures[1]["ema_distance"] == pytest.approx(1)
    assert heard.figures[2]["ema_distance"] == pytest.approx(6 / 10)  # (6, 8), of which the 8 agrees


def test_weight_distance_is_the_quotient_of_norms():
    one, other = nn.Linear(2, 1), nn.Linear(2, 1)
    for network, weights, bias in ((one, [1.0, 2.0], 3.0), (other, [1.0, 4.0], 8.0)):
        network.load_state_dict({"weight": torch.tensor([weights]), "bias": torch.tensor([bias])})
    assert weight_distance(one, other) == pytest.approx(math.sqrt((4 + 25) / (1 + 16 + 64)))
    assert weight_distance(other, one) == pytest.approx(math.sqrt((4 + 25) / (1 + 4 + 9)))
    assert weight_distance(one, one) == 0


def test_images_per_second_count_loading_and_training_but_nothing_in_between(monkeypatch):
    heard, clock = Heard(), Clock(monkeypatch, monitor)

    def step(iteration):
        clock.advance(1.5)
        return output([1.0] * 6, [0] * 6)

    def batches():
        while True:
            clock.advance(0.5)
            yield 0

    def validate(engine):
        if engine.state.iteration % 2 == 0:
            clock.advance(1000)

    run(step, [heard, measurements(1024, every=2), validate], 6, data=batches())
    assert [heard.figures[n]["images_per_second"] for n in (2, 4, 6)] == [12 / 4] * 3


def teller(figures):
    """A handler that publishes the figures of an iteration, one group after the other."""

    def tell(engine):
        for group in figures.get(engine.state.iteration, []):
            tell_figures(engine, group)

    return tell


FIRST = {2: [{"loss": 0.5}], 4: [{"loss": 0.25}, {"validation_loss": 0.125}], 5: [{"validation_loss": 7.0}],
         6: [{"loss": 8.0}, {"validation_loss": 9.0}]}  # fmt: skip
RESUMED = {6: [{"loss": 1 / 3}], 8: [{"loss": 0.0625, "loss_t256": 2e-9}]}


def test_figures_of_an_iteration_share_a_row_and_a_resumed_training_repeats_its_own(tmp_path):
    path = tmp_path / "metrics.csv"
    run(lambda n: None, [MetricsTable(path, 1024), teller(FIRST)], 6)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["iteration"], row["loss"], row["validation_loss"]) for row in rows] == [
        ("2", "0.5", ""), ("4", "0.25", "0.125"), ("5", "", "7"), ("6", "8", "9"),
    ]  # fmt: skip
    run(lambda n: None, [MetricsTable(path, 1024), teller(RESUMED)], 8, resumed_at=4)
    assert path.read_text() == (
        "iteration,loss,validation_loss,learning_rate,ema_distance,images_per_second,"
        "loss_t0,loss_t256,loss_t512,loss_t768\n"
        "2,0.5,,,,,,,,\n"
        "4,0.25,0.125,,,,,,,\n"
        "6,0.333333,,,,,,,,\n"
        "8,0.0625,,,,,,2e-09,,\n"
    )


def test_a_training_of_another_kind_has_columns_of_its_own(tmp_path):
    figures = {3: [{"loss": 0.5, "kl": 2.0}, {"psnr": 30.25}]}
    run(lambda n: None, [MetricsTable(tmp_path / "metrics.csv", more=("kl", "psnr")), teller(figures)], 3)
    assert (tmp_path / "metrics.csv").read_text() == (
        "iteration,loss,validation_loss,learning_rate,ema_distance,images_per_second,kl,psnr\n3,0.5,,,,,2,30.25\n"
    )


def scalars(folder, name):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_what_was_told_and_nothing_that_a_resumed_training_repeats(tmp_path):
    run(lambda n: None, [TensorBoard(tmp_path), teller(FIRST)], 6)
    assert scalars(tmp_path, "loss") == [(2, 0.5), (4, 0.25), (6, 8.0)]
    assert scalars(tmp_path, "validation_loss") == [(4, 0.125), (5, 7.0), (6, 9.0)]
    run(lambda n: None, [TensorBoard(tmp_path), teller(RESUMED)], 8, resumed_at=4)
    assert scalars(tmp_path, "loss") == [(2, 0.5), (4, 0.25), (6, pytest.approx(1 / 3)), (8, 0.0625)]
    assert scalars(tmp_path, "validation_loss") == [(4, 0.125)]


def test_tensorboard_shows_the_previews(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))

    def draw(engine):
        if engine.state.iteration == 3:
            tell_picture(engine, picture)

    run(lambda n: None, [TensorBoard(tmp_path), draw], 4)
    (event,) = EventAccumulator(str(tmp_path)).Reload().Images("preview")
    assert event.step == 3
    shown = Image.open(io.BytesIO(event.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(picture))
