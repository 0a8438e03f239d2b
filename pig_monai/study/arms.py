"""What segmenters are trained with: real slices in three ways, and real slices with so many pairs of a method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from monai.bundle import ConfigParser

from pig_monai.study.methods import Masks, Method
from pig_monai.study.settings import CONFIGS, Study


class Kind(Enum):
    """What an arm is for."""

    PLAIN = "real-plain"
    """Real slices without augmentation."""
    BASELINE = "real"
    """Real slices with the classical augmentation that every other arm has, too."""
    LONGER = "real-longer"
    """Real slices for as many steps as the arms with so many pairs take: their control."""
    PAIRS = "pairs"
    """Real slices and pairs."""


@dataclass(frozen=True)
class Arm:
    """A row of table 2, in one fold.

    Args:
        kind: what it is for.
        name: of its folder.
        title: for people.
        method: whose pairs; None for real slices alone.
        pairs: how many.
        as_long_as: of a control, the number of pairs of the arms that take as many steps.
        ids: of ``train.yaml``, by which it differs from the others.
    """

    kind: Kind
    name: str
    title: str
    method: Method | None = None
    pairs: int = 0
    as_long_as: int = 0
    ids: tuple[tuple[str, Any], ...] = ()


def arms(study: Study, fold: int) -> Iterator[Arm]:
    """Yield the arms of a fold, in the order of the table."""
    yield Arm(Kind.PLAIN, "real-plain", "real, no augmentation", ids=(("augment", False),))
    yield Arm(Kind.BASELINE, "real", "real")
    methods = [method for method in study.chosen if method.masks != Masks.NONE]
    if not methods:
        return
    for pairs in sorted(study.num_pairs):
        steps = training_steps(study, fold, pairs)
        ids = (("max_epochs", steps), ("max_iterations", steps))
        title = f"real, trained as long as with {pairs} pairs"
        yield Arm(Kind.LONGER, f"real-longer-{steps}", title, as_long_as=pairs, ids=ids)
    for method in methods:
        for pairs in sorted(study.num_pairs):
            yield Arm(Kind.PAIRS, f"{method.name}-{pairs}", f"real + {pairs} {method.name}", method, pairs)


def training_steps(study: Study, fold: int, pairs: int) -> int:
    """Return how many steps ``train.yaml`` takes with so many pairs, by its own split and defaults."""
    config = ConfigParser()
    config.read_config(CONFIGS / "train.yaml")
    config.update({**study.segmentation, "dataset_dir": str(study.dataset_dir), "fold": fold})
    slices = len(config.get_parsed_content("train#dataset#data")) + pairs
    batch, epochs, most = (
        int(config.get_parsed_content(name)) for name in ("batch_size", "max_epochs", "max_iterations")
    )
    return min(epochs * -(-slices // batch), most)
