import os
import signal
import threading

import pytest
from ignite.engine import Events

from pig_monai.training.interrupt import SIGNALS, StopOnSignal, stopping
from tests.training.toy import run


class Ended:
    """Notes the iteration at which an engine completed."""

    iteration = None

    def attach(self, engine):
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine):
        self.iteration = engine.state.iteration


@pytest.fixture(autouse=True)
def former():
    """Handlers of this test's own, which note the signals that reach them."""
    reached = []

    def note(number, frame):
        reached.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    yield note, reached
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_training_after_the_iteration_at_hand(number, former):
    note, reached = former
    finished, ended = [], Ended()

    def step(iteration):
        if iteration == 3:
            os.kill(os.getpid(), number)
        return iteration

    handlers = [lambda engine: finished.append(engine.state.output), StopOnSignal(), ended]
    engine = run(step, [*handlers, lambda engine: finished.append(-engine.state.output)], 6)
    assert finished == [1, -1, 2, -2, 3, -3]  # those before and after it in the list, for the last iteration too
    assert ended.iteration == 3
    assert stopping(engine) is number
    assert reached == []
    assert [signal.getsignal(n) for n in SIGNALS] == [note, note]


def test_without_a_signal_a_training_runs_to_its_end_and_leaves_no_handler(former):
    note, _ = former
    within = []
    engine = run(lambda n: within.append(signal.getsignal(signal.SIGTERM)), [StopOnSignal()], 3)
    assert stopping(engine) is None
    assert engine.state.iteration == 3
    assert all(handler is not note for handler in within)
    assert [signal.getsignal(n) for n in SIGNALS] == [note, note]


def test_a_second_signal_reaches_the_former_handler(former):
    _, reached = former

    def step(iteration):
        if iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    engine = run(step, [StopOnSignal()], 6)
    assert reached == [signal.SIGINT, signal.SIGTERM]
    assert stopping(engine) is signal.SIGTERM  # the first one


def test_a_training_in_another_thread_leaves_the_signals_alone(former):
    note, _ = former
    engines = []

    def step(iteration):
        assert signal.getsignal(signal.SIGTERM) is note

    thread = threading.Thread(target=lambda: engines.append(run(step, [StopOnSignal()], 3)))
    thread.start()
    thread.join()
    assert engines[0].state.iteration == 3
    assert stopping(engines[0]) is None
