"""Image files as slices: PNG, JPEG, TIFF, and NIfTI of one slice."""

from __future__ import annotations

from pathlib import Path, PurePath

import nibabel as nib
import numpy as np
from PIL import Image

from pig_monai.data.volume import Grid, UnusableError, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *NIFTI_SUFFIXES)

_WHOLE_MODES = ("L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def has_suffix(path: PurePath, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name ends in one of ``suffixes``, in any case."""
    return path.name.lower().endswith(suffixes)


def stem(path: PurePath) -> str:
    """Return a file's name without its suffix; ``.nii.gz`` and ``.seg.nrrd`` (3D Slicer's) are one suffix each."""
    for double in (".nii.gz", ".seg.nrrd"):
        if has_suffix(path, (double,)):
            return path.name[: -len(double)]
    return path.stem


def open_image(path: Path) -> Volume:
    """Open an image file as a volume of one frame.

    NIfTI keeps its index order (index 0 the column, as prepared slices have it) and gives the spacing; pictures
    have none: their resolution tag is about printing.

    Raises:
        UnusableError: it cannot be read or holds several slices.
    """
    pixels, affine = read_image(path)
    spacing = None
    if affine is not None:
        sx, sy = (float(v) for v in np.linalg.norm(affine[:3, :2], axis=0))
        spacing = (sx, sy) if sx > 0 and sy > 0 else None
    frame = pixels.astype(np.float32)
    return Volume(Grid((frame.shape[0], frame.shape[1], 1), affine), spacing, lambda index: frame)


def read_image(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read an image's pixels and, for NIfTI, its affine.

    Returns:
        (columns, rows) as stored, colours turned into luminance; and 4 × 4 or None.

    Raises:
        UnusableError: it cannot be read, holds several slices, or values that are no numbers.
    """
    try:
        pixels, affine = _read_nifti(path) if has_suffix(path, NIFTI_SUFFIXES) else (_read_picture(path), None)
    except UnusableError:
        raise
    except Exception as cause:
        reason = f"the file cannot be read as an image ({type(cause).__name__})"
        raise UnusableError(reason, "export it again as PNG, TIFF or NIfTI", str(cause)) from cause
    if pixels.size == 0 or not np.isfinite(pixels).all():
        raise UnusableError("it holds values that are no numbers", "export it again")
    return pixels, affine


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        pages = getattr(picture, "n_frames", 1)
        if pages > 1:
            raise UnusableError(f"the file holds {pages} pages", "save one image a file")
        grey = picture if picture.mode in _WHOLE_MODES else picture.convert("L")
        return np.asarray(grey).T


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    shape = image.shape  # type: ignore[attr-defined]
    if len(shape) < 2 or any(n != 1 for n in shape[2:]):
        sizes = " × ".join(map(str, shape))
        raise UnusableError(f"the NIfTI holds {sizes} voxels, not one slice", "save one slice a file")
    pixels = np.asarray(image.dataobj).reshape(shape[:2])  # type: ignore[attr-defined]
    return pixels, np.asarray(image.affine, dtype=float)  # type: ignore[attr-defined]
