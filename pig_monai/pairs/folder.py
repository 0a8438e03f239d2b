"""The pairs folder: a dataset folder that grows candidate by candidate, with all that was rejected counted."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pig_monai.data.folder import read_datalist, write_datalist, write_label, write_slice
from pig_monai.errors import PigError
from pig_monai.files import atomic_path, read_json, write_json
from pig_monai.pairs.rejection import REASONS, Limits, rejection_reason
from pig_monai.pairs.sampler import Candidate, Sampler
from pig_monai.pictures import magnification, tile
from pig_monai.runs import Run

OWNED = (
    "datalist.json",
    "report.json",
    "images",
    "labels",
    "rejected",
    "contact_sheet.png",
    "film_strip.png",
)
"""What a pairs run writes, besides its ``run.json``."""

SAVE_EVERY = 20.0
"""Seconds between two records of what was judged: a restart draws again what came after the last one."""

THUMBNAIL = 128
"""Pixels a side, about, of what is kept of a rejected candidate."""

AFRESH = "give --overwrite true to start afresh"

_REJECTED = re.compile(r"(\w+)-(\d+)\.png")


@dataclass(frozen=True)
class Common:
    """What all pairs of a folder share: plain values, as they stand in ``datalist.json`` and ``report.json``.

    Args:
        preprocessing: of the slices; ``size`` is theirs, in pixels.
        trained_on: the origins of the training slices.
        provenance: what decides a pair besides its index.
        limits: what a mask had to keep.
        generators: what the networks were trained on (see `write_datalist`).
    """

    preprocessing: dict[str, Any]
    trained_on: list[str]
    provenance: dict[str, Any]
    limits: dict[str, float]
    generators: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, sampler: Sampler, limits: Limits) -> Common:
        """Return what the pairs of ``sampler`` share."""
        meta = sampler.generator.meta
        preprocessing = {**meta["preprocessing"], "size": sampler.image_size}
        return cls(preprocessing, meta["origin"], sampler.provenance, limits.to_dict(), sampler.generators)


class PairsFolder:
    """The growing result: the accepted candidates in index order.

    ``report.json`` says up to which index candidates were judged, so that the same command, killed and started
    again, or asked for more pairs, goes on from there.

    Args:
        folder: the pairs folder.
        common: what all of its pairs share.
        start_index: the first candidate.
    """

    def __init__(self, folder: str | Path, common: Common, start_index: int) -> None:
        self.folder = Path(folder)
        self.common = common
        self.entries: list[dict[str, Any]] = []
        self.rejected: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.start_index = self.next_index = start_index
        self._recorded = start_index  # up to which index the files on disk tell
        self._last_record = time.monotonic()

    def read(self) -> None:
        """Take up what was judged before.

        Raises:
            PigError: the report is not that of a pairs folder, or a pair's file is missing.
        """
        if not (self.folder / "report.json").exists():
            return
        report = read_report(self.folder, AFRESH)
        self.next_index = self._recorded = report["next_index"]
        self.rejected.update(report["rejected"])
        if report["accepted"]:
            # the datalist is written before the report: a crash between the two leaves entries too many
            entries = read_datalist(self.folder)["training"]
            self.entries = [entry for entry in entries if entry["index"] < self.next_index]

    def remove_unrecorded(self) -> None:
        """Remove the files of candidates that were judged after the last record: they are drawn again."""
        self._write_datalist()  # first: it may name some of them, and this may be stopped half way, too
        known = {entry[key] for entry in self.entries for key in ("image", "label") if key in entry}
        for part in ("images", "labels"):
            for path in (self.folder / part).glob("synthetic-*.nii.gz"):
                if f"{part}/{path.name}" not in known:
                    path.unlink()
        for index, _, path in rejected_files(self.folder):
            if index >= self.next_index:
                path.unlink()

    @property
    def judged(self) -> int:
        """How many candidates were accepted or rejected."""
        return self.next_index - self.start_index

    def judge(self, candidate: Candidate, limits: Limits, spacing: list[float] | None) -> str | None:
        """Accept the candidate and write its files, or reject it and keep a thumbnail.

        Args:
            candidate: the next one.
            limits: what its mask must keep.
            spacing: of its pixels [x, y] in mm; None where unknown.

        Returns:
            why it was rejected, or None.
        """
        reason = None if candidate.mask is None else rejection_reason(candidate.mask, candidate.image, limits)
        if reason is None:
            self.entries.append(self._write(candidate, spacing))
        else:
            picture = tile(candidate.image, candidate.mask, magnification(THUMBNAIL, len(candidate.image)))
            with atomic_path(self.folder / f"rejected/{reason}-{candidate.index:06d}.png") as scratch:
                picture.save(scratch)
            self.rejected[reason] += 1
        self.next_index = candidate.index + 1
        return reason

    def _write(self, candidate: Candidate, spacing: list[float] | None) -> dict[str, Any]:
        seed = self.common.provenance["seed"]
        name = f"synthetic-{seed}-{candidate.index:06d}"
        write_slice(self.folder / f"images/{name}.nii.gz", candidate.image, spacing)
        files = {"image": f"images/{name}.nii.gz"}
        if candidate.mask is not None:
            files["label"] = f"labels/{name}.nii.gz"
            write_label(self.folder / files["label"], candidate.mask, spacing)
        given = {} if candidate.source is None else {"mask_of": candidate.source}
        return {
            **files,
            "patient": f"synthetic-{seed}-{candidate.index}",
            "view": None,
            "laterality": None,
            "slice": 0,
            "fold": -1,
            "spacing": spacing,
            "origin": "synthetic",
            "index": candidate.index,
            **given,
            "provenance": self.common.provenance,
        }

    def save(self, requested: int, at_once: bool = True) -> None:
        """Record what was judged in the datalist and the report.

        Args:
            requested: pairs, or candidates, that the run was asked for.
            at_once: False saves only when the last record is older than `SAVE_EVERY`: the datalist is written
                whole each time.
        """
        too_early = not at_once and time.monotonic() < self._last_record + SAVE_EVERY
        if too_early or self.next_index == self._recorded:
            return
        self._write_datalist()
        report = {
            "requested": requested,
            "accepted": len(self.entries),
            "rejected": dict(self.rejected),
            "candidates": self.judged,
            "start_index": self.start_index,
            "next_index": self.next_index,
            "limits": self.common.limits,
            "trained_on": self.common.trained_on,
            "provenance": self.common.provenance,
        }
        write_json(self.folder / "report.json", report)
        self._recorded = self.next_index
        self._last_record = time.monotonic()

    def _write_datalist(self) -> None:
        if self.entries:
            write_datalist(
                self.folder,
                name="pairs",
                command="infer_pairs",
                seed=self.common.provenance["seed"],
                preprocessing=self.common.preprocessing,
                entries=self.entries,
                generators=self.common.generators,
            )


def pairs_run(
    folder: Path,
    settings: Mapping[str, Any],
    overwrite: bool,
    inputs: Mapping[str, str | Path | None] | None = None,
) -> Run:
    """Return the run of a pairs folder; arguments as of `Run`."""
    return Run(folder, "pairs", settings, OWNED, overwrite, inputs=inputs)


def read_report(folder: Path, remedy: str) -> dict[str, Any]:
    """Read a pairs folder's report.

    Raises:
        PigError: it is missing, or it is not that of a pairs folder; ``remedy`` says what the user can do.
    """
    report = read_json(folder / "report.json", remedy)
    if not isinstance(report, dict) or "next_index" not in report:
        raise PigError(f"{folder / 'report.json'} is not that of a pairs folder", remedy)
    return report


def rejected_files(folder: Path) -> list[tuple[int, str, Path]]:
    """Return the thumbnails in a pairs folder as (index, reason, path), in index order."""
    found = []
    for path in (folder / "rejected").glob("*.png"):
        match = _REJECTED.fullmatch(path.name)
        if match and match[1] in REASONS:
            found.append((int(match[2]), match[1], path))
    return sorted(found)
