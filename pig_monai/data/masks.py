"""Masks: which file belongs to which image, and how the pixels of a mask are read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import nibabel as nib
import numpy as np

from pig_monai.data.bounding import Box, bounding_box, within
from pig_monai.data.images import NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix, read_image, stem
from pig_monai.data.seg import SegmentationMask
from pig_monai.data.unpacking import GzipStream
from pig_monai.data.volume import GRID_REMEDY, Grid, MaskSource, UnusableError

NRRD_SUFFIXES = (".nrrd",)

T = TypeVar("T")

_TOLERANCE = 0.5  # voxels, at the corner that is farthest off


def match_masks(
    images: Sequence[PurePosixPath], masks: Iterable[PurePosixPath]
) -> tuple[dict[PurePosixPath, list[PurePosixPath]], list[PurePosixPath]]:
    """Find each mask's image by name.

    A mask belongs to the image whose stem it has, or whose stem followed by ``_``, ``-`` or ``.`` it starts
    with; the longest stem wins. Of equal stems in several folders, the one in the mask's own folder wins.

    Args:
        images: paths relative to the folder of images.
        masks: paths relative to the folder of masks.

    Returns:
        image → its masks in order, and the masks that fit none or several images.
    """
    by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
    for image in images:
        by_stem[stem(image)].append(image)
    matched: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    unmatched = []
    for mask in sorted(masks):
        candidates = list(with_longest_stem(by_stem, stem(mask)))
        if len(candidates) > 1:
            candidates = [image for image in candidates if image.parent == mask.parent]
        if len(candidates) == 1:
            matched[candidates[0]].append(mask)
        else:
            unmatched.append(mask)
    return dict(matched), unmatched


def with_longest_stem(by_stem: Mapping[str, Sequence[T]], mask: str) -> Sequence[T]:
    """Return what the stem of a mask names: all of it or, else, its longest part before ``_``, ``-`` or ``.``."""
    ends = [len(mask), *reversed([found.start() for found in re.finditer(r"[_.\-]", mask)])]
    return next((by_stem[mask[:end]] for end in ends if mask[:end] in by_stem), [])


def open_masks(paths: Sequence[Path], grid: Grid, volumetric: bool) -> MaskSource:
    """Open the masks of one volume or image; several are merged.

    Args:
        paths: at least one file.
        grid: the volume's or image's.
        volumetric: whether they belong to a volume (NIfTI, NRRD, DICOM segmentation; a picture where the volume
            has one frame) or to an image.

    Raises:
        UnusableError: a mask cannot be read, or its grid is not the volume's.
    """
    return MergedMasks([_open_volume_mask(path, grid) if volumetric else ImageMask(path, grid) for path in paths])


def _open_volume_mask(path: Path, grid: Grid) -> MaskSource:
    if has_suffix(path, NIFTI_SUFFIXES):
        return VolumeMask("NIfTI", lambda: _read_nifti(path), grid)
    if has_suffix(path, NRRD_SUFFIXES):
        return VolumeMask("NRRD", lambda: _read_nrrd(path), grid)
    if not has_suffix(path, PICTURE_SUFFIXES):
        return SegmentationMask(path, grid)
    if grid.size[2:] != (1,):
        raise UnusableError(
            f"the mask is a picture that names none of the volume's {grid.size[2]} slices",
            "name each picture <stem>_<number>, or <number> in a folder with the stem",
        )
    return ImageMask(path, grid)


class MergedMasks:
    """The union of masks on one grid."""

    def __init__(self, sources: Sequence[MaskSource]) -> None:
        self.sources = sources

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows)."""
        return reduce(np.logical_or, (source.mask(index) for source in self.sources))


class RememberedMasks:
    """Masks of which each slice is read once and then kept, in one bit a pixel of the box around what it holds.

    Who looks through a volume first and takes some of its slices afterwards would unpack a compressed file twice.
    """

    def __init__(self, source: MaskSource, shape: tuple[int, ...]) -> None:
        self.source = source
        self.shape = shape
        self._kept: dict[int, tuple[Box, np.ndarray] | None] = {}  # None where there is nothing

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows)."""
        if index not in self._kept:
            mask = self.source.mask(index)
            box = bounding_box(mask)
            self._kept[index] = (box, np.packbits(mask[within(box)])) if box else None
            return mask
        mask = np.zeros(self.shape, bool)
        kept = self._kept[index]
        if kept is not None:
            part = mask[within(kept[0])]
            part[...] = np.unpackbits(kept[1], count=part.size).reshape(part.shape)
        return mask


class ImageMask:
    """The mask of a single image: PNG, JPEG or TIFF, or a NIfTI of one slice.

    Raises:
        UnusableError: it cannot be read, or its grid is not the image's.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        try:
            pixels, affine = read_image(path)
        except UnusableError as cause:
            raise UnusableError(f"mask: {cause.reason}", cause.remedy, cause.detail) from cause
        own = Grid((pixels.shape[0], pixels.shape[1], 1), affine)
        if not same_place(own, grid):
            raise UnusableError(f"the mask's grid is {own}, the image's {grid}", GRID_REMEDY)
        self.pixels = pixels > (0.5 if affine is not None else mask_threshold(pixels))  # NIfTI holds labels

    def mask(self, index: int) -> np.ndarray:
        """Return the mask: bool (columns, rows); an image has frame 0 only."""
        return self.pixels


