"""Being asked to stop at an awkward moment."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from pig_monai.stopping import stopping_at_once


class Awkward:
    """An object that the signal finds in its finaliser, where Python lets no exception out."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
        for _ in range(10):
            time.sleep(0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_finaliser_does_not_swallow_the_stop(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hook, handler = sys.unraisablehook, signal.getsignal(number)

    def work() -> None:
        until = time.monotonic() + 30
        Awkward(number)
        while time.monotonic() < until:
            time.sleep(0.01)

    with pytest.raises(SystemExit) as ended, stopping_at_once("stopped: all is well"):
        work()
    assert ended.value.code == status
    assert capsys.readouterr().err == "stopped: all is well\n"
    assert (sys.unraisablehook, signal.getsignal(number)) == (hook, handler)


def test_where_all_ends_before_the_stop_comes_again_nothing_is_left() -> None:
    with stopping_at_once("stopped"):
        Awkward(signal.SIGTERM)
    time.sleep(0.2)  # the signal's default would end this process


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_exceptions_of_finalisers_reach_the_former_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ZeroDivisionError

    with stopping_at_once("stopped"):
        Broken()
    assert told == [ZeroDivisionError]
