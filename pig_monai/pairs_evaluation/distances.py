"""Distances and neighbourhoods in one feature space, with the rules for small samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from pig_monai.metrics.frechet import frechet_distance
from pig_monai.metrics.kernel import inner_similarity, kernel_distance, kernel_spread
from pig_monai.metrics.neighbours import neighbourhoods, radii
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
        the figures of `METRICS` and ``fid`` by sample, without a value where they were refused; ``kernel_sd``; and
        of the random choices ``frechet``, the mean, between whose ``low`` and ``high`` 95 % of them lie.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    held = None if heldout is None else np.asarray(heldout, np.float64)
    sizes = _Sizes(len(real), len(generated), None if held is None else len(held))
    row = partial(_row, features, region, sizes)
    names = (*METRICS, "fid") if fid else METRICS

    def refused(sample: str, n: int, few: int) -> list[Figure]:
        return [row(m, sample, n, None, f"refused: {few} slices are fewer than {LEAST}") for m in names]

    too_few = held is not None and len(held) < LEAST
    few_heldout = refused(HELDOUT, len(held), len(held)) if held is not None and too_few else []
    if sizes.smallest < LEAST:
        return [*refused(GENERATED, len(generated), sizes.smallest), *few_heldout]

    reference = _Reference.of(real, sizes.smallest // SLICES_A_DIMENSION, standardise)
    reduced = reference.reduced

    def figures(sample: str, slices: np.ndarray, n: int) -> list[Figure]:
        found = reference.measure(slices, n, fid, seed)
        drawn = f"mean of {DRAWS} draws of {n} slices" if n < len(slices) else ""
        notes = {"frechet": _reduction(reduced), "fid": _singular(len(real), n, real.shape[1])}
        return [row(name, sample, n, found[name], notes.get(name, ""), drawn) for name in names]

    rows = figures(GENERATED, generated, len(generated))
    sd, subset = kernel_spread(reference.slices, reference.whole(generated), seed)
    rows.append(row("kernel_sd", GENERATED, len(generated), sd, f"of subsets of {subset} slices"))
    if 0 < sizes.equal < len(generated):
        rows += figures(EQUAL, generated, sizes.equal)
    rows += few_heldout
    if held is not None and not too_few:
        rows += figures(HELDOUT, held, sizes.equal)
    if sizes.equal and patients is not None:
        everyone = real if held is None else np.concatenate([real, held])
        owners = [*patients[0], *(() if held is None else patients[1])]
        distances, others = split_distances(reduced(everyone), owners, sizes.equal, seed)
        if len(distances):
            low, high = map(float, np.quantile(distances, [0.025, 0.975]))
            said = (_reduction(reduced), f"{len(distances)} random choices of patients")
            mean = row("frechet", SPLIT, sizes.equal, float(distances.mean()), *said)
            rows.append(replace(mean, n_real=others, low=low, high=high))
    return rows


@dataclass(frozen=True)
class _Sizes:
    """How many slices there are, and how many of them are compared.

    Args:
        real: trained on.
        generated: that were made.
        heldout: not trained on; None where nobody was held out.
    """

    real: int
    generated: int
    heldout: int | None

    @property
    def equal(self) -> int:
        """Generated slices that are compared like the held-out ones, or a part of the patients; 0 for none."""
        given = self.real // PART if self.heldout is None else self.heldout
        return min(self.generated, given) if given >= LEAST else 0

    @property
    def smallest(self) -> int:
        """Slices of the smallest sample that is compared."""
        return min(self.real, self.generated, self.equal or self.generated)


def _row(
    features: str, region: str, sizes: _Sizes, metric: str, sample: str, n: int, value: float | None, *notes: str
) -> Figure:
    few = f"fewer than {FEW} slices: uncertain" if value is not None and sizes.smallest < FEW else ""
    note = "; ".join(filter(None, [*notes, few]))
    return Figure(metric, features, region, sample, value, sizes.real, n, note)


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


@dataclass(frozen=True)
class _Reference:
    """The real training slices, and what every comparison with them takes of them.

    Args:
        whole: the projection to all dimensions.
        reduced: that to those of the Fréchet distance.
        slices: (n, d), projected to all dimensions.
        reduced_slices: (n, r), projected to those of the Fréchet distance.
        inner: their similarity to each other.
        radii: of their neighbourhoods, (n,).
    """

    whole: Projection
    reduced: Projection
    slices: np.ndarray
    reduced_slices: np.ndarray
    inner: float
    radii: np.ndarray

    @classmethod
    def of(cls, real: np.ndarray, dimensions: int, standardise: bool) -> _Reference:
        """Take of real features (n, d) what is needed, for a Fréchet distance in at most so many dimensions."""
        whole = fit_projection(real, None, standardise)
        reduced = fit_projection(real, dimensions, standardise)
        slices = whole(real)
        return cls(whole, reduced, slices, reduced(real), inner_similarity(slices), radii(slices))

    def measure(self, slices: np.ndarray, n: int, fid: bool, seed: int) -> Mapping[str, float]:
        """Return the figures of ``n`` of the slices: of all, or means over draws."""
        rng = np.random.default_rng(seed)
        draws = [slices] if n == len(slices) else [slices[rng.choice(len(slices), n, False)] for _ in range(DRAWS)]
        found = []
        for drawn in draws:
            sample = self.whole(drawn)
            values = {
                "frechet": frechet_distance(self.reduced_slices, self.reduced(drawn)),
                "kernel": kernel_distance(self.slices, sample, self.inner),
            }
            if fid:
                values["fid"] = frechet_distance(self.slices, sample)
            lie = neighbourhoods(self.slices, sample, real_radii=self.radii)
            found.append({**values, **asdict(lie)})
        return {name: float(np.mean([values[name] for values in found])) for name in found[0]}


def _reduction(projection: Projection) -> str:
    if not projection.reduced:
        return ""
    of = f"{projection.dimensions} principal components of {len(projection.centre)} features"
    return f"{of}, {100 * projection.explained:.0f} % of the real variance"


def _singular(real: int, slices: int, dimensions: int) -> str:
    n = min(real, slices)
    if n > dimensions:
        return ""
    return (
        f"{n} slices for {dimensions} features: the covariance is singular and the value too high; only for equal "
        "numbers"
    )
