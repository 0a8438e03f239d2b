"""The dataset folder: `datalist.json` beside `images/` and `labels/`. Real slices and generated pairs share it.

The format is described in the README. This module is its one reader and its one writer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np

from pig_monai import __version__
from pig_monai.errors import PigError
from pig_monai.files import atomic_path, read_json, sha256, write_json

DATALIST = "datalist.json"
PREPARED = ".prepared"
"""Where a preparation keeps what it needs to continue."""
SETTINGS = f"{PREPARED}/settings.json"
ORIGINS = ("real", "phantom", "synthetic")
LABEL_KINDS = ("contour", "box")
LEVELS = 65535
_LEVEL = 3  # of gzip: half the time of 6, which saves another 1 % of the bytes

Entry = dict[str, Any]
Spacing = Sequence[float] | None

_REMEDY = "prepare the dataset with data_prep/dicom_to_slices.py or data_prep/images_to_slices.py"


def read_datalist(dataset_dir: str | Path) -> dict[str, Any]:
    """Read and check a dataset's ``datalist.json``.

    Returns:
        the file's content: ``name``, ``created_by``, ``seed``, ``preprocessing`` and ``training``, a list of
        entries with paths relative to the folder.

    Raises:
        PigError: names the file and, where one entry is at fault, its index and key.
    """
    path = Path(dataset_dir) / DATALIST
    if not path.exists():
        _refuse_shard(Path(dataset_dir))
    datalist = read_json(path, _REMEDY)
    if not isinstance(datalist, dict) or not isinstance(datalist.get("training"), list):
        raise PigError(f"{path} has no list 'training'", _REMEDY)
    if not isinstance(datalist.get("preprocessing", {}), dict):
        raise PigError(f"{path}#preprocessing is not a block of settings", _REMEDY)
    if not datalist["training"]:
        raise PigError(f"{path}#training is empty", _REMEDY)
    for index, entry in enumerate(datalist["training"]):
        _check_entry(path, index, entry)
    return datalist


def _refuse_shard(folder: Path) -> None:
    shard = shard_of(folder)
    if shard is not None:
        raise PigError(
            f"{folder} holds shard {shard} of a dataset and has no {DATALIST}",
            "merge the shards: the command that prepared it with --merge instead of --shard",
        )


def shard_of(folder: Path) -> str | None:
    """Return which part of a dataset a folder holds, as in ``2/8``; None where it is no shard."""
    if not (folder / SETTINGS).is_file():
        return None
    shard = read_json(folder / SETTINGS, _REMEDY).get("shard")
    return None if shard is None else str(shard)


def _check_entry(path: Path, index: int, entry: Any) -> None:
    where = f"{path}#training#{index}"
    if not isinstance(entry, dict):
        raise PigError(f"{where} is not an entry", "each entry is a block with image, patient and fold")
    for key, (required, fits, expected) in _ENTRY_KEYS.items():
        if key not in entry:
            if required:
                raise PigError(f"{where}#{key} is missing", f"it must be {expected}")
        elif not fits(entry[key]):
            raise PigError(f"{where}#{key} is {entry[key]!r}", f"it must be {expected}")
    for key in ("image", "label"):
        if key in entry and not (path.parent / entry[key]).is_file():
            raise PigError(f"{where}#{key}: {path.parent / entry[key]} does not exist", _REMEDY)


def _is_inner_path(value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_spacing(value: Any) -> bool:
    if value is None:
        return True
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and v > 0 for v in value)
    return numbers and len(value) == 2


def is_geometry(block: Any) -> bool:
    """Whether a block of an entry is a `pig_monai.data.geometry.Geometry`."""
    keys = {"source": 2, "crop": 4, "fitted": 2}
    if not isinstance(block, dict) or set(block) != {*keys, "turned", "mirrored"}:
        return False
    for key, count in keys.items():
        numbers = block[key]
        whole = isinstance(numbers, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        if not whole or len(numbers) != count:
            return False
    x0, y0, x1, y1 = block["crop"]
    inside = 0 <= x0 < x1 <= block["source"][0] and 0 <= y0 < y1 <= block["source"][1]
    return inside and min(block["fitted"]) > 0 and all(isinstance(block[k], bool) for k in ("turned", "mirrored"))


_ENTRY_KEYS = {
    "image": (True, _is_inner_path, "a path inside the dataset folder"),
    "label": (False, _is_inner_path, "a path inside the dataset folder, or left out"),
    "patient": (True, lambda v: isinstance(v, str) and v != "", "a text that identifies the patient"),
    "fold": (True, lambda v: _is_whole(v, -1), "a whole number, −1 for entries that every fold trains on"),
    "view": (False, lambda v: v is None or isinstance(v, str), "a text or null"),
    "laterality": (False, lambda v: v in ("L", "R", None), '"L", "R" or null'),
    "slice": (False, lambda v: _is_whole(v, 0), "a whole number from 0 on"),
    "spacing": (False, _is_spacing, "two positive numbers in mm, or null"),
    "origin": (False, lambda v: v in ORIGINS, f"one of {', '.join(ORIGINS)}"),
    "label_kind": (
        False,
        lambda v: v in LABEL_KINDS,
        f"one of {', '.join(LABEL_KINDS)}, or left out for contours",
    ),
    "rotated": (False, lambda v: isinstance(v, bool), "true for a slice turned by 180° first, or left out"),
    "geometry": (
        False,
        is_geometry,
        "what preparation says of how the slice was made, or left out",
    ),
    "lesion": (False, lambda v: isinstance(v, bool), "false for a label without a lesion, or left out"),
}


def has_lesion(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a labelled slice with a lesion: not a lesion-free one, not one that nobody labelled.

    This is the rule for what the diffusion trainings learn from; it does not open the label.
    """
    return "label" in entry and entry.get("lesion", True)


