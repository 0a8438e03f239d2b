"""A procedural breast phantom: arrays that look like tomosynthesis slices, with masses and their masks.

It is made so that every command can be tried and tested without patient data. Nothing about patients follows
from it: the shapes and grey values are drawn by hand, not fitted to anyone.

Everything here is in the canonical display of a breast: (frames, rows, columns), chest wall to the left. Lengths
are millimetres: x grows from the chest wall towards the nipple, y down the image from the middle of the field,
z along the X-ray beam from the middle of the breast. `pig_monai.data.phantom_dicom` mirrors right breasts and
places the volume in the patient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.fft
import scipy.ndimage

VIEWS = ("lcc", "lmlo", "rcc", "rmlo")
MARGINS = ("round", "lobulated", "spiculated")

# The field is never smaller than this, so a breast always fits, whatever the number of pixels.
FIELD_HEIGHT_MM, FIELD_WIDTH_MM = 192.0, 128.0

# Stored values (12 bits), set by eye beside one clinical slice.
FAT, FIBROGLANDULAR, PECTORAL = 1180.0, 1640.0, 1760.0
CONTRAST_UNIT = 500.0  # how much brighter than fibroglandular tissue a mass of contrast 1 is
STORED_MAX = 4095

HALF_ANGLE = math.radians(25)  # of the tomosynthesis sweep: the wider, the thinner a slice


@dataclass(frozen=True)
class Grid:
    """The voxel grid of one volume: its shape, and the distances between frames and between pixels in mm."""

    frames: int
    rows: int
    columns: int
    frame_mm: float
    pixel_mm: float

    @cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The voxel centres: x (columns,), y (rows,) and z (frames,) in mm, float32."""
        x = (np.arange(self.columns) + 0.5) * self.pixel_mm
        y = (np.arange(self.rows) + 0.5 - self.rows / 2) * self.pixel_mm
        z = (np.arange(self.frames) + 0.5 - self.frames / 2) * self.frame_mm
        return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


@dataclass(frozen=True)
class Lesion:
    """One mass of a patient, the same in every view of its breast."""

    side: str  # l or r
    anterior: float  # distance from the chest wall, mm
    lateral: float  # position across the uncompressed breast, −1 (medial) to 1 (lateral)
    superior: float  # the same, −1 (inferior) to 1 (superior)
    radius_mm: float  # mean radius of the outline, in plane
    margin: str  # one of MARGINS
    contrast: float  # brightness above fibroglandular tissue in units of CONTRAST_UNIT; 0 cannot be seen

    def centre(self, patient: Patient, view: str) -> tuple[float, float, float]:
        """Return (x, y, z) in a view, mm.

        CC looks from above, MLO at 45° from above and medial; both squash the round uncompressed breast to the
        compressed half height and thickness.
        """
        down, along = -self.lateral, -self.superior
        if view.endswith("mlo"):
            down, along = (down + along) / math.sqrt(2), (along - down) / math.sqrt(2)
        return self.anterior, nipple_y(view) + down * patient.half_height_mm, along * patient.thickness_mm / 2


@dataclass(frozen=True)
class Patient:
    """What all views of a patient share."""

    seed: int
    index: int
    views: tuple[str, ...]  # some of VIEWS
    density: float  # fibroglandular fraction, 0 to 1
    beta: float  # exponent of the texture's power spectrum
    depth_mm: float  # chest wall to skin
    half_height_mm: float  # of the compressed breast in CC
    thickness_mm: float  # of the compressed breast
    lesions: tuple[Lesion, ...] = ()


