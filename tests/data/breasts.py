"""Slices constructed around a breast whose bounding box is known, with what else is found in slices."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

REAL = Path(os.environ.get("PIG_TEST_DATA", "/nowhere"))
REAL_SLICE = REAL / "dbt_slice/selenia_rmlo_slice_12bit.png"
MAMMOGRAMS = REAL / "cdd_cesm_dm"

SHAPE = (945, 1228)
"""(W, H): half a common frame."""

Box = tuple[int, int, int, int]
Artefact = Callable[[np.ndarray], None]


def breast(
    shape: tuple[int, int] = SHAPE,
    across: float = 0.6,
    tall: float = 0.8,
    centre: float = 0.5,
    dense: float = 0.5,
    level: float = 600.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a breast with its chest wall at the left edge.

    Args:
        shape: (W, H).
        across: how far it reaches, in parts of W.
        tall: its height, in parts of H; above 1 it is cut off by the edges.
        centre: of its height, in parts of H.
        dense: how much of it is bright tissue.
        level: brightness of fat; dense tissue is up to twice as bright.
        seed: of the texture.

    Returns:
        the slice, float32 (W, H), 0 outside; and the truth, bool (W, H).
    """
    width, height = shape
    x, y = np.mgrid[:width, :height]
    radius = np.hypot((x + 0.5) / (across * width), (y + 0.5 - centre * height) / (tall * height / 2))
    truth = radius < 1
    coarse = np.random.default_rng(seed).normal(size=(width // 16 + 2, height // 16 + 2))
    texture = zoom(gaussian_filter(coarse, 2), 16, order=1)[:width, :height]
    tissue = np.clip(0.5 + (texture - np.quantile(texture, 1 - dense)) / texture.std() / 2, 0, 1)
    thickness = np.clip((1 - radius) / 0.1, 0.3, 1)  # thinner at the skin
    return np.where(truth, level * thickness * (1 + tissue), 0).astype(np.float32), truth


def box_of(truth: np.ndarray) -> Box:
    """Return (x0, y0, x1, y1) of what is True."""
    x, y = (np.flatnonzero(truth.any(axis=1 - axis)) for axis in (0, 1))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def text(x: int, y: int, letters: int = 4, height: int = 40, value: float = 4000.0) -> Artefact:
    """Burn letters in: a rectangle's outline, a bar and a stroke each, from (x, y) on to the right."""

    def burn(image: np.ndarray) -> None:
        pen = max(2, height // 7)
        for number in range(letters):
            left = x + number * height
            letter = image[left : left + height * 3 // 4, y : y + height]
            letter[:pen] = letter[:, :pen] = letter[-pen:] = value
            letter[:, height // 2 : height // 2 + pen] = value

    return burn


def block(x0: int, y0: int, x1: int, y1: int, value: float) -> Artefact:
    """Put a rectangle of one value over what is there, where that is darker."""

    def put(image: np.ndarray) -> None:
        image[x0:x1, y0:y1] = np.maximum(image[x0:x1, y0:y1], value)

    return put


def frame(width: int, value: float) -> Artefact:
    """Put a frame around the image."""

    def put(image: np.ndarray) -> None:
        for axis in (0, 1):
            for line in (*range(width), *range(-width, 0)):
                image.swapaxes(0, axis)[line] = value

    return put


def gradient(level: float, across: float, down: float) -> Artefact:
    """Add a background of this level at the middle, which rises by so much from edge to edge."""

    def add(image: np.ndarray) -> None:
        x, y = (np.linspace(-0.5, 0.5, n) for n in image.shape)
        image += (level + across * x[:, None] + down * y[None]).astype(np.float32)

    return add


def noise(sigma: float, seed: int = 1) -> Artefact:
    """Add Gaussian noise."""

    def add(image: np.ndarray) -> None:
        image += np.random.default_rng(seed).normal(0, sigma, image.shape).astype(np.float32)

    return add


def curved_line(value: float, thickness: float = 8) -> Artefact:
    """Draw the rounded edge of a compression paddle: across the whole image, bent towards its end."""

    def draw(image: np.ndarray) -> None:
        x, y = np.mgrid[: image.shape[0], : image.shape[1]]
        bend = image.shape[1] * (0.93 - 0.1 * (x / image.shape[0]) ** 4)
        image[np.abs(y - bend) < thickness / 2] = value

    return draw