def training_entries(
    dataset_dir: str | Path, fold: int, labelled_only: bool = True, lesion_free: bool = False
) -> list[Entry]:
    """Return the entries to train on when ``fold`` is held out: by default those of `has_lesion`.

    Args:
        dataset_dir: the dataset folder.
        fold: held out; −1 holds nothing out. Entries whose own fold is −1 are always among the result.
        labelled_only: leave out entries without a label.
        lesion_free: take entries whose label is empty, too.

    Returns:
        copies of the entries, with absolute paths.

    Raises:
        PigError: no entry is left, or no entry has this fold.
    """
    entries = _absolute_entries(dataset_dir, fold, labelled_only, lesion_free)
    return _some(
        [e for e in entries if fold == -1 or e["fold"] != fold],
        dataset_dir,
        f"is left to train on when fold {fold} is held out",
    )


def heldout_entries(
    dataset_dir: str | Path, fold: int, labelled_only: bool = True, lesion_free: bool = False
) -> list[Entry]:
    """Return the entries that ``fold`` holds out, none for −1; otherwise as `training_entries`."""
    if fold == -1:
        return []
    entries = _absolute_entries(dataset_dir, fold, labelled_only, lesion_free)
    return _some([e for e in entries if e["fold"] == fold], dataset_dir, f"is held out by fold {fold}")


def generator_entries(dataset_dir: str | Path, fold: int, learn_from: str) -> list[Entry]:
    """Return the entries that a generator learns from when ``fold`` is held out; see `training_entries`.

    Args:
        dataset_dir: the dataset folder.
        fold: held out; −1 for none.
        learn_from: ``lesion`` for slices with a lesion, ``all`` for those without one or without a label, too.
    """
    if learn_from not in ("lesion", "all"):
        raise PigError(f"learn_from is {learn_from!r}", "give lesion or all")
    everything = learn_from == "all"
    return training_entries(dataset_dir, fold, labelled_only=not everything, lesion_free=everything)


def stored_size(dataset_dir: str | Path) -> int:
    """Return how many pixels a side the stored slices have.

    Raises:
        PigError: the datalist does not say.
    """
    preprocessing = read_datalist(dataset_dir).get("preprocessing", {})
    if "size" not in preprocessing:
        raise PigError(
            f"{Path(dataset_dir) / DATALIST}#preprocessing#size is missing",
            "say how many pixels a side the stored slices have",
        )
    return int(preprocessing["size"])


def located(entry: Entry, folder: Path) -> Entry:
    """Return a copy of an entry of a dataset folder, with the paths of its files instead of their names in it."""
    return entry | {key: str(folder / entry[key]) for key in ("image", "label") if key in entry}


def _absolute_entries(dataset_dir: str | Path, fold: int, labelled_only: bool, lesion_free: bool) -> list[Entry]:
    root = Path(dataset_dir).resolve()
    entries = read_datalist(dataset_dir)["training"]
    folds = sorted({entry["fold"] for entry in entries} - {-1})
    if fold != -1 and fold not in folds:
        known = (
            f"give --fold {', '.join(map(str, folds))} or -1, which holds nothing out"
            if folds
            else "give --fold -1"
        )
        raise PigError(f"{Path(dataset_dir) / DATALIST} has no fold {fold}", known)
    if labelled_only and not any("label" in entry for entry in entries):
        raise PigError(
            f"{Path(dataset_dir) / DATALIST} has no entry with a label", "give --masks when preparing it"
        )
    return [
        located(entry, root)
        for entry in entries
        if has_lesion(entry) or (lesion_free if "label" in entry else not labelled_only)
    ]


