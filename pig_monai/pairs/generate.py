"""From candidates to a pairs folder: draw in index order, judge, write, and go on where a run stopped."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pig_monai.data.folder import read_datalist, read_label, read_slice, write_datalist, write_label, write_slice
from pig_monai.errors import PigError
from pig_monai.files import atomic_path, read_json, write_json
from pig_monai.pairs.film_strip import film_strip
from pig_monai.pairs.rejection import REASONS, rejection_reason
from pig_monai.pairs.sampler import Candidate, PairSampler, StepBar
from pig_monai.pictures import contact_sheet, magnification
from pig_monai.runs import open_run

OWNED = ("datalist.json", "report.json", "images", "labels", "contact_sheet.png", "film_strip.png")

FEWEST_JUDGED = 32
"""Candidates that are drawn before the share of accepted ones is held against the user's limit."""

MOST_REJECTED = 512
"""Candidates after which a run that has accepted none ends, whatever the limit."""

_AFRESH = "give --overwrite true to start afresh"

SHEET_PAIRS = 64
SHEET_TILE = 192  # pixels a side: small slices are enlarged by whole numbers, large ones shrunk


class PairsFolder:
    """The growing result: the first accepted candidates in index order.

    ``report.json`` says up to which index candidates were judged, so that the same command, killed and started
    again, or asked for more pairs, goes on from there.

    Args:
        folder: the pairs folder.
        sampler: draws the candidates.
        start_index: the first candidate.
    """

    def __init__(self, folder: str | Path, sampler: PairSampler, start_index: int) -> None:
        self.folder = Path(folder)
        self.sampler = sampler
        self.entries: list[dict[str, Any]] = []
        self.rejected: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.start_index = self.next_index = start_index
        if (self.folder / "report.json").exists():
            self._continue()

    def _continue(self) -> None:
        report = read_json(self.folder / "report.json", _AFRESH)
        if "next_index" not in report:
            raise PigError(f"{self.folder / 'report.json'} is not that of a pairs folder", _AFRESH)
        self.next_index = report["next_index"]
        self.rejected.update(report["rejected"])
        if report["accepted"]:
            # the datalist is written before the report: a crash between the two leaves entries too many
            entries = read_datalist(self.folder)["training"]
            self.entries = [entry for entry in entries if entry["index"] < self.next_index]

    @property
    def judged(self) -> int:
        """How many candidates were accepted or rejected."""
        return self.next_index - self.start_index

    def judge(self, candidate: Candidate) -> bool:
        """Accept the candidate and write its files, or count why not."""
        self.next_index = candidate.index + 1
        reason = rejection_reason(candidate.mask)
        if reason is not None:
            self.rejected[reason] += 1
            return False
        name = f"synthetic-{self.sampler.seed}-{candidate.index:06d}"
        spacing = self.sampler.generator.meta["spacing"]
        write_slice(self.folder / f"images/{name}.nii.gz", candidate.image, spacing)
        write_label(self.folder / f"labels/{name}.nii.gz", candidate.mask, spacing)
        self.entries.append(
            {
                "image": f"images/{name}.nii.gz",
                "label": f"labels/{name}.nii.gz",
                "patient": f"synthetic-{self.sampler.seed}-{candidate.index}",
                "view": None,
                "laterality": None,
                "slice": 0,
                "fold": -1,
                "spacing": spacing,
                "origin": "synthetic",
                "index": candidate.index,
                "provenance": self.sampler.provenance,
            }
        )
        return True

    def save(self, requested: int) -> None:
        """Write the datalist and the report as they stand."""
        meta = self.sampler.generator.meta
        if self.entries:
            write_datalist(
                self.folder,
                name="pairs",
                command="infer_pairs",
                seed=self.sampler.seed,
                preprocessing={**meta["preprocessing"], "size": self.sampler.image_size},
                entries=self.entries,
            )
        report = {
            "requested": requested,
            "accepted": len(self.entries),
            "rejected": dict(self.rejected),
            "candidates": self.judged,
            "start_index": self.start_index,
            "next_index": self.next_index,
            "trained_on": meta["origin"],
            "provenance": self.sampler.provenance,
        }
        write_json(self.folder / "report.json", report)

    def read_pairs(self, most: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Read the first ``most`` pairs back: slices float32 and masks bool, (W, H) each."""
        chosen = self.entries[:most]
        slices = [read_slice(self.folder / entry["image"]) for entry in chosen]
        return slices, [read_label(self.folder / entry["label"]) for entry in chosen]


def generate_pairs(
    sampler: PairSampler,
    output_dir: str | Path,
    num_pairs: int = 64,
    start_index: int = 0,
    batch_size: int = 8,
    min_accepted: float = 0.1,
    overwrite: bool | str = False,
) -> None:
    """Write the first ``num_pairs`` accepted candidates in index order, with contact sheet and film strip.

    The result is the same whatever the batch size or the interruptions. A folder that holds fewer pairs of the
    same settings is continued.

    Args:
        sampler: draws the candidates.
        output_dir: the pairs folder.
        num_pairs: accepted pairs wanted.
        start_index: the first candidate's index.
        batch_size: candidates drawn at a time.
        min_accepted: give up when a smaller share of at least 32 candidates is accepted.
        overwrite: start afresh.

    Raises:
        PigError: another run in the folder, or too few accepted candidates.
    """
    open_run(output_dir, "pairs", {**sampler.provenance, "start_index": start_index}, OWNED, overwrite)
    pairs = PairsFolder(output_dir, sampler, start_index)
    found = len(pairs.entries)
    with tqdm(total=num_pairs, initial=min(len(pairs.entries), num_pairs), desc="pairs", unit="pair") as bar:
        while len(pairs.entries) < num_pairs:
            indices = range(pairs.next_index, pairs.next_index + batch_size)
            for candidate in sampler.draw(indices, StepBar(len(sampler.grid))):
                if len(pairs.entries) < num_pairs:
                    bar.update(pairs.judge(candidate))
                    _check_share(pairs, num_pairs, min_accepted)
            bar.set_postfix(rejected=pairs.rejected.total())
            pairs.save(num_pairs)
    if len(pairs.entries) > found or not (pairs.folder / "film_strip.png").exists():
        _draw_pictures(pairs)
    counts = ", ".join(f"{count} {reason}" for reason, count in pairs.rejected.items())
    print(f"{len(pairs.entries)} pairs in {output_dir}; rejected: {counts}", file=sys.stderr)


def _check_share(pairs: PairsFolder, requested: int, min_accepted: float) -> None:
    too_few = pairs.judged >= FEWEST_JUDGED and len(pairs.entries) < min_accepted * pairs.judged
    if too_few or (pairs.judged >= MOST_REJECTED and not pairs.entries):
        pairs.save(requested)
        raise PigError(
            f"only {len(pairs.entries)} of {pairs.judged} candidates were accepted ({dict(pairs.rejected)})",
            "train the guider longer (empty masks are typical of undertrained weights) or lower min_accepted",
        )


def _draw_pictures(pairs: PairsFolder) -> None:
    slices, masks = pairs.read_pairs(SHEET_PAIRS)
    typical = int(np.argsort([mask.sum() for mask in masks])[len(masks) // 2])  # the median mask area
    with atomic_path(pairs.folder / "contact_sheet.png") as scratch:
        scale = magnification(SHEET_TILE, pairs.sampler.image_size)
        contact_sheet(slices, masks, columns=8, scale=scale).save(scratch)
    with atomic_path(pairs.folder / "film_strip.png") as scratch:
        film_strip(pairs.sampler, pairs.entries[typical]["index"]).save(scratch)
