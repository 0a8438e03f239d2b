"""Cross-validation folds: patients, never slices, balanced by lesion presence and size."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

FOLDS = 5
SIZE_CLASSES = 3


def assign_folds(
    lesion_sizes: Mapping[str, float | None],
    seed: int,
    existing: Mapping[str, int] | None = None,
    folds: int = FOLDS,
) -> dict[str, int]:
    """Deal patients into folds.

    Patients without a lesion form one class, those whose slices nobody labelled another, the others three classes
    by the size of their largest lesion. Each class is put in an order that the seed and the raw patient id decide,
    and dealt: a patient goes to the fold that has fewest of its class, then fewest patients at all.

    Args:
        lesion_sizes: raw patient id (before hashing, so that the key has no say) → area of the patient's largest
            lesion, 0 for none, None where nobody labelled the patient's slices; any unit.
        seed: decides the order.
        existing: folds that are kept: patients that were dealt earlier.
        folds: how many.

    Returns:
        raw patient id → fold, for every patient of ``lesion_sizes``.
    """
    assigned = {patient: fold for patient, fold in (existing or {}).items() if patient in lesion_sizes}
    classes = _size_classes(lesion_sizes)
    in_fold = Counter(assigned.values())
    of_class = Counter((classes[patient], fold) for patient, fold in assigned.items())
    waiting = sorted(set(lesion_sizes) - set(assigned), key=lambda p: (classes[p], _shuffled(seed, p)))
    for patient in waiting:
        kind = classes[patient]
        fold = min(range(folds), key=lambda f: (of_class[kind, f], in_fold[f], f))
        assigned[patient] = fold
        in_fold[fold] += 1
        of_class[kind, fold] += 1
    return assigned


def _size_classes(lesion_sizes: Mapping[str, float | None]) -> dict[str, int]:
    with_lesion = sorted((size, patient) for patient, size in lesion_sizes.items() if size)
    classes = {p: 1 + rank * SIZE_CLASSES // len(with_lesion) for rank, (_, p) in enumerate(with_lesion)}
    others = {p: 0 if size == 0 else 1 + SIZE_CLASSES for p, size in lesion_sizes.items()}
    return others | classes


def _shuffled(seed: int, patient: str) -> str:
    """Return a key to sort by: as good as random, yet the same whoever else is in the set."""
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()
