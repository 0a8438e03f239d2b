from datetime import datetime

import pytest

from pig_monai.training import forecast
from pig_monai.training.forecast import Forecast
from tests.training.toy import Clock, run


class FixedNow(datetime):
    """A Monday evening."""

    @classmethod
    def now(cls, tz=None):
        return cls(2030, 1, 7, 23, 50)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(forecast, "datetime", FixedNow)
    monkeypatch.setattr(forecast, "peak_memory", lambda device: 3.21e9)
    return Clock(monkeypatch, forecast)


AND_MORE = "without validation and previews; peak memory 3.21 GB"


def forecasts(clock, capsys, seconds, iterations, resumed_at=0):
    """Run a training whose n-th iteration takes seconds(n); return what is said, with the iteration."""
    said = []

    def listen(engine):
        said.extend((engine.state.iteration, line) for line in capsys.readouterr().err.splitlines())

    speaker = Forecast("guider", 400, "cpu", after_iterations=100, after_seconds=60)
    run(lambda n: clock.advance(seconds(n)), [speaker, listen], iterations, resumed_at)
    return said


def test_fast_trainings_are_foretold_after_a_hundred_iterations(clock, capsys):
    said = forecasts(clock, capsys, lambda n: 9.0 if n <= 5 else 0.5, 250)  # the first five do not count
    line = f"guider: 0.5 s an iteration, about 2 min 30 s to go (until Mon 07 Jan 23:52) {AND_MORE}"
    assert said == [(100, line)]


def test_slow_trainings_are_foretold_after_a_minute(clock, capsys):
    said = forecasts(clock, capsys, lambda n: 7.0, 30)
    # 9 iterations after the fifth are the first to take a minute; 386 are left
    line = f"guider: 7 s an iteration, about 45 min 2 s to go (until Tue 08 Jan 00:35) {AND_MORE}"
    assert said == [(14, line)]


def test_resumed_trainings_count_from_where_they_go_on(clock, capsys):
    said = forecasts(clock, capsys, lambda n: 0.25, 300, resumed_at=150)
    line = f"guider: 0.25 s an iteration, about 38 s to go (until Mon 07 Jan 23:50) {AND_MORE}"
    assert said == [(250, line)]


def test_nothing_is_said_of_a_training_that_is_over_before(clock, capsys):
    assert forecasts(clock, capsys, lambda n: 0.5, 99) == []