def _some(entries: list[Entry], dataset_dir: str | Path, role: str) -> list[Entry]:
    if not entries:
        raise PigError(f"{Path(dataset_dir) / DATALIST}: no entry with a lesion {role}", "choose another fold")
    return entries


def fingerprint(dataset_dir: str | Path) -> str:
    """Return a SHA-256 over a dataset's entries and its files' bytes: 64 hex digits that name the data.

    The dataset's name and the version that prepared it do not count.
    """
    root = Path(dataset_dir)
    datalist = read_datalist(root)
    content = {"preprocessing": datalist.get("preprocessing"), "training": datalist["training"]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    for entry in datalist["training"]:
        for key in ("image", "label"):
            if key in entry:
                digest.update(bytes.fromhex(sha256(root / entry[key])))
    return digest.hexdigest()


def write_datalist(
    dataset_dir: str | Path,
    *,
    name: str,
    command: str,
    seed: int,
    preprocessing: Mapping[str, Any],
    entries: Sequence[Entry],
    generators: Mapping[str, Any] | None = None,
) -> None:
    """Write ``datalist.json``; call it last, when every file it names exists.

    Args:
        dataset_dir: the dataset folder.
        name: what the dataset is called.
        command: what made it; joins the package's version under ``created_by``.
        seed: of the folds or of the generated pairs.
        preprocessing: what `pig_monai.data.prepare_slice.prepare_slice` was given.
        entries: with paths relative to the folder.
        generators: of generated entries: by the SHA-256 of their weights what each was trained on, ``data`` and
            ``patients`` of its meta. It stands once, not in each entry: of thousands of patients it is long.
    """
    content = {
        "name": name,
        "created_by": f"pig_monai {__version__} {command}",
        "seed": seed,
        "preprocessing": dict(preprocessing),
        **({"generators": dict(generators)} if generators else {}),
        "training": list(entries),
    }
    write_json(Path(dataset_dir) / DATALIST, content)


def write_slice(path: str | Path, image: np.ndarray, spacing: Spacing = None) -> None:
    """Write a slice as uint16 NIfTI (W, H, 1) whose scale factors give every reader values in [−1, 1].

    Args:
        path: ends in ``.nii.gz``.
        image: (W, H) in [−1, 1]; values beyond are clipped.
        spacing: (sx, sy) in mm; None where unknown (stored as 1).
    """
    levels = (np.clip(image.astype(np.float64), -1, 1) + 1) * (LEVELS / 2)
    _write_nifti(path, np.rint(levels).astype(np.uint16), spacing, slope=2 / LEVELS, intercept=-1)


def write_label(path: str | Path, mask: np.ndarray, spacing: Spacing = None) -> None:
    """Write a mask (W, H) as uint8 NIfTI (W, H, 1) of 0 and 1; arguments as for `write_slice`."""
    _write_nifti(path, (mask > 0).astype(np.uint8), spacing, slope=1, intercept=0)


def _write_nifti(path: str | Path, stored: np.ndarray, spacing: Spacing, slope: float, intercept: float) -> None:
    """Write the header and the stored values ourselves: nibabel would choose its own scale factors."""
    sx, sy = spacing if spacing is not None else (1.0, 1.0)
    # index 0 runs to the patient's left and index 1 to the back: the identity direction in DICOM's and ITK's axes
    affine = np.diag([-sx, -sy, 1.0, 1.0])
    header = nib.Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape((*stored.shape, 1))
    header.set_zooms((sx, sy, 1.0))
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header.set_slope_inter(slope, intercept)
    header["vox_offset"] = 352
    content = header.binaryblock + b"\0" * 4 + stored.tobytes(order="F")
    packed = gzip.compress(content, compresslevel=_LEVEL, mtime=0)  # no time: equal slices, equal files
    with atomic_path(path) as scratch:
        scratch.write_bytes(packed)


def read_slice(path: str | Path) -> np.ndarray:
    """Read a stored slice: float32 (W, H) in [−1, 1]."""
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)[..., 0]  # type: ignore[attr-defined]


def read_label(path: str | Path) -> np.ndarray:
    """Read a stored mask: bool (W, H)."""
    return np.asarray(nib.load(path).dataobj)[..., 0] > 0  # type: ignore[attr-defined]
