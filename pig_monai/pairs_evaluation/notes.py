"""What a reader must know of an evaluation before believing its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pig_monai.evaluation.segmenters import Segmenter
from pig_monai.features.space import FeatureSpace
from pig_monai.pairs_evaluation.figures import FEW, LEAST
from pig_monai.pairs_evaluation.samples import Pairs, Sample, Samples


def facts_about(
    dataset: Mapping[str, Any],
    pairs: Pairs,
    samples: Samples,
    segmenter: Segmenter | None,
    spaces: Sequence[FeatureSpace],
) -> dict[str, str]:
    """Return what was compared with what.

    Args:
        dataset: the content of its ``datalist.json``.
        pairs: what was evaluated.
        samples: what was measured.
        segmenter: None for none.
        spaces: the feature spaces.
    """

    def said(sample: Sample) -> str:
        return f"{len(sample)} of {len(set(sample.patients))} patients"

    heldout = "none" if samples.heldout is None else f"{said(samples.heldout)} (fold {pairs.fold})"
    return {
        pairs.kind: f"{len(samples.generated)} at {pairs.size} × {pairs.size} pixels",
        "real slices": str(dataset.get("name")),
        "trained on": said(samples.training),
        "held out": heldout,
        "segmenter": "none given" if segmenter is None else f"{segmenter.sha256[:12]}…",
        "features": ", ".join(space.title for space in spaces),
    }


def notes_about(
    dataset: Mapping[str, Any], pairs: Pairs, samples: Samples, segmenter: Segmenter | None, traced: bool
) -> list[str]:
    """Return the notes; arguments as for `facts_about`, and whether the pairs say whom their generator saw."""
    training, _, heldout = samples
    real = training.entries + ([] if heldout is None else heldout.entries)
    phantoms = sum(entry.get("origin") == "phantom" for entry in real)
    stored = dataset.get("preprocessing", {}).get("size", pairs.size)
    smallest = min(len(sample) for sample in samples if sample is not None)
    empty = sum(sample.empty for sample in samples if sample is not None)
    patients = set(training.patients)
    unseen = pairs.trace.unseen(patients)
    left = ", ".join(f"{n} {why}" for why, n in pairs.left_out.items() if n)
    notes = [
        (smallest < FEW, f"{smallest} slices are few: look at the pictures before the figures"),
        (
            heldout is not None and len(heldout) < LEAST,
            "too few slices are held out to compare the training slices with",
        ),
        (
            not pairs.says_fold,
            f"the {pairs.kind} do not say which fold their generator held out: all slices count as trained on",
        ),
        (
            pairs.says_fold and not traced,
            f"the {pairs.kind} do not say whom their generator saw: whether it was these training slices, and "
            "none of the held-out ones, is not known",
        ),
        (
            unseen,
            f"{unseen} of the {len(patients)} patients that count as trained on were not seen by the generator: "
            "the dataset has grown, or is another one",
        ),
        (
            pairs.fold == -1,
            "no real slices are held out: copies are looked for by how near the training slices are to each "
            "other, and nothing shows what a perfect generator would get",
        ),
        (phantoms, f"{phantoms} slices are of a phantom, drawn anatomy: they say nothing about real breasts"),
        (empty, f"{empty} slices with an empty mask were left out"),
        (left, f"left out: {left}"),
        (
            stored < pairs.size,
            f"the real slices are stored at {stored} pixels and were enlarged to the generated ones' {pairs.size}",
        ),
        (
            segmenter is None and pairs.have_masks,
            "without a segmenter, whether mask and slice belong together was not measured",
        ),
        (
            not pairs.have_masks,
            "no generated slice has a mask: lesions, masks, and whether mask and slice belong together were not "
            "measured; the real slices are those with a lesion, as for pairs",
        ),
    ]
    return [note for applies, note in notes if applies]