def draw_patient(
    seed: int, index: int, views: tuple[str, ...] | None = None, contrast: float | None = None
) -> Patient:
    """Draw one patient, the same whatever the size of the set.

    Of any five patients in a row one has no mass, one has two and three have one.

    Args:
        seed: seed of the whole set, 0 or more.
        index: number of the patient in the set, from 0.
        views: some of `VIEWS`; by default CC and MLO of one breast, and of both for every fourth patient.
        contrast: of every mass; drawn from 0.9 to 1.3 for each by default.
    """
    rng = np.random.default_rng([seed, index])
    side = "lr"[int(rng.integers(2))]
    if views is None:
        views = VIEWS if index % 4 == 3 else (f"{side}cc", f"{side}mlo")
    patient = Patient(
        seed=seed,
        index=index,
        views=views,
        density=float(rng.choice([0.12, 0.3, 0.5, 0.72])),  # BI-RADS a to d
        beta=float(rng.uniform(2.7, 3.3)),
        depth_mm=float(rng.uniform(72, 98)),
        half_height_mm=float(rng.uniform(58, 74)),
        thickness_mm=float(rng.uniform(44, 60)),
    )
    sides = sorted({view[0] for view in views})
    for _ in range((1, 2, 1, 0, 1)[(index + seed) % 5]):
        lesion = _place_lesion(patient, sides[int(rng.integers(len(sides)))], contrast, rng)
        patient = replace(patient, lesions=(*patient.lesions, lesion))
    return patient


def _place_lesion(patient: Patient, side: str, contrast: float | None, rng: np.random.Generator) -> Lesion:
    """Draw a mass that lies clear of skin, muscle and the other masses in CC and MLO alike."""
    radius, margin = float(rng.uniform(6, 14)), MARGINS[int(rng.integers(len(MARGINS)))]
    drawn_contrast = float(rng.uniform(0.9, 1.3))
    coarse = Grid(1, 200, 120, 1.0, 1.0)
    room = {side + kind: outline(patient, side + kind, coarse).clearance for kind in ("cc", "mlo")}
    while True:
        turn, reach = rng.uniform(0, 2 * math.pi), 0.55 * math.sqrt(rng.uniform())
        lesion = Lesion(
            side=side,
            anterior=patient.depth_mm * float(rng.uniform(0.25, 0.75)),
            lateral=reach * math.cos(turn),
            superior=reach * math.sin(turn),
            radius_mm=radius,
            margin=margin,
            contrast=drawn_contrast if contrast is None else contrast,
        )
        if all(_fits(lesion, patient, view, clearance) for view, clearance in room.items()):
            return lesion
        radius = max(4.0, radius * 0.997)  # a small breast may have no room for a large mass


def _fits(lesion: Lesion, patient: Patient, view: str, clearance: np.ndarray) -> bool:
    """Whether the mass is well inside; ``clearance`` is `Outline.clearance` on a grid of 1 mm."""
    x, y, z = centre = lesion.centre(patient, view)
    needed = 1.3 * lesion.radius_mm + 5
    if min(x, clearance[int(y + clearance.shape[0] / 2), int(x)]) < needed:
        return False
    if abs(z) + lesion.radius_mm > patient.thickness_mm / 2:
        return False
    return all(
        math.dist(centre, other.centre(patient, view)) > 1.5 * (lesion.radius_mm + other.radius_mm) + 4
        for other in patient.lesions
        if other.side == lesion.side
    )


@dataclass(frozen=True)
class Outline:
    """The breast in one view, distances in mm."""

    to_skin: np.ndarray  # (rows, columns) to the air, 0 outside the breast
    pectoral_edge: np.ndarray  # (rows,) width of the muscle at the chest wall, 0 or less without one
    clearance: np.ndarray  # (rows, columns) to the air or the muscle, whichever is nearer


def nipple_y(view: str) -> float:
    """Return the nipple's height in a view, mm below the middle of the field."""
    return 0.0 if view.endswith("cc") else 24.0


def outline(patient: Patient, view: str, grid: Grid) -> Outline:
    """Draw the skin line and, in MLO, the pectoral muscle."""
    rng = np.random.default_rng([patient.seed, patient.index, VIEWS.index(view), 1])
    x, y, _ = grid.axes
    width = _breast_width(patient, view, y, rng)
    edge = np.full_like(y, -1.0)
    if view.endswith("mlo"):
        top, reach = rng.uniform(27, 38), rng.uniform(105, 130)
        fall = np.clip((y + FIELD_HEIGHT_MM / 2) / reach, -0.2, None)
        edge = top * (1 - fall - 0.25 * fall * (fall - 1))
    inside = x < width[:, None]
    to_skin, clearance = (
        scipy.ndimage.distance_transform_edt(region, sampling=grid.pixel_mm).astype(np.float32)
        for region in (inside, inside & (x > edge[:, None]))
    )
    return Outline(to_skin, edge, clearance)


