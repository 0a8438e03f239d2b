"""What the report shows of the slices themselves, each of which is read once: intensities and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pig_monai.choosing import spread_evenly
from pig_monai.data.fitting import BACKGROUND
from pig_monai.data.folder import Entry, read_label, read_slice
from pig_monai.pictures import tile

SAMPLED = 100
"""Slices that the histogram of intensities is made of, spread evenly over the dataset."""
SHOWN = 24
"""Slices in the contact sheet, spread evenly over the dataset."""
THUMBNAIL = 176
"""Pixels of their sides, at most: about as they are shown, so that the outlines stay clear."""

_EDGES = np.linspace(-1, 1, 41)


def look_at_slices(
    dataset_dir: Path, entries: Sequence[Entry]
) -> tuple[dict[str, Any], list[tuple[Entry, Image.Image]]]:
    """Read some slices of a dataset.

    Args:
        dataset_dir: the dataset folder; the slices that ``entries`` name exist.
        entries: of the datalist.

    Returns:
        ``report.json``'s block ``intensities``, a histogram of the prepared values without the background (−1);
        and (entry, picture with its mask outlined) for each tile of the contact sheet.
    """
    sampled, shown = (set(spread_evenly(range(len(entries)), count)) for count in (SAMPLED, SHOWN))
    counts, top, pixels = np.zeros(len(_EDGES) - 1, np.int64), 0, 0
    tiles = []
    for number in sorted(sampled | shown):
        entry = entries[number]
        image = read_slice(dataset_dir / entry["image"])
        if number in sampled:
            inside = image[image > BACKGROUND]
            counts += np.histogram(inside, _EDGES)[0]
            top += int((inside >= 1).sum())
            pixels += inside.size
        if number in shown:
            mask = read_label(dataset_dir / entry["label"]) if "label" in entry else None
            tiles.append((entry, tile(image, mask, min(1.0, THUMBNAIL / max(image.shape)))))
    intensities = {
        "slices": len(sampled),
        "edges": [round(float(edge), 3) for edge in _EDGES],
        "counts": counts.tolist(),
        "share_at_upper_limit": round(top / pixels, 4) if pixels else None,
    }
    return intensities, tiles
