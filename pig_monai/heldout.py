"""What weights must not have seen: the slices that a training holds out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pig_monai.data.folder import fingerprint, read_datalist
from pig_monai.data.patients import digest
from pig_monai.errors import PigError


@dataclass(frozen=True)
class HeldOut:
    """What a training holds out.

    Args:
        data: fingerprint of its dataset.
        fold: that is held out; −1 for none.
        patients: of that fold, as digests (`pig_monai.data.patients`).
        others: of the other folds, likewise.
    """

    data: str
    fold: int
    patients: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()

    @classmethod
    def of(cls, dataset_dir: str | Path, fold: int) -> HeldOut:
        """Return what a training on a dataset folder holds out."""
        folds = {digest(entry["patient"]): entry["fold"] for entry in read_datalist(dataset_dir)["training"]}
        patients = frozenset(one for one, its in folds.items() if its == fold)
        return cls(fingerprint(dataset_dir), fold, patients, frozenset(folds) - patients)

    def check(self, given: str, meta: Mapping[str, Any]) -> None:
        """Refuse weights that have learnt from the slices held out: every figure would be too good.

        Where the weights do not say whom they saw, or the dataset they saw shares no patient with this one (which
        may be a matter of its key), they are let through, and that is said on stderr.

        Args:
            given: the id and the path of the weights.
            meta: what their checkpoint says of itself.

        Raises:
            PigError: they were trained on the same data with another fold held out, or none; or on patients of
                this fold in another preparation.
        """
        if self.fold == -1:
            return
        remedy = f"name one that was trained with --fold {self.fold}: this one has learnt from the held-out slices"
        if meta["data"] == self.data:
            if meta["fold"] != self.fold:
                theirs = "no fold" if meta["fold"] == -1 else f"fold {meta['fold']}"
                held_out = f"was trained with {theirs} held out, and this training holds out fold {self.fold}"
                raise PigError(f"{given} {held_out}", remedy)
            return
        seen = frozenset(meta.get("patients") or [])
        if seen & self.patients:
            count = f"{len(seen & self.patients)} of the {len(self.patients)} patients"
            raise PigError(
                f"{given} was trained on {count} of fold {self.fold}, which this training holds out", remedy
            )
        if not seen & self.others:
            print(
                f"{given} was trained on other data: make sure that no patient of fold {self.fold} is in it",
                file=sys.stderr,
            )
