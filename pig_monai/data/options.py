"""The options of the preparation commands: what they share, and how each is checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pig_monai.cli import as_bool, as_number, as_whole
from pig_monai.data.selection import Selection
from pig_monai.errors import PigError


@dataclass(frozen=True)
class SharedOptions:
    """What both commands can be told.

    Args:
        size: side of the prepared slices in pixels.
        aspect: pad keeps the aspect; stretch fills the square.
        crop: crop to the breast.
        chest_wall: left mirrors slices whose chest wall is on the right; keep leaves them.
        low: percentile of the pixels inside the breast that becomes -1 (0.5).
        high: percentile of the pixels inside the breast that becomes 1 (99.5).
        min_lesion_area: least mask of a slice in mm² (in pixels where the spacing is unknown).
        unlabeled: take what has no mask, too, without labels; of a volume every fifth of its central slices.
        seed: of the folds.
        key: file with the secret of the case hashes; made beside the dataset folder by default.
        workers: processes.
        log: file that gets the lines about skipped files, with their paths.
        mapping: CSV file, outside the dataset folder, that gets each case's patient, study, series and file.
            Rows of earlier runs stay, so that adding data extends it; any other file is left alone.
        strict: end with exit status 1 when anything was skipped; the dataset is written all the same.
        overwrite: prepare afresh what is there.
        dry_run: say what would be done, and what it would take; writes nothing.
        shard: prepare a part of the cases only, 2/8 say, into a folder of its own; all parts need the same key,
            which is made where absent. Merge the parts when all are done.
        merge: folder that holds the folders of all shards; give the same options as to them.
    """

    size: int = 512
    aspect: str = "pad"
    crop: bool = True
    chest_wall: str = "left"
    low: float | None = None
    high: float | None = None
    min_lesion_area: float = 1.0
    unlabeled: bool = False
    seed: int = 0
    key: str | None = None
    workers: int = 1
    log: str | None = None
    mapping: str | None = None
    strict: bool = False
    overwrite: bool = False
    dry_run: bool = False
    shard: str | None = None
    merge: str | None = None

    def preprocessing(self, intensity: str = "percentile") -> dict[str, Any]:
        """Return the block of settings that the datalist keeps.

        Raises:
            PigError: names the option at fault.
        """
        choice(intensity, "intensity", ("percentile", "window"))
        return {
            "size": as_whole(self.size, "--size", least=8),
            "aspect": choice(self.aspect, "aspect", ("pad", "stretch")),
            "crop": as_bool(self.crop, "--crop"),
            "chest_wall": choice(self.chest_wall, "chest_wall", ("left", "keep")),
            "intensity": self._intensity(intensity),
        }

    def _intensity(self, kind: str) -> dict[str, Any]:
        if kind == "window":
            if self.low is not None or self.high is not None:
                raise PigError("--low and --high are percentiles", "leave them out with --intensity window")
            return {"kind": kind}
        low = as_number(0.5 if self.low is None else self.low, "--low", 0, 100)
        high = as_number(99.5 if self.high is None else self.high, "--high", 0, 100)
        if low >= high:
            raise PigError(f"--low {low:g} is not below --high {high:g}", "give two percentiles, the lower first")
        return {"kind": kind, "low": low, "high": high, "inside_breast": True}

    def selection(
        self,
        every_nth: int = 1,
        largest_per_lesion: bool = False,
        lesion_free: int = 0,
        lesion_free_distance: int = Selection.lesion_free_distance,
    ) -> Selection:
        """Return which slices are taken; arguments as for `Selection`.

        Raises:
            PigError: names the option at fault.
        """
        largest = as_bool(largest_per_lesion, "--largest_per_lesion")
        every = as_whole(every_nth, "--every_nth", least=1)
        if largest and every > 1:
            raise PigError("both --every_nth and --largest_per_lesion are given", "give one of them")
        return Selection(
            min_lesion_area=as_number(self.min_lesion_area, "--min_lesion_area", 0, float("inf")),
            every_nth=every,
            largest_per_lesion=largest,
            lesion_free=as_whole(lesion_free, "--lesion_free", least=0),
            lesion_free_distance=as_whole(lesion_free_distance, "--lesion_free_distance", least=1),
            unlabeled=as_bool(self.unlabeled, "--unlabeled"),
        )


def path(given: str | None) -> Path | None:
    """Return a path as it arrives from a command line, where a number is no text."""
    return None if given is None else Path(str(given))


def choice(value: Any, option: str, choices: tuple[str, ...]) -> str:
    """Return one of ``choices``.

    Raises:
        PigError: it is none of them.
    """
    if value not in choices:
        raise PigError(f"--{option} is {value!r}", f"give one of {', '.join(choices)}")
    return str(value)
