"""Find the images in a folder: whose they are and which masks they have."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pig_monai.data.cases import (
    Case,
    Content,
    Found,
    Skipped,
    ends_in,
    list_files,
    parse_laterality,
    parse_view,
)
from pig_monai.data.images import IMAGE_SUFFIXES, has_suffix, stem
from pig_monai.data.keys import CaseKey
from pig_monai.data.masks import match_masks
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError


@dataclass(frozen=True)
class Owner:
    """Whose image it is and what it shows."""

    patient: str | None
    view: str | None = None
    laterality: str | None = None


class Index:
    """A CSV with a row an image: ``image`` (or ``file``), and ``patient``, ``view``, ``laterality`` as available.

    Raises:
        PigError: it cannot be read or lacks a column of images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = [{(k or "").strip().lower(): v for k, v in row.items()} for row in csv.DictReader(stream)]
        except (OSError, UnicodeDecodeError, csv.Error) as cause:
            raise PigError(f"--index {path} cannot be read ({cause})", "give a CSV file in UTF-8") from None
        columns = set(rows[0]) if rows else set()
        name = next((column for column in ("image", "file") if column in columns), None)
        if name is None:
            raise PigError(f"--index {path} has no column 'image' or 'file'", "name the images in one of them")
        self.has_patient = "patient" in columns
        self.rows: dict[str, list[tuple[PurePosixPath, Mapping[str, str]]]] = defaultdict(list)
        for row in rows:
            image = PurePosixPath((row[name] or "").strip().replace("\\", "/"))
            self.rows[image.name].append((image, row))

    def owner(self, image: PurePosixPath) -> Owner | None:
        """Return what the index says about an image; None where it has no row, or several that fit.

        A row fits when one of the two paths ends in the other, the image's with or without its suffix; of several,
        the row of the same path wins.
        """
        fitting = [
            (path, row)
            for form in (image, image.with_name(stem(image)))
            for path, row in self.rows.get(form.name, [])
            if ends_in(path, form) or ends_in(form, path)
        ]
        exact = [(path, row) for path, row in fitting if path == image]
        if len(exact or fitting) != 1:
            return None
        row = (exact or fitting)[0][1]
        view, laterality = parse_view(row.get("view"), parse_laterality(row.get("laterality")))
        return Owner((row.get("patient") or "").strip() or None, view, laterality)


def find_images(
    images: Path,
    masks: Path,
    key: CaseKey,
    dataset_dir: Path,
    patient_regex: str | None = None,
    index: Path | None = None,
    unlabeled: bool = False,
) -> Found:
    """Find the images, and the masks of each.

    Args:
        images: folder of images, searched with its subfolders.
        masks: folder of masks; see `match_masks`.
        key: hashes the ids.
        dataset_dir: left out of the search.
        patient_regex: its group 1 is the patient; searched in an image's name, then in its path inside ``images``.
        index: CSV file, see `Index`.
        unlabeled: whether images without a mask are taken.

    Raises:
        PigError: the folders, the regex or the index cannot be used, or no mask fits an image.
    """
    if images.resolve() == masks.resolve():
        raise PigError(f"--images and --masks are the same folder {images}", "keep the masks in their own folder")
    owners = _Owners(patient_regex, index)
    found = Found()
    image_files = list_files(images, "images", without=[masks, dataset_dir, *([index] if index else [])])
    mask_files = list_files(masks, "masks", without=[images, dataset_dir])
    readable = _only_images(images, image_files, key, found)
    matched, unmatched = match_masks(readable, _only_images(masks, mask_files, key, found))
    if not matched and not unlabeled:
        raise PigError(
            f"no mask in {masks} fits an image in {images}",
            "name each mask like its image, or its image's name followed by _, - or .",
        )
    for mask in unmatched:
        why = UnusableError(
            "the mask fits no image, or several",
            "name it like its image, or its image's name followed by _, - or .",
        )
        found.skipped.append(Skipped(key.hash("file", str(mask)), masks / mask, why))
    for image in readable:
        own = [masks / mask for mask in matched.get(image, [])]
        try:
            if not own and not unlabeled:
                raise UnusableError("it has no mask", "give it a mask with the image's stem, or leave it out")
            found.cases.append(_case(images, image, own, owners, key))
        except UnusableError as why:
            found.skipped.append(Skipped(key.hash("file", str(image)), images / image, why))
    if owners.anonymous:
        found.warnings.append("each image counts as its own patient: give --patient_regex or --index")
    return found


def _only_images(folder: Path, files: Sequence[PurePosixPath], key: CaseKey, found: Found) -> list[PurePosixPath]:
    for file in files:
        if not has_suffix(file, IMAGE_SUFFIXES):
            why = UnusableError("not an image file", "images are PNG, JPEG, TIFF or NIfTI files")
            found.skipped.append(Skipped(key.hash("file", str(file)), folder / file, why))
    return [file for file in files if has_suffix(file, IMAGE_SUFFIXES)]


class _Owners:
    """Says whose an image is, by the regex, the index, or else its own path."""

    def __init__(self, patient_regex: str | None, index: Path | None) -> None:
        self.index = Index(index) if index else None
        self.regex = _compile(patient_regex) if patient_regex else None
        if self.regex and self.index and self.index.has_patient:
            raise PigError(
                f"both --patient_regex and --index {index} say who the patients are",
                "give one, or drop the column 'patient'",
            )
        self.anonymous = self.regex is None and not (self.index and self.index.has_patient)

    def __call__(self, image: PurePosixPath) -> Owner:
        """Return the owner of an image.

        Raises:
            UnusableError: the regex or the index does not say.
        """
        owner = self.index.owner(image) if self.index else Owner(None)
        if owner is None:
            raise UnusableError("the index has no row for it, or several", "give each image one row in the index")
        patient = owner.patient
        if self.regex is not None:
            hit = self.regex.search(image.name) or self.regex.search(str(image))
            patient = hit[1] if hit else None
        if self.anonymous:
            patient = str(image)
        if not patient:
            by = "--patient_regex" if self.regex else "the column 'patient' of the index"
            raise UnusableError(f"{by} names no patient for it", f"mend {by}")
        return replace(owner, patient=patient)


def _compile(patient_regex: str) -> re.Pattern[str]:
    try:
        regex = re.compile(patient_regex)
    except re.error as cause:
        raise PigError(f"--patient_regex {patient_regex!r} is no regular expression", str(cause)) from None
    if regex.groups < 1:
        raise PigError(
            f"--patient_regex {patient_regex!r} has no group", r"put the patient in parentheses, as in '^(P\d+)_'"
        )
    return regex


def _case(images: Path, image: PurePosixPath, masks: list[Path], owners: _Owners, key: CaseKey) -> Case:
    owner = owners(image)
    patient = str(owner.patient)
    return Case(
        kind="image",
        source=images / image,
        masks=tuple(masks),
        patient=patient,
        hash=key.hash("patient", patient),
        volume=key.hash("volume", str(image)),
        content=Content(key, ((images / image, *masks),)),
        view=owner.view,
        laterality=owner.laterality,
    )
