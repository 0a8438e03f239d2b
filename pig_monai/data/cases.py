"""Cases: one volume or image each, named by a keyed hash so that no output says whose it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from pig_monai.data.boxes import LesionBox
from pig_monai.data.keys import CaseKey
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError
from pig_monai.files import sha256

VIEWS = ("cc", "mlo", "ml", "lm", "lmo", "xccl", "xccm", "xcc", "fb", "sio", "iso", "at", "cv")
_LATERALITIES = {"l": "L", "left": "L", "r": "R", "right": "R"}
_VIEW = re.compile(rf"([lr]?)({'|'.join(sorted(VIEWS, key=len, reverse=True))})(\d?)")


@dataclass(frozen=True)
class Content:
    """What tells whether a source or a mask changed. It is read when it is asked for: that can take long.

    Args:
        key: hashes it.
        parts: texts, and files whose bytes count.
    """

    key: CaseKey
    parts: tuple[str | tuple[Path, ...], ...]

    @cached_property
    def hash(self) -> str:
        """The keyed hash.

        Raises:
            UnusableError: one of the files cannot be read.
        """
        texts = [part if isinstance(part, str) else digest_files(part) for part in self.parts]
        return self.key.hash("content", ":".join(texts))


@dataclass(frozen=True)
class Case:
    """One volume or image that waits to be prepared.

    Args:
        kind: ``"dicom"``, ``"tsynth"`` or ``"image"``: which reader opens ``source``.
        source: the file; the first, where a volume has one file per slice.
        masks: its mask files.
        pictures: (number, file) for masks of single slices.
        boxes: around its lesions; a case with masks has none.
        patient: the raw patient id; it stays in memory.
        hash: the case hash of the patient.
        volume: keyed hash of what tells this volume from the patient's others.
        content: changes when the source or a mask changes.
        view: ``lcc``, ``rmlo`` …; ``cc`` where the side is unknown; None where nothing is known.
        laterality: ``"L"``, ``"R"`` or None, as the source says.
        origin: ``"real"`` or ``"phantom"``.
        stem: what its files' names begin with; unique in the dataset.
        slices: the files of a volume with one file per slice, in geometric order; else empty.
        study: StudyInstanceUID, for the mapping; as ``patient``.
        series: SeriesInstanceUID, likewise.
    """

    kind: str
    source: Path
    masks: tuple[Path, ...]
    patient: str
    hash: str
    volume: str
    content: Content
    view: str | None = None
    laterality: str | None = None
    origin: str = "real"
    stem: str = ""
    pictures: tuple[tuple[int, Path], ...] = ()
    boxes: tuple[LesionBox, ...] = ()
    slices: tuple[Path, ...] = ()
    study: str = ""
    series: str = ""


@dataclass(frozen=True)
class Skipped:
    """Something that was not used.

    Args:
        case: the case hash, or a hash of the file's path where the patient is not known.
        source: the file; it goes to the log only.
        why: the reason and the remedy.
        view: as in `Case`.
        patient: the raw patient id where it is known; it goes to the mapping only.
        study: StudyInstanceUID; as ``patient``.
        series: SeriesInstanceUID, likewise.
    """

    case: str
    source: Path
    why: UnusableError
    view: str | None = None
    patient: str = ""
    study: str = ""
    series: str = ""

    def row(self) -> dict[str, str | None]:
        """Return what the report may show."""
        return {"case": self.case, "view": self.view, "reason": self.why.reason, "remedy": self.why.remedy}

    def line(self) -> str:
        """Return what the log shows."""
        detail = f" ({self.why.detail})" if self.why.detail else ""
        text = f"skipped {self.source} [{self.case}]: {self.why.reason}; {self.why.remedy}{detail}"
        return " ".join(text.split())


@dataclass
class Found:
    """What a folder holds: cases to prepare, things to skip, and warnings (without paths)."""

    cases: list[Case] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def parse_laterality(text: str | None) -> str | None:
    """Return ``"L"``, ``"R"`` or None."""
    return _LATERALITIES.get((text or "").strip().lower())


def parse_view(text: str | None, laterality: str | None) -> tuple[str | None, str | None]:
    """Read a view as people write it: ``MLO``, ``lcc``, ``R-CC``, ``rmlo1``.

    Anything else becomes None: free text could say who the patient is.

    Returns:
        the view, with the side in front where it is known, and the laterality.
    """
    found = _VIEW.fullmatch(re.sub(r"[\s_\-]", "", text or "").lower())
    if found is None:
        return None, laterality
    side = laterality or parse_laterality(found[1])
    return (side or "").lower() + found[2], side


def name_cases(cases: list[Case], taken: dict[str, str]) -> list[Case]:
    """Give each case its stem ``<case>_<view>``; further volumes of a case and view count on from 2.

    Args:
        cases: in an order that does not depend on the machine.
        taken: volume → stem of those prepared earlier, which keep theirs.
    """
    used = set(taken.values())
    named = []
    for case in cases:
        stem = taken.get(case.volume, "")
        number = 1
        while not stem:
            candidate = f"{case.hash}_{case.view or 'noview'}{number if number > 1 else ''}"
            stem = candidate if candidate not in used else ""
            number += 1
        used.add(stem)
        named.append(replace(case, stem=stem))
    return named


def list_files(folder: Path, flag: str, without: Sequence[Path] = ()) -> list[PurePosixPath]:
    """Return the files below ``folder``, hidden ones left out, as sorted relative paths.

    Args:
        folder: what the user gave.
        flag: the option that gave it, for the error.
        without: files and folders inside it to leave out.

    Raises:
        PigError: ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise PigError(f"--{flag} {folder} is not a folder", "give an existing folder")
    root = folder.resolve()
    inside = [path.resolve() for path in without if path.resolve() != root and path.resolve().is_relative_to(root)]
    files = []
    for path in root.rglob("*"):
        inner = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inner.parts)
        if path.is_file() and not hidden and not any(path.is_relative_to(other) for other in inside):
            files.append(PurePosixPath(inner.as_posix()))
    return sorted(files)


def ends_in(path: PurePosixPath, end: PurePosixPath) -> bool:
    """Whether the last parts of ``path`` are those of ``end``."""
    return path.parts[-len(end.parts) :] == end.parts


def digest_files(paths: Sequence[Path]) -> str:
    """Return a text that changes with the bytes of any of the files.

    Raises:
        UnusableError: one of them cannot be read.
    """
    try:
        return ":".join(sha256(path) for path in paths)
    except OSError as cause:
        reason = f"the file or its mask cannot be read ({type(cause).__name__})"
        raise UnusableError(reason, "check who may read it", str(cause)) from cause
