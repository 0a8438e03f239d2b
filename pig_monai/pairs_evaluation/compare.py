"""All figures of generated against real slices that need no segmenter's masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pig_monai.features.space import MASK, SLICE, FeatureSpace
from pig_monai.metrics.memorisation import (
    LEAST_PATIENTS,
    Copies,
    TooFewPatientsError,
    find_copies,
    training_preference,
)
from pig_monai.metrics.projection import fit_projection
from pig_monai.metrics.two_samples import TwoSampleTest, compare_statistics
from pig_monai.pairs_evaluation.distances import compare_features
from pig_monai.pairs_evaluation.figures import FEW, GENERATED, HELDOUT, Figure
from pig_monai.pairs_evaluation.samples import Samples


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Args:
        figures: all of them.
        copies: of slices, by feature space, in the order of the generated sample; empty where the patients are too
            few.
        masks: the tests of the mask statistics, generated against training; empty for slices without masks.
    """

    figures: list[Figure]
    copies: dict[str, Copies]
    masks: dict[str, TwoSampleTest]


def compare_samples(samples: Samples, spaces: Sequence[FeatureSpace], seed: int) -> Comparison:
    """Compare generated slices with those that their generator was trained on.

    Args:
        samples: what was measured.
        spaces: in which it was.
        seed: of every draw.
    """
    training, generated, heldout = samples
    figures: list[Figure] = []
    for space in (space for space in spaces if space.distances):
        for region in space.regions:
            key = (space.name, region)
            figures += compare_features(
                training.features[key],
                generated.features[key],
                None if heldout is None else heldout.features[key],
                patients=(training.patients, [] if heldout is None else heldout.patients),
                features=space.name,
                region=region,
                standardise=space.standardise,
                fid=space.fid and region == SLICE,
                seed=seed,
            )
    rows, tests = mask_figures(samples)
    figures += rows
    copies: dict[str, Copies] = {}
    for space in spaces:
        if SLICE in space.regions:
            rows, found = copy_figures(samples, space)
            figures += rows
            if found is not None:
                copies[space.name] = found
        figures += preference_figures(samples, space, seed)
    return Comparison(figures, copies, tests)


def mask_figures(samples: Samples) -> tuple[list[Figure], dict[str, TwoSampleTest]]:
    """Test the statistics of generated masks against those of the training masks; and those of held-out ones.

    Returns:
        figures ``ks`` (0 to 1), ``ks_p_holm`` and ``median``, by statistic; and the tests of the generated masks.
        Nothing where the generated slices have no masks.
    """
    training, generated, heldout = samples
    if not generated.statistics:
        return [], {}
    figures, tests = [], compare_statistics(training.statistics, generated.statistics)
    n = len(training)
    for sample, masks in ((GENERATED, generated), (HELDOUT, heldout)):
        if masks is None:
            continue
        few = f"fewer than {FEW} slices: uncertain" if min(n, len(masks)) < FEW else ""
        found = tests if sample == GENERATED else compare_statistics(training.statistics, masks.statistics)
        for name, test in found.items():
            values = {"ks": test.statistic, "ks_p_holm": test.p_holm, "median": test.medians[1]}
            notes = {"ks": few, "ks_p_holm": few, "median": f"{test.medians[0]:.4g} of the training masks"}
            figures += [
                Figure(metric, name, MASK, sample, value, n, len(masks), notes[metric])
                for metric, value in values.items()
            ]
    return figures, tests


def copy_figures(samples: Samples, space: FeatureSpace) -> tuple[list[Figure], Copies | None]:
    """Look for copies of training slices in one feature space.

    Returns:
        the figures ``suspected_copies`` (a number of slices) and, where nobody was held out,
        ``distance_ratio_in_training``; and the copies, None where the patients are too few to tell.
    """
    training, generated, heldout = samples

    def figure(metric: str, value: float | None, note: str) -> Figure:
        return Figure(metric, space.name, SLICE, GENERATED, value, len(training), len(generated), note)

    real, made, *held = _projected(samples, space, SLICE)
    try:
        copies = find_copies(made, real, training.patients, held[0] if held else None)
    except TooFewPatientsError as cause:
        return [figure("suspected_copies", None, f"refused: {cause}")], None
    limits = f"relative distance below {copies.limit:.3f}; of real slices 99 % are above {copies.usual_end:.3f}"
    shared = f"; {copies.shared} real slices are another patient's, too: one patient under two names?"
    suspected = float(np.count_nonzero(copies.suspected))
    figures = [figure("suspected_copies", suspected, limits + (shared if copies.shared else ""))]
    if heldout is None:
        figures.append(figure("distance_ratio_in_training", copies.ratio, "no held-out patients"))
    return figures, copies


def preference_figures(samples: Samples, space: FeatureSpace, seed: int) -> list[Figure]:
    """Test whether slices, or masks that were made, are near to training patients' beyond chance.

    Of masks there is no more than this test: another patient's may be nearly the same, so that a single copy
    cannot be told.

    Returns:
        the figures ``nearest_in_training`` (a share), ``nearest_in_training_expected``, ``nearest_in_training_p``
        and ``distance_ratio``, of slices and, in a space that serves memorisation alone, of what else it looks at;
        none without held-out patients, or where there are too few training patients.
    """
    training, generated, heldout = samples
    if heldout is None or len(set(training.patients)) < LEAST_PATIENTS:
        return []
    figures = []
    for region in (region for region in space.regions if region == SLICE or not space.distances):
        real, made, held = _projected(samples, space, region)
        found = training_preference(made, real, training.patients, held, heldout.patients, seed)
        counted = f"{found.patients[0]} training and {found.patients[1]} held-out patients"
        few = "; too few to be certain" if found.patients[1] < LEAST_PATIENTS else ""
        values = {
            "nearest_in_training": (found.share, counted + few),
            "nearest_in_training_expected": (found.expected, "share of the training patients among all"),
            "nearest_in_training_p": (
                found.p_value,
                "how often random choices of the held-out patients give as much",
            ),
            "distance_ratio": (found.ratio, "at equal numbers of patients; 1 is expected, less is memory"),
        }
        figures += [
            Figure(metric, space.name, region, GENERATED, value, len(training), len(generated), note)
            for metric, (value, note) in values.items()
        ]
    return figures


def _projected(samples: Samples, space: FeatureSpace, region: str) -> list[np.ndarray]:
    """Return the features of training, generated and, if any, held-out slices, in units of the training ones."""
    features = [one.features[space.name, region] for one in samples if one is not None]
    project = fit_projection(features[0], None, space.standardise)
    return [project(one) for one in features]
