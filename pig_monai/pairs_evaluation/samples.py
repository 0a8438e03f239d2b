"""Which slices are compared, and what is measured on each: batch by batch, so that only features are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pig_monai.data.folder import (
    DATALIST,
    Entry,
    has_lesion,
    heldout_entries,
    located,
    read_datalist,
    training_entries,
)
from pig_monai.data.transforms import load_slices
from pig_monai.errors import PigError
from pig_monai.evaluation.pairs_trace import PairsTrace
from pig_monai.features.shape import mask_statistics
from pig_monai.features.space import REGIONS, SLICE, FeatureSpace, extract_all, join

BATCH = 32
"""Slices read at a time."""


@dataclass(frozen=True)
class Pairs:
    """Generated pairs to evaluate, or generated slices that came without masks.

    Args:
        entries: with absolute paths; each has a label, or none has.
        size: pixels a side.
        fold: that their generator held out; −1 for none, or where the pairs do not say.
        says_fold: whether they say.
        trace: what they say of their generator.
        left_out: entries without a mask, and those beyond ``max_pairs``.
    """

    entries: list[Entry]
    size: int
    fold: int
    says_fold: bool
    trace: PairsTrace
    left_out: dict[str, int]

    @property
    def have_masks(self) -> bool:
        """Whether these are pairs."""
        return "label" in self.entries[0]

    @property
    def made_masks(self) -> bool:
        """Whether a network made the masks, too: given ones say whose they are."""
        return self.have_masks and not any("mask_of" in entry for entry in self.entries)

    @property
    def regions(self) -> tuple[str, ...]:
        """What can be compared with real slices."""
        return REGIONS if self.have_masks else (SLICE,)

    @property
    def kind(self) -> str:
        """What to call them."""
        return "pairs" if self.have_masks else "slices without masks"


def read_pairs(pairs_dir: str | Path, max_pairs: int) -> Pairs:
    """Read the list of a pairs folder: its pairs or, if no entry has a label, its slices.

    Args:
        pairs_dir: as infer_pairs or infer_slices writes it.
        max_pairs: the first so many are taken.

    Raises:
        PigError: no pairs folder, one of several generators' folds, or one that does not say how large its slices
            are.
    """
    root, path = Path(pairs_dir).resolve(), Path(pairs_dir) / DATALIST
    datalist = read_datalist(pairs_dir)
    listed = datalist["training"]
    real = next((i for i, entry in enumerate(listed) if entry.get("origin") != "synthetic"), None)
    if real is not None:
        raise PigError(
            f"{path}#training#{real}#origin is {listed[real].get('origin')!r}",
            "pairs_dir must be a folder of generated pairs",
        )
    size = datalist.get("preprocessing", {}).get("size")
    if not isinstance(size, int):
        raise PigError(f"{path}#preprocessing#size is missing", "say how many pixels a side the slices have")
    labelled = any("label" in entry for entry in listed)
    fitting = [entry for entry in listed if has_lesion(entry)] if labelled else listed
    if not fitting:
        raise PigError(f"{path} has no entry with a lesion", "give pairs of slice and mask, or slices alone")
    taken = [located(entry, root) for entry in fitting[:max_pairs]]
    folds = {entry.get("provenance", {}).get("generator_fold") for entry in taken}
    if len(folds) > 1:
        raise PigError(
            f"{path} holds pairs of generators that held out different folds ({', '.join(map(str, folds))})",
            "evaluate the pairs of one generator",
        )
    fold = folds.pop()
    left_out = {"without a mask": len(listed) - len(fitting), "beyond max_pairs": len(fitting) - len(taken)}
    trace = PairsTrace.of_pairs(datalist, taken)
    return Pairs(taken, size, -1 if fold is None else int(fold), fold is not None, trace, left_out)


def real_entries(dataset_dir: str | Path, fold: int) -> tuple[list[Entry], list[Entry]]:
    """Return the real slices with a lesion that a generator was trained on, and those that it held out.

    Args:
        dataset_dir: the dataset folder.
        fold: held out; −1 for none.

    Raises:
        PigError: no such fold, or no real slice to compare with.
    """
    training, heldout = (
        [entry for entry in entries(dataset_dir, fold) if entry.get("origin") != "synthetic"]
        for entries in (training_entries, heldout_entries)
    )
    if not training:
        raise PigError(
            f"{Path(dataset_dir) / DATALIST} holds generated slices only", "give the dataset of real ones"
        )
    return training, heldout


def check_unseen(pairs: Pairs, heldout: Sequence[Entry], pairs_dir: str | Path, dataset_dir: str | Path) -> None:
    """Refuse to call slices held out which the pairs' generator saw.

    Args:
        pairs: what is evaluated.
        heldout: the slices of the fold that their generator held out.
        pairs_dir: their folder, for errors.
        dataset_dir: the folder of the real slices.

    Raises:
        PigError: the generator saw them, or held out a fold of another dataset.
    """
    path = Path(dataset_dir) / DATALIST
    everyone = {str(entry["patient"]) for entry in read_datalist(dataset_dir)["training"]}
    trace = replace(pairs.trace, masks_of=())  # masks of held-out patients are no secret here
    leak = trace.leak(pairs.fold, {str(entry["patient"]) for entry in heldout}, everyone, path)
    if leak is not None:
        raise PigError(
            f"pairs_dir {pairs_dir} holds {pairs.kind} {leak}", "give the dataset_dir that it was trained on"
        )


@dataclass(frozen=True)
class Sample:
    """What was measured on slices; n of them.

    Args:
        entries: theirs; slices with an empty mask are not among them.
        features: (n, d) by space and region.
        statistics: (n,) by the names of `pig_monai.features.shape.STATISTICS`; none of slices without masks.
        empty: slices that were left out since their mask is empty.
    """

    entries: list[Entry]
    features: dict[tuple[str, str], np.ndarray]
    statistics: dict[str, np.ndarray]
    empty: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def patients(self) -> list[str]:
        """Whose each slice is."""
        return [str(entry["patient"]) for entry in self.entries]


class Samples(NamedTuple):
    """The slices that are compared.

    Args:
        training: real ones that the generator was trained on.
        generated: generated ones.
        heldout: real ones of patients whom the generator never saw; None where there are none.
    """

    training: Sample
    generated: Sample
    heldout: Sample | None


def read_batches(
    entries: Sequence[Entry], size: int
) -> Iterator[tuple[list[Entry], np.ndarray, np.ndarray | None]]:
    """Yield entries with their slices, float32 (n, size, size) in [−1, 1], and masks, bool; None without masks.

    Args:
        entries: with absolute paths; each with a label, or none.
        size: pixels a side to which slices are brought, as for a training.
    """
    load = load_slices(size)
    for first in range(0, len(entries), BATCH):
        batch = list(entries[first : first + BATCH])
        items: list[Any] = [load(entry) for entry in batch]
        slices = np.stack([item["image"][0].numpy() for item in items])
        labelled = "label" in batch[0]
        yield batch, slices, np.stack([item["label"][0].numpy() > 0.5 for item in items]) if labelled else None


def measure(
    entries: Sequence[Entry], size: int, spaces: Sequence[FeatureSpace], on_batch: Callable[[int], None]
) -> Sample:
    """Measure slices in every feature space.

    Args:
        entries: with absolute paths; each with a label, or none.
        size: pixels a side.
        spaces: which; for slices without masks see `pig_monai.features.space.within`.
        on_batch: is told how many slices were read.

    Raises:
        PigError: every mask is empty.
    """
    kept: list[Entry] = []
    features, statistics = [], []
    for batch, slices, masks in read_batches(entries, size):
        full = np.full(len(batch), True) if masks is None else np.asarray(masks.any(axis=(1, 2)))
        if full.any():
            kept += [entry for entry, has in zip(batch, full, strict=True) if has]
            shown = None if masks is None else masks[full]
            features.append(extract_all(spaces, slices[full], shown))
            statistics.append({} if shown is None else mask_statistics(slices[full], shown))
        on_batch(len(batch))
    if not kept:
        raise PigError(f"{Path(entries[0]['label']).parent}: every mask is empty", "give slices with lesions")
    joined = {name: np.concatenate([part[name] for part in statistics]) for name in statistics[0]}
    return Sample(kept, join(features), joined, len(entries) - len(kept))
