"""The figures in short: one question a row, its answer in words that need no statistics."""

from __future__ import annotations

from collections.abc import Sequence

from pig_monai.features.shape import STATISTICS
from pig_monai.features.space import LESION, MASK, SLICE, FeatureSpace
from pig_monai.pairs_evaluation.compare import Comparison
from pig_monai.pairs_evaluation.figures import EQUAL, GENERATED, HELDOUT, Figure, find

ANSWERS_HEAD = ["question", "generated", "real, held out", "in words"]

LEVEL = 0.05
"""Of the tests."""


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
    rows = [_compared(question, metric, region, name, found) for question, metric, region in questions]
    return [*rows, _masks(comparison), *_consistency(found), *_memory(found)]


def _compared(question: str, metric: str, region: str, name: str, found: Sequence[Figure]) -> list[str]:
    """Answer by a figure of as many generated slices as there are held-out ones."""
    heldout = find(found, metric, name, region, HELDOUT)
    whole = find(found, metric, name, region, GENERATED)
    equal = (find(found, metric, name, region, EQUAL) or whole) if heldout else whole
    if equal is None or equal.value is None:
        return [question, "–", "–", "too few slices to say" if equal is None else equal.note]
    if heldout is None or heldout.value is None:
        return [question, f"{equal.value:.3g}", "–", "no held-out slices to compare with"]
    ratio = equal.value / heldout.value if heldout.value else float("inf")
    words = (
        f"{ratio:.1f} times as far from the training slices as unseen real slices"
        if metric == "frechet"
        else f"{ratio:.2f} of what unseen real slices reach"
    )
    return [question, f"{equal.value:.3g}", f"{heldout.value:.3g}", words]


def _masks(comparison: Comparison) -> list[str]:
    question = "Are the masks like real ones?"
    differ = [name for name, test in comparison.masks.items() if test.p_holm < LEVEL]
    count = f"{len(differ)} of {len(STATISTICS)} figures differ"
    worst = sorted(differ, key=lambda name: -comparison.masks[name].statistic)
    return [question, count, "–", ", ".join(name.replace("_", " ") for name in worst) or "no difference was found"]


def _consistency(found: Sequence[Figure]) -> list[list[str]]:
    generated, real = (
        find(found, "pair_consistency", "segmenter", MASK, sample) for sample in (GENERATED, HELDOUT)
    )
    if generated is None or generated.value is None:
        return []
    question = "Do mask and slice belong together? (Dice of a segmenter)"
    reached = "–" if real is None or real.value is None else f"{100 * real.value:.1f} %"
    words = f"{generated.note}; no real slices to compare with"
    if real is not None and real.value is not None:
        words = (
            "a segmenter trained on real slices finds the generated masks about as well as real ones"
            if abs(generated.value - real.value) < 0.05
            else f"{100 * (generated.value - real.value):+.1f} points from real slices"
        )
    return [[question, f"{100 * generated.value:.1f} %", reached, words]]


def _memory(found: Sequence[Figure]) -> list[list[str]]:
    copies = find(found, "suspected_copies", "pixels", SLICE)
    share, expected, p = (
        find(found, name, "pixels", SLICE)
        for name in ("nearest_in_training", "nearest_in_training_expected", "nearest_in_training_p")
    )
    rows = []
    if copies is not None and copies.value is not None:
        words = "look at the gallery below" if copies.value else "none is much nearer to one training patient"
        number = f"{copies.value:.0f} of {copies.n_generated}"
        rows.append(["Are there copies of training slices? (pixels)", number, "–", words])
    if share and expected and p and share.value is not None and expected.value is not None:
        chance = p.value or 0.0
        found_more = "more than by chance: it remembers" if chance < LEVEL else "as chance would have it"
        rows.append(
            [
                "Is it nearer to its training patients? (pixels)",
                f"{100 * share.value:.0f} %",
                f"{100 * expected.value:.0f} % expected",
                f"{found_more} (p = {chance:.3f})",
            ]
        )
    return rows
