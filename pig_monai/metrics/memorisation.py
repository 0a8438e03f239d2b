"""Memorisation: whether generated slices are nearer to the slices that were trained on than they should be.

Two questions. *Are there copies?* A copy is much nearer to one patient's slices than to all others' (after
Carlini et al., USENIX Security 2023); how much real slices are, their own patient left aside, says what is usual.
*Does the generator prefer its training patients?* Without memory a patient whom it never saw is as likely to have
the real slice nearest to a generated one (after Dar et al., arXiv 2402.01054).

Patients, not slices, are compared: slices of one patient resemble each other, and a few average-looking patients
are near to everything, so that counting slices would take chance for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from pig_monai.metrics.blocks import blocks

OTHERS = 10
"""Next patients whose mean distance a nearest patient's is measured by."""

LEAST_PATIENTS = 5
"""Fewer, and there is no neighbourhood to measure by."""

USUAL = 0.01
"""Quantile of the real slices' relative distances that ends the usual …"""

COPY = 2 / 3
"""… and a suspected copy is nearer than this part of it."""

TWIN = 1e-3
"""A real slice that is relatively nearer to another patient's is the same one, twice exported or computed."""

DRAWS = 2000
"""Random choices of the held-out patients."""

RATIO_DRAWS = 20
"""Random choices of as many training patients as there are held-out ones."""


@dataclass(frozen=True)
class Copies:
    """How near each generated slice is to a training patient.

    Args:
        nearest: (n,), the index of the nearest training slice.
        distances: (n,), to it.
        relative: (n,), the distance to the nearest training patient, divided by the mean of those to the next
            ones: about 1 where nothing is copied, 0 for a copy.
        usual: (m,), the same of real slices, their own patients left aside; without the `shared` ones.
        shared: real slices that another patient has, too: they say nothing of what is usual, and would hide
            copies.
        usual_end: what 99 % of those are above.
        apart: (k,), the distance of each training slice to another patient's nearest one.
        nearest_heldout: (n,), the index of the nearest held-out slice; None where there are none.
    """

    nearest: np.ndarray
    distances: np.ndarray
    relative: np.ndarray
    usual: np.ndarray
    shared: int
    usual_end: float
    apart: np.ndarray
    nearest_heldout: np.ndarray | None = None

    @property
    def order(self) -> np.ndarray:
        """The generated slices' numbers, (n,), the one nearest to a training patient first."""
        return np.argsort(self.relative, kind="stable")

    @property
    def limit(self) -> float:
        """The relative distance below which a slice is a suspected copy."""
        return COPY * self.usual_end

    @property
    def ratio(self) -> float:
        """The median distance to the nearest training slice, by that of training slices to each other's patients.

        All there is where nobody was held out. Blurred slices are near to everything: less than 1 is a hint, no
        proof.
        """
        return float(np.median(self.distances) / max(float(np.median(self.apart)), 1e-12))

    @property
    def suspected(self) -> np.ndarray:
        """Which slices are suspected copies: bool (n,)."""
        suspected: np.ndarray = self.relative < self.limit
        return suspected


class TooFewPatientsError(ValueError):
    """The training patients do not tell how near slices of different patients usually are."""


def find_copies(
    generated: np.ndarray,
    training: np.ndarray,
    patients: Sequence[str],
    heldout: np.ndarray | None = None,
) -> Copies:
    """Look for copies of training slices.

    What is usual is measured on the training slices, each against the other patients', and on held-out ones.

    Args:
        generated: features (n, d).
        training: features (m, d).
        patients: whose each training slice is; at least `LEAST_PATIENTS` different ones.
        heldout: features of slices of patients who were not trained on; None where there are none.

    Raises:
        TooFewPatientsError: to tell what is usual, or none whose slices are all their own.
    """
    owner, count = _owners(patients)
    if count < LEAST_PATIENTS:
        raise TooFewPatientsError(f"{count} training patients are too few to look for copies")
    distances = cdist(generated, training)
    among = _by_patient(training, training, owner, count)
    among[np.arange(len(training)), owner] = np.inf
    usual = [_relative(among)]
    if heldout is not None:
        usual.append(_relative(_by_patient(heldout, training, owner, count)))
    found = np.concatenate(usual)
    known = found[found > TWIN]
    if not len(known):
        raise TooFewPatientsError("every training slice is another patient's, too")
    return Copies(
        nearest=distances.argmin(axis=1),
        distances=distances.min(axis=1),
        relative=_relative(_nearest(distances, owner, count)),
        usual=known,
        shared=len(found) - len(known),
        usual_end=float(np.quantile(known, USUAL)),
        apart=among.min(axis=1),
        nearest_heldout=None if heldout is None else cdist(generated, heldout).argmin(axis=1),
    )


