"""Pair consistency: whether a segmenter that never saw a pair finds the mask that a slice was generated with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pig_monai.data.folder import DATALIST, Entry, read_datalist
from pig_monai.errors import PigError
from pig_monai.evaluation.evaluate import select_entries
from pig_monai.evaluation.results import SliceResult, measures
from pig_monai.evaluation.segmenters import Segmenter, check_fits, trained_on_list
from pig_monai.features.segmenter import SliceSegmenter
from pig_monai.features.space import MASK
from pig_monai.metrics.bootstrap import Estimate
from pig_monai.pairs_evaluation.figures import FEW, GENERATED, HELDOUT, Figure
from pig_monai.pairs_evaluation.samples import read_batches

SHOWN = {"pair_consistency": "dice", "pair_consistency_hits": "lesions_hit"}
"""Figures by the measure of `pig_monai.evaluation` that they are."""


def check_trained_on_real(segmenter: Segmenter) -> None:
    """Refuse a segmenter that was trained on pairs.

    Raises:
        PigError: it was.
    """
    pairs = segmenter.meta.get("pairs", 0)
    if pairs:
        raise PigError(
            f"segmenter_ckpt {segmenter.path} was trained with {pairs} pairs",
            "give one trained on real slices alone: another may have learnt what the pairs get wrong",
        )


@dataclass(frozen=True)
class Reference:
    """Real slices that the segmenter never saw: what it reaches on them is what pairs can be measured by.

    Args:
        entries: with absolute paths and lesions.
        note: how they were chosen.
    """

    entries: list[Entry]
    note: str


def find_reference(segmenter: Segmenter, dataset_dir: str | Path) -> Reference:
    """Choose the real slices with a lesion on which the segmenter's own Dice is measured.

    They are the fold that it held out; or all, for a segmenter that was trained on other patients; or none, for
    one that held out nobody.

    Raises:
        PigError: the segmenter does not say on whom it was trained, or was trained on pairs of those patients.
    """
    path = Path(dataset_dir) / DATALIST
    everyone = {str(entry["patient"]) for entry in read_datalist(dataset_dir)["training"]}
    own = bool(everyone & set(map(str, segmenter.meta["patients"]))) or trained_on_list(segmenter, path)
    fold = segmenter.meta["fold"] if own else -1
    if own and fold == -1:
        return Reference([], "the segmenter held out nobody: what it reaches on real slices is not known")
    entries = [e for e in select_entries(dataset_dir, fold).entries if e.get("lesion", True)]
    check_fits(segmenter, fold, {str(entry["patient"]) for entry in entries}, everyone, path)
    note = f"fold {fold}, which the segmenter held out" if own else "all slices: the segmenter saw none of them"
    return Reference(entries, note)


def segment_entries(
    entries: Sequence[Entry], size: int, segmenter: SliceSegmenter, on_batch: Callable[[int], None]
) -> list[SliceResult]:
    """Compare the segmenter's masks with the labels.

    Args:
        entries: with absolute paths, each with a label.
        size: pixels a side to which slices and labels are brought first.
        segmenter: the network.
        on_batch: is told how many slices were read.
    """
    results = []
    for batch, slices, masks in read_batches(entries, size):
        assert masks is not None  # each has a label
        found = segmenter.masks(slices)
        results += [SliceResult.of(e, mask, one) for e, mask, one in zip(batch, masks, found, strict=True)]
        on_batch(len(batch))
    return results


def consistency_figures(
    generated: Sequence[SliceResult], real: Sequence[SliceResult], seed: int, note: str = ""
) -> list[Figure]:
    """Return Dice and lesion sensitivity of the segmenter, on the pairs and on real slices.

    Args:
        generated: of the pairs.
        real: of slices that the segmenter never saw; may be none.
        seed: of the bootstrap's draws.
        note: how the real ones were chosen.
    """
    figures = []
    for sample, results, which in ((GENERATED, generated, ""), (HELDOUT, real, note)):
        if results:
            found = measures(results, seed)
            figures += [_figure(metric, sample, found[name], which) for metric, name in SHOWN.items()]
    return figures


def _figure(metric: str, sample: str, one: Estimate, which: str) -> Figure:
    uncertain = f"fewer than {FEW}: uncertain" if one.n < FEW else ""
    alone = "no interval: one patient" if one.low is None else ""
    note = "; ".join(filter(None, [alone or uncertain, which]))
    return Figure(metric, "segmenter", MASK, sample, one.mean, None, one.n, note, one.low, one.high)
