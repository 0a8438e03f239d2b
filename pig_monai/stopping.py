"""Stopping on request: SIGTERM from a scheduler, Ctrl-C from a user."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopAskedError(Exception):
    """Raised where a run can end in good order after a signal asked for it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that says so: 143 after SIGTERM, 130 after Ctrl-C."""
        return 128 + self.number


class StopSignals:
    """Takes note of the signals while it is entered; `check` acts on them where nothing is half done.

    A second signal ends the process at once, as it would without this class.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def listen(self) -> None:
        """Take note of signals from now on; for callers that have no block to enter."""
        if threading.current_thread() is threading.main_thread():  # Python delivers signals there alone
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def check(self) -> None:
        """End here where a signal has come.

        Raises:
            StopAskedError: names the signal.
        """
        if self.asked is not None:
            raise StopAskedError(self.asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        self.restore()


class _StopAtOnce(StopSignals):
    """Ends what is under way wherever it is, as Ctrl-C does: readers of files let this exception through.

    All but finalisers do: of what is raised in one, Python tells its hook alone, and goes on. Then the exception
    comes once more, a moment later.
    """

    def __enter__(self) -> Self:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        self._again: threading.Timer | None = None
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._again:
            self._again.cancel()
        sys.unraisablehook = self._hook
        self.restore()

    def _lost(self, unraisable: Any) -> None:
        if self.asked is None or not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._hook(unraisable)
            return
        self.listen()
        self._again = threading.Timer(0.05, signal.raise_signal, (self.asked,))
        self._again.start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        raise KeyboardInterrupt


@contextmanager
def stopping_at_once(told: str) -> Iterator[None]:
    """End the process with one line when a signal comes; for work that may be cut off anywhere.

    Args:
        told: the line, which goes to stderr.

    Raises:
        SystemExit: SIGTERM or Ctrl-C asked for it.
    """
    with _StopAtOnce() as stop:
        try:
            yield
        except KeyboardInterrupt:
            if stop.asked is None:
                raise
            print(told, file=sys.stderr, flush=True)
            sys.exit(StopAskedError(stop.asked).status)