def _breast_width(patient: Patient, view: str, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the distance from the chest wall to the skin for each height ``y``, mm."""

    def dome(t: np.ndarray) -> np.ndarray:
        return np.sqrt(np.clip(1 - np.abs(t) ** 2.2, 0, None))

    half, nipple = patient.half_height_mm, nipple_y(view)
    upper, lower = dome((y - nipple) / half), half
    if view.endswith("mlo"):  # towards the axilla the breast narrows and widens again, but does not end
        axilla = rng.uniform(0.45, 0.6)
        t = np.clip((nipple - y) / rng.uniform(80, 95), 0, None)
        upper = axilla + (1 - axilla) * 0.5 * (1 + np.cos(np.pi * np.minimum(t, 1)))
        upper += rng.uniform(0.4, 1.2) * np.maximum(t - 0.9, 0) ** 2
        lower = min(0.92 * half, FIELD_HEIGHT_MM / 2 - nipple - 6)
    width = patient.depth_mm * np.where(y < nipple, upper, dome((y - nipple) / lower))
    waves = sum(np.sin(2 * np.pi * (y / length + rng.uniform())) for length in (55.0, 90.0))
    bump = rng.uniform(3.5, 6) * np.exp(-(((y - nipple) / 4.5) ** 4))  # the nipple, in profile
    return np.where(width > 0, width * (1 + 0.008 * waves) + bump, 0.0)


def power_law_frames(
    grid: Grid, laws: Sequence[tuple[float, float]], elongation: float, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield, frame after frame, random fields with the power spectrum 1/f^β of breast tissue.

    Each frame's two-dimensional spectrum is an exact power law from the longest wave down to the pixel. From
    frame to frame a wave of frequency f fades with exp(−Δz / ℓ), ℓ = 1 / (4 f tan θ), because a sweep of ±θ
    smears what is w wide over w / (2 tan θ): large structures reach through many slices, fine ones through few.

    Args:
        grid: the grid; one frame's spectrum is held in memory, never a volume.
        laws: (β, longest wave in mm) of each field; the fields of a frame come from the same noise.
        elongation: how much longer structures are along x (towards the nipple) than along y.
        rng: the source of the noise.

    Yields:
        a tuple of (rows, columns) float32 fields of mean 0 and variance 1.
    """
    shape = (scipy.fft.next_fast_len(grid.rows, real=True), scipy.fft.next_fast_len(grid.columns, real=True))
    fy = np.fft.fftfreq(shape[0], grid.pixel_mm)[:, None] / math.sqrt(elongation)
    fx = np.fft.rfftfreq(shape[1], grid.pixel_mm)[None] * math.sqrt(elongation)
    frequency = np.hypot(fx, fy)
    amplitudes = [_amplitude(frequency, *law, shape) for law in laws]
    keep = np.exp(-grid.frame_mm * 4 * frequency * math.tan(HALF_ANGLE)).astype(np.float32)
    renew = np.sqrt(1 - keep**2)

    def noise() -> np.ndarray:
        return scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))

    spectrum = noise()
    for frame in range(grid.frames):
        if frame:
            spectrum = keep * spectrum + renew * noise()
        yield tuple(scipy.fft.irfft2(spectrum * a, s=shape)[: grid.rows, : grid.columns] for a in amplitudes)


def _amplitude(frequency: np.ndarray, beta: float, longest_mm: float, shape: tuple[int, int]) -> np.ndarray:
    """Return the filter that turns white noise of variance 1 into power-law noise of variance 1."""
    lowest = 1 / longest_mm
    amplitude = np.maximum(frequency, lowest) ** (-beta / 2) * (frequency >= lowest)
    multiplicity = np.full(frequency.shape[1], 2.0)  # a real field's half spectrum stands for both halves
    multiplicity[0] = 1
    if shape[1] % 2 == 0:
        multiplicity[-1] = 1
    return (amplitude / np.sqrt((amplitude**2 * multiplicity).sum() / math.prod(shape))).astype(np.float32)


