"""The two pictures of a pairs folder: many pairs side by side, and one from noise to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pig_monai.data.folder import read_label, read_slice
from pig_monai.files import atomic_path
from pig_monai.pairs.film_strip import film_strip
from pig_monai.pairs.sampler import Sampler
from pig_monai.pictures import contact_sheet, magnification

SHEET_PAIRS = 64
SHEET_TILE = 192  # pixels a side: small slices are enlarged by whole numbers, large ones shrunk


def draw_contact_sheet(folder: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write ``contact_sheet.png``: the first 64 pairs, masks outlined.

    Args:
        folder: the pairs folder.
        entries: of its datalist, at least one.
    """
    chosen = entries[:SHEET_PAIRS]
    slices = [read_slice(folder / entry["image"]) for entry in chosen]
    masks = [read_label(folder / entry["label"]) if "label" in entry else None for entry in chosen]
    scale = magnification(SHEET_TILE, len(slices[0]))
    with atomic_path(folder / "contact_sheet.png") as scratch:
        contact_sheet(slices, masks, columns=8, scale=scale).save(scratch)


def draw_film_strip(
    folder: Path, entries: Sequence[dict[str, Any]], sampler: Sampler, check: Callable[[], None]
) -> None:
    """Write ``film_strip.png`` of the first pair, where it is not there yet.

    The first pair stays the first however many follow, so the picture never has to be drawn anew.

    Args:
        folder: the pairs folder.
        entries: of its datalist, at least one.
        sampler: draws the pair once more.
        check: is called at every step; what it raises ends the drawing.
    """
    target = folder / "film_strip.png"
    if not target.exists():
        picture = film_strip(sampler, entries[0]["index"], check)
        with atomic_path(target) as scratch:
            picture.save(scratch)
