"""Parts of one set of pairs: folders whose candidate ranges follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.files import read_json
from pig_monai.pairs.folder import Common, read_report, rejected_files
from pig_monai.runs import RECORD


@dataclass(frozen=True)
class Judged:
    """A candidate of a part: an entry of its datalist, or the thumbnail of a rejected one.

    Args:
        index: of the candidate.
        part: the folder that holds it.
        entry: None where it was rejected.
        reason: why it was rejected.
        files: relative to the folder.
    """

    index: int
    part: Path
    entry: dict[str, Any] | None
    reason: str | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A pairs folder as one range of candidates.

    Args:
        folder: where it is.
        start: the first candidate.
        stop: the one after the last that was judged.
        requested: pairs or candidates that its run was asked for.
        settings: of its run, without the start.
        common: what its pairs share; the size of the slices is None where it has no pair.
        candidates: all that were judged, in index order.
    """

    folder: Path
    start: int
    stop: int
    requested: int
    settings: dict[str, Any]
    common: Common
    candidates: list[Judged]

    @property
    def unfinished(self) -> bool:
        """Whether its run was certainly stopped: it judged fewer candidates than it was asked for."""
        return self.stop - self.start < self.requested


def read_part(folder: Path) -> Part:
    """Read a part; what its run wrote after the last record does not count.

    Raises:
        PigError: no pairs folder, or one that lacks files that its report counts.
    """
    again = "run its command again: it continues"
    record = read_json(folder / RECORD, again) if (folder / RECORD).exists() else None
    if not isinstance(record, dict) or record.get("workflow") != "pairs":
        raise PigError(f"{folder} holds no pairs run", "name folders that infer_pairs wrote")
    if not (folder / "report.json").exists():
        raise PigError(f"{folder} holds no report.json yet", again)
    report = read_report(folder, again)
    datalist = read_datalist(folder) if report["accepted"] else {"preprocessing": {}, "training": []}
    start, stop = report["start_index"], report["next_index"]
    found = [_accepted(folder, entry) for entry in datalist["training"]]
    found += [
        Judged(index, folder, None, reason, (f"rejected/{path.name}",))
        for index, reason, path in rejected_files(folder)
    ]
    candidates = sorted((one for one in found if start <= one.index < stop), key=lambda one: one.index)
    if [one.index for one in candidates] != list(range(start, stop)):
        lost = sorted(set(range(start, stop)).difference(one.index for one in candidates))
        raise PigError(
            f"{folder} lacks candidate {lost[0] if lost else start}, which its report counts",
            "restore rejected/ and datalist.json, or draw the part again with --overwrite true",
        )
    common = Common(
        datalist["preprocessing"],
        report["trained_on"],
        report["provenance"],
        report["limits"],
        datalist.get("generators", {}),
    )
    settings = {name: value for name, value in record["settings"].items() if name != "start_index"}
    return Part(folder, start, stop, report["requested"], settings, common, candidates)


def _accepted(folder: Path, entry: dict[str, Any]) -> Judged:
    return Judged(
        entry["index"], folder, entry, None, tuple(entry[key] for key in ("image", "label") if key in entry)
    )


def check_parts(parts: Sequence[Part]) -> None:
    """Refuse parts that are not of one set.

    Args:
        parts: at least one, by their start.

    Raises:
        PigError: other settings, a gap or an overlap between two of them; names both.
    """
    for one, other in pairwise(parts):
        for name in sorted({*one.settings, *other.settings}):
            ours, theirs = one.settings.get(name), other.settings.get(name)
            if ours != theirs:
                raise PigError(
                    f"{one.folder} was drawn with {name} = {ours} and {other.folder} with {theirs}",
                    "merge parts that differ in start_index and num_pairs alone",
                )
    for one, other in pairwise(parts):
        if other.start < one.stop:
            raise PigError(
                f"{one.folder} and {other.folder} both hold candidates from {other.start} on",
                "leave one of them out of --parts",
            )
        if other.start > one.stop:
            gap = f"candidates {one.stop} to {other.start - 1}"
            raise PigError(
                f"no part holds {gap}, between {one.folder} and {other.folder}",
                _how_to_draw(one, f"{other.start - one.stop} --replace_rejected false"),
            )


def take_pairs(parts: Sequence[Part], num_pairs: int | None) -> list[Judged]:
    """Return the candidates of a run that ends with its last pair: what follows that one was never drawn.

    Args:
        parts: checked by `check_parts`.
        num_pairs: accepted ones to keep; None for all.

    Raises:
        PigError: the parts hold fewer pairs, or none.
    """
    candidates = [one for part in parts for one in part.candidates]
    accepted = [position for position, one in enumerate(candidates) if one.entry is not None]
    wanted = len(accepted) if num_pairs is None else num_pairs
    if not accepted or len(accepted) < wanted:
        raise PigError(
            f"the parts hold {len(accepted)} pairs, {max(1, wanted)} are wanted",
            _how_to_draw(parts[-1], f"{max(1, wanted) - len(accepted)}"),
        )
    return candidates[: accepted[wanted - 1] + 1]


def _how_to_draw(before: Part, num_pairs: str) -> str:
    draw = f"draw another part with --start_index {before.stop} --num_pairs {num_pairs}"
    if before.unfinished:
        judged = f"{before.stop - before.start} of {before.requested}"
        return f"run the command of {before.folder} again (it was stopped after {judged} candidates), or {draw}"
    return draw
