"""Masks that are given to a generator: those of a dataset folder, or of a pairs folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pig_monai.data.folder import fingerprint, read_datalist, training_entries
from pig_monai.data.transforms import load_slices

ORDER = "permuted by seed and pass"
"""In the provenance: pairs whose masks came in another order are not continued."""


def find(
    masks_dir: str | Path | None, fold: int | None, generator: Mapping[str, Any], seed: int
) -> GivenMasks | None:
    """Return the masks of ``infer_slices``.

    Args:
        masks_dir: a dataset folder; None for none.
        fold: left out; None for the one that the generator held out, where the folder has it.
        generator: its meta.
        seed: of their order.

    Raises:
        PigError: see `GivenMasks`.
    """
    if masks_dir is None:
        return None
    if fold is None:
        folds = {entry["fold"] for entry in read_datalist(masks_dir)["training"]}
        fold = generator["fold"] if generator["fold"] in folds else -1  # generated masks have no fold
    return GivenMasks(masks_dir, fold, int(generator["image_size"]), seed)


class GivenMasks:
    """The masks of a dataset, without those of the held-out fold, in an order drawn by the seed.

    A datalist goes patient by patient: in its order, few slices would have the masks of the first patients alone.
    Which mask pair i has depends on (seed, i): i // n is the pass over all n masks, each pass has its permutation.

    Args:
        dataset_dir: a dataset folder.
        fold: whose masks are left out: the one that the generator held out; −1 takes all.
        image_size: pixels a side of the generator's slices, to which the masks are brought.
        seed: of the order, from 0 on.

    Raises:
        PigError: no entry with a lesion is left.
    """

    def __init__(self, dataset_dir: str | Path, fold: int, image_size: int, seed: int) -> None:
        self.entries = training_entries(dataset_dir, fold)
        self.root = Path(dataset_dir).resolve()
        self.load = load_slices(image_size, keys=("label",))
        self.fingerprint = {"data": fingerprint(dataset_dir), "fold": fold, "order": ORDER}
        self.seed = seed

    def __len__(self) -> int:
        """Return how many masks there are."""
        return len(self.entries)

    def label(self, index: int) -> Tensor:
        """Return the mask of a pair's index, float32 0 / 1, (1, W, H)."""
        item: dict[str, Tensor] = self.load(self._entry(index))
        return item["label"]

    def source(self, index: int) -> dict[str, str]:
        """Return whose mask that is: the patient, as the dataset names it, and the mask's file in the dataset."""
        entry = self._entry(index)
        return {"patient": entry["patient"], "label": Path(entry["label"]).relative_to(self.root).as_posix()}

    def _entry(self, index: int) -> dict[str, Any]:
        number, place = divmod(index, len(self.entries))
        return self.entries[_permutation(self.seed, number, len(self.entries))[place]]


@lru_cache(maxsize=8)
def _permutation(seed: int, number: int, length: int) -> list[int]:
    """Return the order of a pass over all masks."""
    order: list[int] = np.random.default_rng([seed, number]).permutation(length).tolist()
    return order
