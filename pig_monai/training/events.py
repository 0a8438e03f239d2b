"""How handlers tell each other what they found, without knowing each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, EventEnum
from PIL import Image


class TrainingEvents(EventEnum):
    """Fired in the middle of an iteration's handlers."""

    MEASURED = "measured"
    """There are new figures: `measured`."""
    PICTURED = "pictured"
    """There is a new picture: `pictured`."""


def _register(engine: Engine) -> None:
    if not engine.has_registered_events(TrainingEvents.MEASURED):
        engine.register_events(*TrainingEvents)


def listen(engine: Engine, event: TrainingEvents, handler: Any) -> None:
    """Call ``handler(engine)`` at the event."""
    _register(engine)
    engine.add_event_handler(event, handler)


def tell_figures(engine: Engine, figures: Mapping[str, float]) -> None:
    """Publish figures of this iteration.

    They stay out of ``engine.state.metrics``: MLflow's handler logs those by epoch, and the validation loss, which
    it has from the evaluator by iteration, would come twice.
    """
    _register(engine)
    _state(engine).measured = dict(figures)
    engine.fire_event(TrainingEvents.MEASURED)


def measured(engine: Engine) -> dict[str, float]:
    """Return the figures that were published last, by name."""
    figures: dict[str, float] = _state(engine).measured
    return figures


def tell_picture(engine: Engine, picture: Image.Image) -> None:
    """Publish a picture of this iteration."""
    _register(engine)
    _state(engine).picture = picture
    engine.fire_event(TrainingEvents.PICTURED)


def pictured(engine: Engine) -> Image.Image:
    """Return the picture that was published last."""
    picture: Image.Image = _state(engine).picture
    return picture


def _state(engine: Engine) -> Any:
    return engine.state  # takes any attribute, which its class does not say