@dataclass(frozen=True)
class _Layer:
    """A mass on a box of the grid: how much of it each voxel holds (0 to 1), and its contour."""

    box: tuple[slice, slice]
    contrast: float
    share: np.ndarray
    contour: np.ndarray

    def paint(self, frame: int, image: np.ndarray) -> None:
        """Change ``image`` in place: what lies inside becomes even tissue, then brighter."""
        share, patch = self.share[frame], image[self.box]
        patch += 0.8 * min(self.contrast, 1.0) * share * (FIBROGLANDULAR - patch)
        patch += self.contrast * CONTRAST_UNIT * share


def _draw_lesion(
    lesion: Lesion, centre: tuple[float, float, float], grid: Grid, rng: np.random.Generator
) -> _Layer:
    """Render one mass: a star-shaped body, blurred along the beam, and its contour at half its peak."""
    x, y, z = grid.axes
    reach = 2.6 * lesion.radius_mm
    columns = slice(*np.searchsorted(x, (centre[0] - reach, centre[0] + reach)))
    rows = slice(*np.searchsorted(y, (centre[1] - reach, centre[1] + reach)))
    steps = math.ceil(grid.frame_mm) | 1  # drawn at ≤ 1 mm along z, blurred, and then sampled at the frames
    step_mm = grid.frame_mm / steps
    fine_z = z[0] + (np.arange(grid.frames * steps, dtype=np.float32) - steps // 2) * np.float32(step_mm)
    dx, dy = x[None, columns] - centre[0], y[rows, None] - centre[1]
    full, base = _outline_radius(lesion, np.arctan2(dy, dx), rng)
    from_axis = np.hypot(dx, dy)
    depth = (np.abs(fine_z - centre[2]) / (0.8 * lesion.radius_mm))[:, None, None]  # compression flattens it
    fade = np.exp(-np.clip(from_axis - base, 0, None) / (0.6 * lesion.radius_mm))  # of spicules towards their tips
    softness = {"round": 0.6, "lobulated": 0.7, "spiculated": 1.0}[lesion.margin]
    blur_mm = float(np.clip(0.35 * lesion.radius_mm, 2.0, 4.0))

    def render(radius: np.ndarray) -> np.ndarray:
        # A rounded barrel, not a ball: out of plane a mass fades in tomosynthesis more than it shrinks.
        outside_mm = (((from_axis / radius) ** 4 + depth**4) ** 0.25 - 1) * radius
        body = fade / (1 + np.exp(np.clip(outside_mm / softness, -30, 30)))
        blurred = scipy.ndimage.gaussian_filter1d(body, blur_mm / step_mm, axis=0, mode="constant")
        return blurred[steps // 2 :: steps]

    contour = render(base)
    return _Layer((rows, columns), lesion.contrast, render(full), contour >= 0.5 * contour.max())


def _outline_radius(lesion: Lesion, angle: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the outline's radius in each in-plane direction, mm: with whole spicules, and with their bases."""
    wobble = np.zeros_like(angle)
    for order in (2, 3, 4):
        wobble += 0.03 * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    if lesion.margin == "lobulated":  # a few uneven bulges that meet in notches
        lobes, turn = int(rng.integers(3, 6)), rng.uniform(0, 2 * np.pi)
        uneven = angle + 0.35 * np.sin(angle + rng.uniform(0, 2 * np.pi))
        wobble += rng.uniform(0.2, 0.35) * (np.abs(np.cos(lobes * (uneven - turn) / 2)) - 0.65)
    radius = lesion.radius_mm * (1 + wobble)
    if lesion.margin != "spiculated":
        return radius, radius
    count = int(rng.integers(11, 18))
    spicules = np.zeros_like(angle)
    for number in range(count):
        direction = 2 * np.pi * (number + rng.uniform(-0.5, 0.5)) / count
        off = np.abs((angle - direction + np.pi) % (2 * np.pi) - np.pi)
        spicules += rng.uniform(0.3, 1.6) * np.exp(-off / rng.uniform(0.05, 0.1))
    core = 0.88 * radius
    return core + lesion.radius_mm * spicules, core + lesion.radius_mm * np.minimum(spicules, 0.15)


class _Tissue:
    """Fat, fibroglandular tissue, skin and muscle of one view, painted frame by frame."""

    def __init__(self, patient: Patient, view: str, grid: Grid) -> None:
        self.grid, self.density = grid, patient.density
        self.outline = outline(patient, view, grid)
        x, y, _ = grid.axes
        depth, to_skin = patient.depth_mm, self.outline.to_skin
        across = (y[:, None] - nipple_y(view)) / (0.72 * patient.half_height_mm)
        off_centre = np.hypot((x - 0.52 * depth) / (0.42 * depth), across)
        # Glandular tissue gathers behind the nipple and keeps some mm of fat between itself and the skin.
        self.gland_prior = 1.6 * (1 - off_centre**2) - 2.5 * (1 - np.clip((to_skin - 3) / 9, 0, 1))
        # The breast thins out towards its edge; the skin itself is 1.5 mm of brighter rim.
        self.ground = FAT - 190 * np.exp(-to_skin / 7) + 170 * np.exp(-((to_skin / 1.5) ** 2))
        self.threshold: float | None = None

    def paint(self, frame: int, texture: np.ndarray, strands: np.ndarray) -> np.ndarray:
        """Return one frame in stored values, (rows, columns), without masses and noise."""
        gland = self.gland_prior + texture
        if self.threshold is None:
            self.threshold = float(np.quantile(gland[self.outline.to_skin > 8], 1 - self.density))
        share = 1 / (1 + np.exp(-(gland - self.threshold) / 0.6))
        ligaments = np.exp(-((strands / 0.12) ** 2))  # thin lines where a smooth field changes sign
        image = self.ground + (FIBROGLANDULAR - FAT) * share + 70 * texture + 130 * ligaments
        edge = self.outline.pectoral_edge[:, None] + 0.06 * self.grid.axes[2][frame]
        muscle = 1 / (1 + np.exp(np.clip((self.grid.axes[0] - edge) / 0.7, -30, 30)))
        return image + muscle * (PECTORAL + 50 * texture - image)


@dataclass(frozen=True)
class PhantomVolume:
    """One view of a patient."""

    pixels: np.ndarray  # (frames, rows, columns) uint16, 0 to 4095, exactly 0 outside the breast
    mask: np.ndarray  # the same shape, uint8, 1 in a mass
    grid: Grid
    lesions: tuple[tuple[Lesion, tuple[float, float, float]], ...]  # with their centres (x, y, z) in mm


def render_volume(patient: Patient, view: str, frames: int, rows: int, columns: int) -> PhantomVolume:
    """Render one view of a patient.

    Args:
        patient: from `draw_patient`.
        view: one of `VIEWS`.
        frames: slices through the whole thickness of the breast.
        rows: pixels down a slice; the field is at least `FIELD_HEIGHT_MM` high.
        columns: pixels across; the field is at least `FIELD_WIDTH_MM` wide.
    """
    pixel_mm = round(max(FIELD_HEIGHT_MM / rows, FIELD_WIDTH_MM / columns), 5)
    grid = Grid(frames, rows, columns, round(patient.thickness_mm / frames, 3), pixel_mm)
    rng = np.random.default_rng([patient.seed, patient.index, VIEWS.index(view), 2])
    lesions = tuple((le, le.centre(patient, view)) for le in patient.lesions if le.side == view[0])
    layers = [_draw_lesion(lesion, centre, grid, rng) for lesion, centre in lesions]
    tissue = _Tissue(patient, view, grid)
    pixels = np.zeros((frames, rows, columns), np.uint16)
    mask = np.zeros((frames, rows, columns), np.uint8)
    laws = (patient.beta, 60.0), (5.0, 22.0)  # longer waves would look like uneven exposure
    for frame, fields in enumerate(power_law_frames(grid, laws, elongation=1.5, rng=rng)):
        image = tissue.paint(frame, *fields)
        for layer in layers:
            layer.paint(frame, image)
            mask[frame][layer.box] |= layer.contour[frame]
        image += 12 * rng.standard_normal(image.shape, dtype=np.float32)
        stored = np.clip(np.rint(image), 1, STORED_MAX)
        pixels[frame] = np.where(tissue.outline.to_skin > 0, stored, 0)
    return PhantomVolume(pixels, mask, grid, lesions)
