"""Whom the generators of pairs saw: what decides whether pairs may have a part in testing a patient.

The number of a fold says little: another preparation of the same patients deals them into other folds. So the
patients themselves are compared, by their digests (`pig_monai.data.patients`). Pairs stay good for a dataset that
has grown, whose folds stay. Its fingerprint has changed then, and serves only where a generator's checkpoint is
older than the list of its patients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pig_monai.data.folder import Entry, fingerprint
from pig_monai.data.patients import digest

UNKNOWN = "unknown"
"""The generator of pairs that do not name theirs."""


@dataclass(frozen=True)
class PairsTrace:
    """What pairs say of their generators. A guider needs no place here: it was trained on the same slices.

    Args:
        folds: that they held out.
        generators: by the SHA-256 of their weights; ``data`` (fingerprint of the dataset that each was trained on)
            and ``patients`` (digests; null where it learnt from pairs of unknown origin). None for one of which
            the pairs do not say it; without ``patients`` for one whose checkpoint is older than them.
        masks_of: patients to whose masks slices were made.
    """

    folds: tuple[int, ...]
    generators: Mapping[str, Mapping[str, Any] | None]
    masks_of: Collection[str]

    @classmethod
    def of_segmenter(cls, meta: Mapping[str, Any]) -> PairsTrace:
        """Return what a segmenter's ``model.json`` says of the pairs that it was trained on, if any."""
        nothing_said = {UNKNOWN: None} if meta.get("pairs") else {}
        folds, masks_of = tuple(meta.get("pairs_folds") or []), meta.get("pairs_masks_of", [])
        return cls(folds, meta.get("pairs_generators", nothing_said), masks_of)

    @classmethod
    def of_pairs(cls, datalist: Mapping[str, Any], entries: Sequence[Entry]) -> PairsTrace:
        """Return what a pairs folder says, as `train.yaml` reads it into ``model.json``.

        Args:
            datalist: of the folder.
            entries: those of its entries that are used.
        """
        sources = [entry.get("provenance", {}) for entry in entries]
        names = {source.get("generator_sha256", UNKNOWN) for source in sources}
        folds = {source["generator_fold"] for source in sources if "generator_fold" in source}
        masks_of = {entry["mask_of"]["patient"] for entry in entries if "mask_of" in entry}
        generators = {name: datalist.get("generators", {}).get(name) for name in sorted(names)}
        return cls(tuple(sorted(folds)), generators, sorted(masks_of))

    def is_known(self, dataset: Path) -> bool:
        """Whether they say who was seen, well enough to find the patients of a dataset among them.

        Args:
            dataset: its ``datalist.json``.
        """
        return all(
            generator is not None
            and (generator["patients"] is not None if "patients" in generator else _is_of(generator, dataset))
            for generator in self.generators.values()
        )

    def unseen(self, patients: Collection[str]) -> int:
        """Return how many of these patients no generator saw; 0 where the generators do not list whom they saw."""
        seen: set[str] = set()
        for generator in self.generators.values():
            if generator is None or generator.get("patients") is None:
                return 0
            seen.update(generator["patients"])
        return len(set(map(digest, patients)) - seen) if self.generators else 0

    def leak(self, fold: int, patients: Collection[str], everyone: Collection[str], dataset: Path) -> str | None:
        """Say why patients are no test after these pairs, as in "pairs whose generator …"; None where they are.

        Args:
            fold: of the patients; −1 for those of all folds.
            patients: who are tested.
            everyone: the patients of all folds.
            dataset: their ``datalist.json``.
        """
        elsewhere = [other for other in self.folds if fold not in (-1, other)]
        if elsewhere:
            held_out = "no fold" if elsewhere[0] == -1 else f"fold {elsewhere[0]}"
            return f"whose generator held out {held_out}, and fold is {fold}"
        tested, known = set(map(digest, patients)), set(map(digest, everyone))
        of_fold = f"the {len(tested)} patients of fold {fold} in {dataset}"
        for generator in filter(None, self.generators.values()):
            if "patients" not in generator:
                if fold == -1 and _is_of(generator, dataset):
                    return f"whose generator was trained on {dataset}, and fold is -1"
                continue
            seen = set(generator["patients"] or [])
            if seen & tested:
                return f"whose generator saw {len(seen & tested)} of {of_fold}"
            if fold != -1 and seen and not seen & known and not _is_of(generator, dataset):
                return (
                    f"whose generator was trained on another dataset than {dataset}, or with another key: "
                    f"its fold {fold} is not this"
                )
        given = set(map(digest, self.masks_of)) & tested
        return f"made for the masks of {len(given)} of {of_fold}" if given else None


def _is_of(generator: Mapping[str, Any], dataset: Path) -> bool:
    """Whether a generator was trained on this very dataset, some fold held out."""
    return generator.get("data") == fingerprint(dataset.parent)
