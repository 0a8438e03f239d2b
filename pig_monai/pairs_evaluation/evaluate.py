"""Evaluating a folder of generated pairs, or of generated slices without masks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pig_monai.checkpoint import measuring_versions
from pig_monai.cli import as_bool
from pig_monai.data.folder import DATALIST, Entry, fingerprint, read_datalist
from pig_monai.evaluation.results import as_csv
from pig_monai.evaluation.segmenters import Segmenter, given_weights, load_segmenter
from pig_monai.features.pixels import OUTLINES, PIXELS
from pig_monai.features.pretrained import dinov2_space, inception_space
from pig_monai.features.segmenter import SliceSegmenter
from pig_monai.features.shape import SHAPE
from pig_monai.features.space import FeatureSpace, within
from pig_monai.features.texture import TEXTURE
from pig_monai.files import sha256, write_json, write_text
from pig_monai.metrics.memorisation import Copies
from pig_monai.pairs_evaluation.compare import Comparison, compare_samples
from pig_monai.pairs_evaluation.consistency import (
    Reference,
    check_trained_on_real,
    consistency_figures,
    find_reference,
    segment_entries,
)
from pig_monai.pairs_evaluation.figures import COLUMNS, NEAREST, Figure
from pig_monai.pairs_evaluation.notes import facts_about, notes_about
from pig_monai.pairs_evaluation.report import report_page
from pig_monai.pairs_evaluation.samples import (
    Pairs,
    Sample,
    Samples,
    check_unseen,
    measure,
    read_pairs,
    real_entries,
)
from pig_monai.plan import duration, file_size, peak_memory, print_plan
from pig_monai.runs import WORDS, Run
from pig_monai.stopping import StopAskedError, StopSignals

OWNED = ("metrics.json", "metrics.csv", "report.html")

OnBatch = Callable[[int], None]


class PairsEvaluation:
    """One evaluation: of which pairs, against which real slices, into which folder.

    Args:
        bundle_root: whose ``configs/inference.yaml`` says how slices are segmented.
        dataset_dir: the dataset folder of real slices that the pairs' generator was trained on.
        pairs_dir: the pairs folder, or one of slices without masks.
        output_dir: receives the figures.
        segmenter_ckpt: a segmenter's weights, or its run folder; None leaves out what needs one.
        inception_weights: InceptionV3's, for the FID; None leaves it out.
        dinov2_weights: DINOv2's, in a folder of torch.hub; None leaves it out.
        device: where networks compute.
        seed: of draws and bootstraps.
        batch_size: slices that a network gets at a time.
        max_pairs: the first so many pairs are evaluated.
        overwrite: replace a former evaluation.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        dataset_dir: str | Path,
        pairs_dir: str | Path,
        output_dir: str | Path,
        segmenter_ckpt: str | None = None,
        inception_weights: str | None = None,
        dinov2_weights: str | None = None,
        device: str = "cpu",
        seed: int = 0,
        batch_size: int = 8,
        max_pairs: int = 4096,
        overwrite: bool | str = False,
    ) -> None:
        self.bundle_root = Path(bundle_root)
        self.dataset_dir = Path(dataset_dir)
        self.pairs_dir = Path(pairs_dir)
        self.output_dir = Path(output_dir)
        self.segmenter_ckpt = segmenter_ckpt
        self.inception_weights = inception_weights
        self.dinov2_weights = dinov2_weights
        self.device = str(device)
        self.seed = seed
        self.batch_size = batch_size
        self.max_pairs = max_pairs
        self.overwrite = as_bool(overwrite, "overwrite")

    @cached_property
    def pairs(self) -> Pairs:
        """What is evaluated."""
        return read_pairs(self.pairs_dir, self.max_pairs)

    @cached_property
    def real(self) -> tuple[list[Entry], list[Entry]]:
        """The real slices that the generator was trained on, and those that it held out."""
        training, heldout = real_entries(self.dataset_dir, self.pairs.fold)
        if heldout:
            check_unseen(self.pairs, heldout, self.pairs_dir, self.dataset_dir)
        return training, heldout

    @cached_property
    def weights(self) -> Segmenter | None:
        """The segmenter, checked; None where none was given."""
        if self.segmenter_ckpt is None:
            return None
        segmenter = load_segmenter(given_weights(self.segmenter_ckpt, None, self.bundle_root)[0], self.device)
        check_trained_on_real(segmenter)
        return segmenter

    @cached_property
    def segmenter(self) -> SliceSegmenter | None:
        """The segmenter, ready for slices."""
        inference = self.bundle_root / "configs" / "inference.yaml"
        if self.weights is None:
            return None
        return SliceSegmenter(self.weights, inference, self.device, self.batch_size)

    @cached_property
    def segmented(self) -> tuple[list[Entry], Reference]:
        """Whose masks the segmenter is to find: the pairs, and real slices for its own Dice."""
        if self.weights is None or not self.pairs.have_masks:
            return [], Reference([], "")
        return self.pairs.entries, find_reference(self.weights, self.dataset_dir)

    @cached_property
    def spaces(self) -> list[FeatureSpace]:
        """The feature spaces, the one that is read first at the front; of what the generated slices can show."""
        given = []
        if self.dinov2_weights is not None:
            given.append(dinov2_space(self.dinov2_weights, self.device, self.batch_size))
        if self.inception_weights is not None:
            given.append(inception_space(self.inception_weights, self.device, self.batch_size))
        own = [] if self.segmenter is None else [self.segmenter.space]
        outlines = [OUTLINES] if self.pairs.made_masks else []
        return within([*given, TEXTURE, SHAPE, *own, PIXELS, *outlines], self.pairs.regions)

    @cached_property
    def folder(self) -> Run:
        """The output folder, which keeps figures of one evaluation only."""
        networks = {"inception_weights": self.inception_weights, "dinov2_weights": self.dinov2_weights}
        settings = {
            "data": fingerprint(self.dataset_dir),
            "pairs": fingerprint(self.pairs_dir),
            "segmenter_sha256": self.weights and self.weights.sha256,
            **{name: None if path is None else sha256(path) for name, path in networks.items()},
            "seed": self.seed,
            "max_pairs": self.max_pairs,
        }
        inputs = {
            "dataset_dir": self.dataset_dir,
            "pairs_dir": self.pairs_dir,
            "segmenter_ckpt": None if self.weights is None else self.weights.path,
            **networks,
        }
        return Run(self.output_dir, "pairs-evaluation", settings, OWNED, self.overwrite, inputs=inputs)

    def run(self) -> None:
        """Evaluate and write everything; the same command again does it again.

        Raises:
            PigError: broken pairs, slices or weights, what does not fit each other, or another run in the folder.
            SystemExit: SIGTERM or Ctrl-C asked for it; no figure was written.
        """
        training, heldout = self.real
        pairs, spaces, (segmented, reference) = self.pairs.entries, self.spaces, self.segmented
        self.folder.open()  # knows its settings only once all else is found to fit
        every = (training, pairs, heldout, segmented, reference.entries)
        with _watched(sum(map(len, every))) as on_batch:
            samples = Samples(
                self._measured(training, spaces, on_batch),
                self._measured(pairs, spaces, on_batch),
                self._measured(heldout, spaces, on_batch) if heldout else None,
            )
            consistency = self._consistency(on_batch)
        comparison = compare_samples(samples, spaces, self.seed)
        self._write(samples, comparison, consistency)

    def _measured(self, entries: list[Entry], spaces: list[FeatureSpace], on_batch: OnBatch) -> Sample:
        return measure(entries, self.pairs.size, spaces, on_batch)

    def _consistency(self, on_batch: OnBatch) -> list[Figure]:
        if self.segmenter is None:
            return []
        pairs, reference = self.segmented
        generated, real = (
            segment_entries(entries, self.pairs.size, self.segmenter, on_batch)
            for entries in (pairs, reference.entries)
        )
        return consistency_figures(generated, real, self.seed, reference.note)

    def _write(self, samples: Samples, comparison: Comparison, consistency: list[Figure]) -> None:
        """Write all files; metrics.json, which says that the evaluation is whole, last."""
        figures = [*comparison.figures, *consistency]
        dataset = read_datalist(self.dataset_dir)
        about = facts_about(dataset, self.pairs, samples, self.weights, self.spaces)
        traced = self.pairs.trace.is_known(self.dataset_dir / DATALIST)
        notes = notes_about(dataset, self.pairs, samples, self.weights, traced)
        rows = [figure.row() for figure in figures]
        write_text(self.output_dir / "metrics.csv", as_csv(rows, COLUMNS))
        page = report_page(about, notes, samples, comparison, figures, self.spaces, self.pairs)
        write_text(self.output_dir / "report.html", page)
        content = {
            "dataset": dataset.get("name"),
            "settings": self.folder.settings,
            "generator_fold": self.pairs.fold,
            "image_size": self.pairs.size,
            "counts": {name: 0 if one is None else len(one) for name, one in samples._asdict().items()},
            "left_out": self.pairs.left_out,
            "notes": notes,
            "features": {s.name: {"title": s.title, "regions": list(s.regions)} for s in self.spaces},
            "figures": rows,
            "suspected_copies": {
                name: _named(samples, found, found.order[: np.count_nonzero(found.suspected)])
                for name, found in comparison.copies.items()
            },
            "nearest": {
                name: _named(samples, found, found.order[:NEAREST]) for name, found in comparison.copies.items()
            },
            "versions": measuring_versions(),
        }
        write_json(self.output_dir / "metrics.json", content)
        for line in (*(f"note: {note}" for note in notes), f"evaluated: {self.output_dir / 'report.html'}"):
            print(line, file=sys.stderr)

    def plan(self) -> None:
        """Check everything that `run` would need, time a few slices, and print the plan; nothing is written."""
        training, heldout = self.real
        pairs, spaces, (segmented, reference) = self.pairs.entries, self.spaces, self.segmented
        intention = self.folder.check()
        few = pairs[:8]
        seconds = _timed(lambda: self._measured(few, spaces, lambda _: None)) / len(few)
        to_go = (len(training) + len(pairs) + len(heldout)) * seconds
        segmenter, consistency = self.segmenter, None
        if segmenter is not None and segmented:
            each = _timed(lambda: segment_entries(few, self.pairs.size, segmenter, lambda _: None)) / len(few)
            to_go += (len(segmented) + len(reference.entries)) * each
            consistency = f"{len(reference.entries)} real slices to compare, {duration(each)} a slice"
        print_plan(
            f"plan of an evaluation of {self.pairs.kind}",
            {
                self.pairs.kind: f"{len(pairs)} at {self.pairs.size} pixels",
                "trained on": f"{len(training)} real slices",
                "held out": f"{len(heldout)} real slices (fold {self.pairs.fold})" if heldout else None,
                "features": ", ".join(space.name for space in spaces),
                "consistency": consistency,
                "output_dir": f"{self.output_dir} ({WORDS[intention]})",
                "a slice": f"{duration(seconds)} ({self.device})",
                "time to go": f"about {duration(to_go)}",
                "peak memory": file_size(peak_memory(self.device)),
            },
        )


def _timed(work: Callable[[], Any]) -> float:
    """Return the seconds that some work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextmanager
def _watched(slices: int) -> Any:
    """Show the progress and act on signals; yields what to tell of each batch."""
    with StopSignals() as stop, tqdm(total=slices, desc="evaluation", unit="slice") as bar:

        def on_batch(count: int) -> None:
            bar.update(count)
            stop.check()

        try:
            yield on_batch
        except StopAskedError as asked:
            print("stopped before any figure was written; the same command starts anew", file=sys.stderr)
            sys.exit(asked.status)


def _named(samples: Samples, copies: Copies, chosen: Iterable[int]) -> list[dict[str, Any]]:
    """Name generated slices, the training and held-out slices nearest to them, and how near the former are."""

    def heldout(i: int) -> str | None:
        if samples.heldout is None or copies.nearest_heldout is None:
            return None
        return Path(samples.heldout.entries[copies.nearest_heldout[i]]["image"]).name

    return [
        {
            "pair": Path(samples.generated.entries[i]["image"]).name,
            "slice": Path(samples.training.entries[copies.nearest[i]]["image"]).name,
            "heldout": heldout(i),
            "relative_distance": float(copies.relative[i]),
        }
        for i in chosen
    ]