@dataclass(frozen=True)
class Preference:
    """Whether generated slices lie nearer to training patients than to held-out ones.

    Args:
        share: of the generated slices, whose nearest real slice is a training patient's.
        expected: what it is on average when as many patients are held out by chance: the training patients' share.
        p_value: how often it is then as high.
        ratio: the median distance of generated slices to the nearest training slice, divided by that to the
            nearest held-out one, for as many patients of either; 1 is expected, less is memory. None where the
            generated slices are held-out ones.
        patients: the numbers of training and of held-out patients.
    """

    share: float
    expected: float
    p_value: float
    ratio: float | None
    patients: tuple[int, int]


def training_preference(
    generated: np.ndarray,
    training: np.ndarray,
    patients: Sequence[str],
    heldout: np.ndarray,
    heldout_patients: Sequence[str],
    seed: int = 0,
    draws: int = DRAWS,
) -> Preference:
    """Compare the training patients with the held-out ones by a permutation test.

    Folds are drawn at random, so that a generator without memory cannot tell the patients apart: all ways to hold
    out as many of them are equally likely.

    Args:
        generated: features (n, d).
        training: features (m, d).
        patients: whose each training slice is.
        heldout: features (h, d) of patients who were not trained on.
        heldout_patients: whose each held-out slice is; none of the training patients.
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: a patient on both sides.
    """
    if set(patients) & set(heldout_patients):
        raise ValueError("a patient is trained on and held out")
    owner, trained = _owners(patients)
    other, held = _owners(heldout_patients)
    near = _by_patient(generated, training, owner, trained)
    far = _by_patient(generated, heldout, other, held)
    # how many generated slices are nearest to each patient; the first ones are those trained on
    wins = np.bincount(np.hstack([near, far]).argmin(axis=1), minlength=trained + held)
    share = wins[:trained].sum() / len(generated)
    rng = np.random.default_rng(seed)
    chosen = rng.random((draws, trained + held)).argsort(axis=1)[:, :held]  # who is held out instead
    drawn = 1 - wins[chosen].sum(axis=1) / len(generated)
    fewer = min(trained, held)
    distances = np.array(
        [
            [
                np.median(side[:, rng.choice(side.shape[1], fewer, replace=False)].min(axis=1))
                for side in (near, far)
            ]
            for _ in range(RATIO_DRAWS)
        ]
    ).mean(axis=0)
    return Preference(
        share=float(share),
        expected=trained / (trained + held),
        p_value=float((1 + np.count_nonzero(drawn >= share - 1e-12)) / (1 + draws)),
        ratio=float(distances[0] / distances[1]) if distances[1] else None,
        patients=(trained, held),
    )


def _owners(patients: Sequence[str]) -> tuple[np.ndarray, int]:
    """Return each slice's patient as a number, and how many patients there are."""
    known, owner = np.unique(np.asarray(patients), return_inverse=True)
    return owner, len(known)


def _by_patient(slices: np.ndarray, others: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Return the distances of slices (n, d) to each patient's nearest slice among others, (n, count)."""
    rows = [_nearest(cdist(slices[block], others), owner, count) for block in blocks(len(slices))]
    return np.concatenate(rows)


def _nearest(distances: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Return the distances (n, m) to slices as those to each patient's nearest slice, (n, count)."""
    return np.stack([distances[:, owner == patient].min(axis=1) for patient in range(count)], axis=1)


def _relative(distances: np.ndarray) -> np.ndarray:
    """Return the smallest distance of each row, divided by the mean of the `OTHERS` next ones that are finite."""
    ordered = np.sort(distances, axis=1)
    finite = int(np.isfinite(ordered).all(axis=0).sum())
    following = ordered[:, 1 : min(1 + OTHERS, finite)].mean(axis=1)
    relative: np.ndarray = ordered[:, 0] / np.maximum(following, 1e-12)
    return relative
