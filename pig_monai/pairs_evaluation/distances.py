"""Distances and neighbourhoods in one feature space, with the rules for small samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from pig_monai.metrics.frechet import frechet_distance
from pig_monai.metrics.kernel import kernel_distance
from pig_monai.metrics.neighbours import NEIGHBOURS, neighbourhoods
from pig_monai.metrics.projection import SLICES_A_DIMENSION, Projection, fit_projection
from pig_monai.pairs_evaluation.figures import EQUAL, FEW, GENERATED, HELDOUT, LEAST, SPLIT, Figure

METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage")

DRAWS = 10
"""Of so many random subsets the mean is taken, where a sample is cut to the size of another."""

SPLITS = 40
"""Random choices of patients whose distance to the others shows how far real patients are from each other."""

PART = 5
"""Where nobody was held out, a part of the patients as large as a fold of so many is split off."""


def compare_features(
    real: np.ndarray,
    generated: np.ndarray,
    heldout: np.ndarray | None = None,
    *,
    patients: tuple[Sequence[str], Sequence[str]] | None = None,
    features: str = "features",
    region: str = "slice",
    standardise: bool = False,
    fid: bool = False,
    seed: int = 0,
) -> list[Figure]:
    """Compare generated slices, and held-out real ones, with the real training slices, in one feature space.

    The rules, once for all:

    * A sample of fewer than `LEAST` slices has no figures; of fewer than `FEW`, figures with a note.
    * Everything but the kernel distance depends on the number of slices. Real slices are therefore compared with
      as many generated ones: the larger sample is cut to the size of the smaller one, and the mean of `DRAWS`
      draws taken.
    * The Fréchet distance is computed in no more dimensions than half the slices of the smallest sample that is
      compared. Where the features are more, their leading principal components are taken, of the real training
      slices, so that generated ones do not decide what is looked at.
    * Held-out patients are one choice of many. How far real patients are from each other is also shown by `SPLITS`
      random choices among all of them.

    Args:
        real: (n, d), of the slices that the generator was trained on.
        generated: (m, d).
        heldout: (h, d), of slices that it never saw; None where there are none.
        patients: whose each slice of ``real`` and of ``heldout`` is; None leaves out the random choices.
        features: the space's name.
        region: what part of the slices the features describe.
        standardise: divide each feature by its real standard deviation.
        fid: give the Fréchet distance in all dimensions, too, as ``fid``.
        seed: of draws and subsets.

    Returns:
        the figures of `METRICS`, ``kernel_sd``, ``fid``, and of the random choices ``frechet`` (mean),
        ``frechet_low`` and ``frechet_high`` (95 % of them lie between), by sample; without a value where they
        were refused.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    given = len(real) // PART if heldout is None else len(heldout)
    equal = min(len(generated), given) if given >= LEAST else 0
    held = None if heldout is None or not equal else np.asarray(heldout, np.float64)
    smallest = min(len(real), len(generated), *([equal] if equal else []))
    few = f"fewer than {FEW} slices: uncertain" if smallest < FEW else ""

    def figure(
        metric: str, sample: str, n: int, value: float | None, *notes: str, against: int = len(real)
    ) -> Figure:
        note = "; ".join(note for note in notes if note)
        return Figure(metric, features, region, sample, value, against, n, note)

    def refused(sample: str, n: int, few: int) -> list[Figure]:
        return [figure(m, sample, n, None, f"refused: {few} slices are fewer than {LEAST}") for m in METRICS]

    few_heldout = [] if heldout is None or len(heldout) >= LEAST else refused(HELDOUT, len(heldout), len(heldout))
    if smallest < LEAST:
        return [*refused(GENERATED, len(generated), smallest), *few_heldout]

    whole = fit_projection(real, None, standardise)
    reduced = fit_projection(real, smallest // SLICES_A_DIMENSION, standardise)
    notes = {"frechet": _reduction(reduced)}

    def figures(sample: str, slices: np.ndarray, n: int) -> list[Figure]:
        found = _measure(real, slices, n, whole, reduced, seed)
        drawn = f"mean of {DRAWS} draws of {n} slices" if n < len(slices) else ""
        return [figure(name, sample, n, found[name], notes.get(name, ""), drawn, few) for name in METRICS]

    rows = figures(GENERATED, generated, len(generated))
    kernel = kernel_distance(whole(real), whole(generated), seed)
    rows.append(
        figure("kernel_sd", GENERATED, len(generated), kernel.sd, f"of subsets of {kernel.subset} slices", few)
    )
    if 0 < equal < len(generated):
        rows += figures(EQUAL, generated, equal)
    rows += few_heldout if held is None else figures(HELDOUT, held, equal)
    if equal and patients is not None:
        everyone = real if held is None else np.concatenate([real, held])
        owners = [*patients[0], *(() if held is None else patients[1])]
        distances, others = split_distances(reduced(everyone), owners, equal, seed)
        said = f"{len(distances)} random choices of patients"
        rows += [
            figure(name, SPLIT, equal, value, notes["frechet"], said, few, against=others)
            for name, value in _spread(distances).items()
        ]
    if fid:
        for sample, slices in ((GENERATED, generated), (HELDOUT, held)):
            if slices is not None:
                value = frechet_distance(whole(real), whole(slices))
                rows.append(figure("fid", sample, len(slices), value, _singular(real, slices)))
    return rows


def split_distances(
    slices: np.ndarray, patients: Sequence[str], n: int, seed: int, splits: int = SPLITS
) -> tuple[np.ndarray, int]:
    """Return the Fréchet distances of randomly chosen patients to all others: how far real is from real.

    A choice that leaves fewer slices to the others than it takes is left out. Where nobody is held out, the others
    are fewer than the training slices, and the distances a little larger than a perfect generator's.

    Args:
        slices: (m, d), all real ones, projected.
        patients: whose each is.
        n: slices of the chosen patients; of the last one only as many as are needed.
        seed: of the choices.
        splits: how many.

    Returns:
        the distances, and the median number of the others' slices.
    """
    rng = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    distances, others = [], []
    for _ in range(splits):
        order = np.argsort(rng.permutation(len(names))[owner], kind="stable")  # patient by patient
        rest = owner[order] != owner[order[n - 1]]
        rest[:n] = False  # the others: nobody of whom a slice was chosen
        if rest.sum() < n:
            continue
        distances.append(frechet_distance(slices[order[rest]], slices[order[:n]]))
        others.append(rest.sum())
    return np.array(distances), int(np.median(others)) if others else 0


def _spread(distances: np.ndarray) -> dict[str, float]:
    if not len(distances):
        return {}
    low, high = np.quantile(distances, [0.025, 0.975])
    return {"frechet": float(distances.mean()), "frechet_low": float(low), "frechet_high": float(high)}


def _measure(
    real: np.ndarray, slices: np.ndarray, n: int, whole: Projection, reduced: Projection, seed: int
) -> Mapping[str, float]:
    """Return the figures of ``n`` of the slices: of all, or means over draws."""
    rng = np.random.default_rng(seed)
    draws = [slices] if n == len(slices) else [slices[rng.choice(len(slices), n, False)] for _ in range(DRAWS)]
    reference = whole(real)
    found = []
    for drawn in draws:
        sample = whole(drawn)
        values = {"frechet": frechet_distance(reduced(real), reduced(drawn))}
        values["kernel"] = kernel_distance(reference, sample, subsets=0).value
        found.append({**values, **asdict(neighbourhoods(reference, sample, NEIGHBOURS))})
    return {name: float(np.mean([values[name] for values in found])) for name in METRICS}


def _reduction(projection: Projection) -> str:
    if not projection.reduced:
        return ""
    of = f"{projection.dimensions} principal components of {len(projection.centre)} features"
    return f"{of}, {100 * projection.explained:.0f} % of the real variance"


def _singular(real: np.ndarray, slices: np.ndarray) -> str:
    n, d = min(len(real), len(slices)), real.shape[1]
    if n > d:
        return ""
    return (
        f"{n} slices for {d} features: the covariance is singular and the value too high; only for equal numbers"
    )
