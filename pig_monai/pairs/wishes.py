"""What a user may wish of a generator, and whether it can hear it: pixel spacing and guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pig_monai.denoisers import LoadedDenoiser
from pig_monai.errors import PigError


def takes_spacing(generator: LoadedDenoiser) -> bool:
    """Whether a generator is told the pixel spacing."""
    return bool(generator.meta["network"]["name"] == "maisi")


def wished_spacing(generator: LoadedDenoiser, spacing: Sequence[float] | None) -> list[float] | None:
    """Return the spacing [x, y] in mm of the slices to come; None where the training set's is unknown.

    Raises:
        PigError: a wish that is no spacing, or one that the generator cannot hear.
    """
    if spacing is None:
        known: list[float] | None = generator.meta["spacing"]
        return known
    if not takes_spacing(generator):
        raise PigError(
            f"spacing is {spacing} and the generator's network is {generator.meta['network']['name']}",
            "leave spacing out, or train a generator that is told it (generator maisi)",
        )
    try:
        wished = [float(value) for value in spacing]
    except (TypeError, ValueError):
        wished = []
    if len(wished) != 2 or not all(0 < value < 100 for value in wished):
        raise PigError(f"spacing is {spacing!r}", 'give two numbers in mm, as in --spacing "[0.1, 0.1]"')
    return wished


def check_guidance(generator: LoadedDenoiser, guidance: float) -> None:
    """Refuse guidance of a generator that has never been shown a slice without its mask.

    Raises:
        PigError: it has not, or guidance is no number of at least 0.
    """
    if not isinstance(guidance, int | float) or not 0 <= guidance < 100:
        raise PigError(f"guidance is {guidance!r}", "give a number of at least 0; 1 is none")
    if guidance != 1 and not _knows_nothing(generator.meta):
        raise PigError(
            f"guidance is {guidance} and the generator was never shown a slice without its mask",
            "train it with mask_dropout 0.1 or so, or leave guidance at 1",
        )


def _knows_nothing(meta: Mapping[str, Any]) -> bool:
    """Whether a generator that is shown masks has been trained, or its base was, on slices without them."""
    settings = meta.get("settings", {})
    shown_masks = settings.get("condition", "mask") in ("mask", "guider")
    dropped = float(settings.get("mask_dropout", 0)) > 0
    return shown_masks and (dropped or meta.get("unlabelled", 0) > 0 or settings.get("base_sha256") is not None)