def mask_threshold(pixels: np.ndarray) -> float:
    """Return the value above which a pixel of a picture belongs to the mask.

    0 where the largest value is 1; 127 in 8 bits, since JPEG smears the edge; half of the largest value in more
    bits; 0.5 for numbers with a fraction (probabilities).
    """
    if pixels.dtype.kind == "f":
        return 0.5
    top = float(pixels.max())
    if top <= 1:
        return 0.0
    return 127.0 if pixels.dtype == np.uint8 else top / 2


class VolumeMask:
    """A NIfTI or NRRD mask of a volume, matched by geometry and read one slice at a time.

    Flipped or permuted axes are put right. Where the volume has no geometry the shapes must agree.

    Args:
        format: what the file is, for messages.
        read: reads it as a NIfTI image.
        grid: the volume's.

    Raises:
        UnusableError: it cannot be read, or its grid is not the volume's.
    """

    def __init__(self, format: str, read: Callable[[], Any], grid: Grid) -> None:
        self.format = format
        try:
            self.image = read()
            given = _grid(self.image)
            if grid.affine is not None and len(given.size) == 3 and not same_place(given, grid):
                turn = nib.io_orientation(np.linalg.inv(grid.affine) @ self.image.affine)
                self.image = self.image.as_reoriented(turn)
        except Exception as cause:
            raise self._unreadable(cause) from cause
        if not same_place(_grid(self.image), grid):
            raise UnusableError(f"the mask's grid is {given}, the volume's {grid}", GRID_REMEDY)
        self._nothing = np.zeros(grid.size[:2], bool)  # one for most slices: new memory takes time
        self._nothing.flags.writeable = False

    def mask(self, index: int) -> np.ndarray:
        """Return the mask of frame ``index``: bool (columns, rows)."""
        try:
            values = np.asarray(self.image.dataobj[..., index])
            if not values.any():
                return self._nothing
            return values > (0.5 if values.dtype.kind == "f" else 0)  # whole numbers as they are: it takes less
        except Exception as cause:
            raise self._unreadable(cause) from cause

    def _unreadable(self, cause: Exception) -> UnusableError:
        reason = f"the mask cannot be read as {self.format} ({type(cause).__name__})"
        return UnusableError(reason, "save the mask again", str(cause))


def _read_nifti(path: Path) -> Any:
    image: Any = nib.load(path)
    if has_suffix(path, (".gz",)):
        image = type(image).from_stream(GzipStream(path))  # which stays open: slices in order are unpacked once
    return nib.squeeze_image(image) if image.shape[3:] == (1,) else image


def _read_nrrd(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813 (the name its manual gives it); few need it, and it is slow to import

    image = sitk.ReadImage(str(path), imageIO="NrrdImageIO")
    labels = np.asarray(sitk.GetArrayViewFromImage(image) > 0.5)
    if image.GetNumberOfComponentsPerPixel() > 1:  # 3D Slicer's layers, for segments that overlap
        labels = np.asarray(labels.any(axis=-1))
    affine = np.eye(4)
    dimensions = image.GetDimension()
    affine[:dimensions, :dimensions] = np.reshape(image.GetDirection(), (dimensions, -1)) * image.GetSpacing()
    affine[:dimensions, 3] = image.GetOrigin()
    # ITK counts to the left and to the back, NIfTI to the right and to the front
    return nib.Nifti1Image(labels.T.astype(np.uint8), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _grid(image: Any) -> Grid:
    return Grid(tuple(int(n) for n in image.shape), np.asarray(image.affine, dtype=float))


def same_place(one: Grid, other: Grid) -> bool:
    """Whether two grids are the same: equal sizes, and corners that agree within half a voxel.

    A grid without geometry is compared by its size.
    """
    if one.size != other.size:
        return False
    if one.affine is None or other.affine is None:
        return True
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in one.size], [1], indexing="ij")).reshape(4, -1)
    apart = np.linalg.inv(other.affine) @ one.affine @ corners - corners
    return bool(np.abs(apart).max() <= _TOLERANCE)
