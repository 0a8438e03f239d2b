"""A picture every few iterations of a training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from ignite.engine import Engine, Events
from PIL import Image

from pig_monai.files import atomic_path
from pig_monai.training.events import tell_picture
from pig_monai.training.interrupt import stopping


class Pictures(ABC):
    """Draws ``<iteration>.png`` every ``interval`` iterations and at the end.

    Args:
        folder: for the pictures.
        interval: iterations between two pictures; 0 draws none.
    """

    def __init__(self, folder: str | Path, interval: int) -> None:
        self.folder = Path(folder)
        self.interval = interval
        self.last: int | None = None

    @abstractmethod
    def draw(self) -> Image.Image:
        """Return the picture of the present weights."""

    def attach(self, engine: Engine) -> None:
        """Listen for every ``interval`` iterations and for the end."""
        if self.interval:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)
            engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw, unless this iteration's was drawn or the training was asked to stop."""
        if engine.state.iteration == self.last or stopping(engine):
            return
        self.last = engine.state.iteration
        path = self.folder / f"{engine.state.iteration:08d}.png"
        picture = self.draw()
        with atomic_path(path) as scratch:
            picture.save(scratch)
        tell_picture(engine, picture)
