"""The figures in short: one question a row, its answer in words that need no statistics."""

from __future__ import annotations

from collections.abc import Sequence

from pig_monai.features.shape import STATISTICS
from pig_monai.features.space import LESION, MASK, SLICE, FeatureSpace
from pig_monai.html import between, probability
from pig_monai.metrics.two_samples import SIGNIFICANT
from pig_monai.pairs_evaluation.compare import Comparison
from pig_monai.pairs_evaluation.figures import EQUAL, FEW, GENERATED, HELDOUT, SPLIT, Figure, find

ANSWERS_HEAD = ["question", "generated", "real", "in words"]

ABOUT_AS_WELL = 0.05
"""So much may Dice differ to be called about the same."""


def answers(found: Sequence[Figure], spaces: Sequence[FeatureSpace], comparison: Comparison) -> list[list[str]]:
    """Return the rows of the short table.

    Args:
        found: all figures.
        spaces: the feature spaces; the first one answers.
        comparison: with the tests of the masks and the copies.
    """
    name = spaces[0].name
    questions = [
        ("Do the slices look like real ones? (Fréchet distance)", "frechet", SLICE),
        ("Do the lesions? (Fréchet distance of crops)", "frechet", LESION),
        ("Is each slice plausible? (precision)", "precision", SLICE),
        ("Is the variety of the real ones there? (coverage)", "coverage", SLICE),
    ]
    rows = [
        _compared(question, metric, region, name, found)
        for question, metric, region in questions
        if region in spaces[0].regions
    ]
    return [*rows, *_masks(comparison, found), *_consistency(found), *_memory(found)]


def _compared(question: str, metric: str, region: str, name: str, found: Sequence[Figure]) -> list[str]:
    """Answer by a figure of as many generated slices as there are real ones to compare them with."""
    heldout = find(found, metric, name, region, HELDOUT)
    real = find(found, metric, name, region, SPLIT) or heldout
    made = find(found, metric, name, region, EQUAL) or find(found, metric, name, region, GENERATED)
    if made is None or made.value is None:
        return [question, "–", "–", "too few slices to say" if made is None else made.note]
    if real is None or real.value is None:
        refused = "" if real is None else real.note
        return [question, f"{made.value:.3g}", "–", refused or "no real slices to compare with"]
    reached = f"{real.value:.3g}{in_brackets(real)}"
    if not real.value:
        return [question, f"{made.value:.3g}", reached, "it is 0 for unseen real slices: nothing to compare with"]
    ratio = made.value / real.value
    if metric == "frechet" and real.high is not None and made.value <= real.high:
        words = "no farther from the training slices than other real patients may be"
    elif metric == "frechet":
        words = f"{ratio:.1f} times as far from the training slices as other real patients are"
    else:
        words = f"{100 * ratio:.0f} % of what unseen real slices reach"
    return [question, f"{made.value:.3g}", reached, words]


def in_brackets(figure: Figure, percent: bool = False) -> str:
    """Return where 95 % lie, in brackets after the figure; empty where that is not known."""
    ends = between(figure.low, figure.high, percent)
    return "" if figure.low is None else f" ({ends})"


def _masks(comparison: Comparison, found: Sequence[Figure]) -> list[list[str]]:
    """Name the statistics whose test says that they differ, and more than those of held-out masks do.

    The test alone is too strict: it takes slices for independent, which those of one patient are not.
    """
    if not comparison.masks:
        return []
    question = "Are the masks like real ones? (largest difference of a figure, 0 to 1)"
    heldout = {name: find(found, "ks", name, MASK, HELDOUT) for name in comparison.masks}
    usual = {name: one.value for name, one in heldout.items() if one is not None and one.value is not None}
    differ = [
        name
        for name, test in comparison.masks.items()
        if test.p_holm < SIGNIFICANT and test.statistic > usual.get(name, 0.0)
    ]
    worst = sorted(differ, key=lambda name: -comparison.masks[name].statistic)
    named = ", ".join(f"{name.replace('_', ' ')} ({comparison.masks[name].statistic:.2f})" for name in worst)
    first = worst[0] if worst else max(comparison.masks, key=lambda name: comparison.masks[name].statistic)
    largest = f"{comparison.masks[first].statistic:.2f}"
    real = f"{usual[first]:.2f}" if first in usual else "–"
    few = any(one is not None and one.n_generated < FEW for one in heldout.values())
    none = "none differs more than held-out masks do" if usual else "no difference was found"
    none += ", which are few" if few else ""
    words = f"{len(differ)} of {len(STATISTICS)} figures differ: {named}" if differ else none
    return [[question, largest, real, words]]


def _consistency(found: Sequence[Figure]) -> list[list[str]]:
    generated, real = (
        find(found, "pair_consistency", "segmenter", MASK, sample) for sample in (GENERATED, HELDOUT)
    )
    if generated is None or generated.value is None:
        return []
    question = "Do mask and slice belong together? (Dice of a segmenter)"
    reached = (
        "–" if real is None or real.value is None else f"{100 * real.value:.1f} %{in_brackets(real, percent=True)}"
    )
    words = "no real slices to compare with"
    if real is not None and real.value is not None:
        words = (
            "a segmenter trained on real slices finds the generated masks about as well as real ones"
            if abs(generated.value - real.value) < ABOUT_AS_WELL
            else f"{100 * (generated.value - real.value):+.1f} points from real slices"
        )
    return [[question, f"{100 * generated.value:.1f} %{in_brackets(generated, percent=True)}", reached, words]]


def _memory(found: Sequence[Figure]) -> list[list[str]]:
    rows = []
    copies = find(found, "suspected_copies", "pixels", SLICE)
    if copies is not None and copies.value is not None:
        question = "Are there copies of training slices? (pixels)"
        words = "look at the gallery below" if copies.value else "none is much nearer to one training patient"
        rows.append([question, f"{copies.value:.0f} of {copies.n_generated}", "–", words])
    rows += _preference("Is it nearer to its training patients? (pixels)", "pixels", SLICE, found)
    rows += _preference("Are the masks nearer to those of training patients?", "outline", MASK, found)
    return rows


def _preference(question: str, features: str, region: str, found: Sequence[Figure]) -> list[list[str]]:
    share, expected, p = (
        find(found, name, features, region)
        for name in ("nearest_in_training", "nearest_in_training_expected", "nearest_in_training_p")
    )
    known = [one.value for one in (share, expected, p) if one is not None and one.value is not None]
    if len(known) < 3:
        return []
    nearer, by_chance, chance = known
    found_more = (
        "more than by chance: it remembers" if chance < SIGNIFICANT else "nothing beyond chance was detected"
    )
    words = f"{found_more} (p {probability(chance)})"
    return [[question, f"{100 * nearer:.0f} %", f"{100 * by_chance:.0f} % expected", words]]
