"""Evaluating segmenters on slices that they never saw."""

from __future__ import annotations

import math
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monai.engines import Evaluator
from tqdm import tqdm

from pig_monai.checkpoint import measuring_versions
from pig_monai.cli import as_bool
from pig_monai.data.folder import (
    DATALIST,
    Entry,
    fingerprint,
    heldout_entries,
    read_datalist,
    read_label,
    training_entries,
    write_label,
)
from pig_monai.errors import PigError
from pig_monai.evaluation.engine import OnSlice, make_evaluator
from pig_monai.evaluation.notes import notes
from pig_monai.evaluation.report import Gallery, report_page
from pig_monai.evaluation.results import (
    LESION_COLUMNS,
    TABLE_HEAD,
    SliceResult,
    as_csv,
    counts,
    markdown,
    measures,
    table_rows,
)
from pig_monai.evaluation.segmenters import (
    Segmenter,
    check_fits,
    check_same_size,
    given_weights,
    load_segmenter,
    pairs_are_traced,
)
from pig_monai.files import write_json, write_text
from pig_monai.metrics.bootstrap import DRAWS, LEVEL
from pig_monai.metrics.lesions import HIT_IOU
from pig_monai.plan import duration, file_size, peak_memory, print_plan
from pig_monai.runs import WORDS, Run
from pig_monai.stopping import StopAskedError, StopSignals

PREDICTIONS = "predictions"
OWNED = ("metrics.csv", "lesions.csv", "summary.json", "table.md", "report.html", PREDICTIONS)


@dataclass(frozen=True)
class EvaluatedSlices:
    """The slices to evaluate.

    Args:
        entries: with absolute paths; each has a label.
        left_out: number of entries by why they are no test.
    """

    entries: list[Entry]
    left_out: dict[str, int]


def select_entries(dataset_dir: str | Path, fold: int) -> EvaluatedSlices:
    """Choose the annotated slices of the held-out fold, or with −1 of all patients; generated ones never.

    Raises:
        PigError: there is none, or no such fold.
    """
    labelled = (
        training_entries(dataset_dir, -1, lesion_free=True)
        if fold == -1
        else heldout_entries(dataset_dir, fold, lesion_free=True)
    )
    entries = [entry for entry in labelled if entry.get("origin") != "synthetic"]
    if not entries:
        raise PigError(f"{Path(dataset_dir) / DATALIST} holds generated slices only", "evaluate on real ones")
    everything = read_datalist(dataset_dir)["training"]
    unannotated = sum("label" not in e for e in everything if fold in (-1, e["fold"]))
    return EvaluatedSlices(entries, {"unannotated": unannotated, "synthetic": len(labelled) - len(entries)})


class Evaluation:
    """One evaluation: of which weights, on which slices, into which folder.

    Args:
        bundle_root: whose ``configs/inference.yaml`` says how slices are segmented.
        dataset_dir: the dataset folder.
        fold: the fold to evaluate; −1 for all slices of data that the networks never saw.
        ckpt: weights, or the run folder with ``model.pt``; None for the bundle's own.
        ckpts: weights of an ensemble, instead of ``ckpt``; None for none.
        output_dir: receives the figures.
        device: where to infer.
        seed: of the bootstrap.
        batch_size: slices at a time.
        save_predictions: write the predicted masks, too.
        overwrite: replace a former evaluation.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        dataset_dir: str | Path,
        fold: int,
        ckpt: str | None,
        ckpts: Sequence[str] | str | None,
        output_dir: str | Path,
        device: str = "cpu",
        seed: int = 0,
        batch_size: int = 8,
        save_predictions: bool | str = False,
        overwrite: bool | str = False,
    ) -> None:
        self.inference = Path(bundle_root) / "configs" / "inference.yaml"
        self.dataset_dir = Path(dataset_dir)
        self.fold = fold
        self.weights = given_weights(ckpt, ckpts, bundle_root)
        self.output_dir = Path(output_dir)
        self.device = str(device)
        self.seed = seed
        self.batch_size = batch_size
        self.save_predictions = as_bool(save_predictions, "save_predictions")
        self.overwrite = as_bool(overwrite, "overwrite")

    @cached_property
    def selection(self) -> EvaluatedSlices:
        """The slices to evaluate."""
        return select_entries(self.dataset_dir, self.fold)

    @cached_property
    def segmenters(self) -> list[Segmenter]:
        """The networks, each checked against the slices."""
        patients = {str(entry["patient"]) for entry in self.selection.entries}
        everyone = {str(entry["patient"]) for entry in read_datalist(self.dataset_dir)["training"]}
        loaded = [load_segmenter(path, self.device) for path in self.weights]
        for segmenter in loaded:
            check_fits(segmenter, self.fold, patients, everyone, self.dataset_dir / DATALIST)
        check_same_size(loaded)
        return loaded

    @cached_property
    def folder(self) -> Run:
        """The output folder, which keeps figures of one evaluation only."""
        settings = {
            "weights": [s.sha256 for s in self.segmenters],
            "data": fingerprint(self.dataset_dir),
            "fold": self.fold,
            "seed": self.seed,
        }
        inputs = {"dataset_dir": self.dataset_dir, **{f"ckpts#{n}": path for n, path in enumerate(self.weights)}}
        return Run(self.output_dir, "evaluation", settings, OWNED, self.overwrite, inputs=inputs)

    def run(self) -> None:
        """Evaluate and write everything; the same command again does it again.

        Raises:
            PigError: slices or weights that are broken or do not fit each other, or another run in the folder.
            SystemExit: SIGTERM or Ctrl-C asked for it; no figure was written.
        """
        entries = self.selection.entries
        self.folder.open()  # knows its settings only once slices and weights are found to fit
        results: dict[int, SliceResult] = {}
        masks: dict[int, bytes] = {}
        with StopSignals() as stop, tqdm(total=len(entries), desc="evaluation", unit="slice") as bar:

            def on_slice(index: int, truth: np.ndarray, prediction: np.ndarray) -> None:
                stop.check()
                results[index] = SliceResult.of(entries[index], truth, prediction)
                masks[index] = zlib.compress(np.packbits(prediction).tobytes())
                if self.save_predictions:
                    path = self.output_dir / PREDICTIONS / Path(entries[index]["image"]).name
                    write_label(path, prediction, entries[index].get("spacing"))
                bar.update()

            evaluator = self._evaluator(entries, on_slice)
            try:
                evaluator.run()
            except StopAskedError as asked:
                print("stopped before any figure was written; the same command starts anew", file=sys.stderr)
                sys.exit(asked.status)
        self._write([results[index] for index in range(len(entries))], masks, evaluator.state.metrics)

    def _evaluator(self, entries: Sequence[Entry], on_slice: OnSlice) -> Evaluator:
        return make_evaluator(self.segmenters, entries, self.inference, self.device, self.batch_size, on_slice)

    def _write(
        self, results: Sequence[SliceResult], masks: Mapping[int, bytes], monais: Mapping[str, float]
    ) -> None:
        """Write all files; summary.json, which says that the evaluation is whole, last."""
        rows = [result.row() for result in results]
        write_text(self.output_dir / "metrics.csv", as_csv(rows, list(rows[0])))
        lesions = [row for result in results for row in result.lesion_rows()]
        write_text(self.output_dir / "lesions.csv", as_csv(lesions, LESION_COLUMNS))
        dataset = self.dataset_dir / DATALIST
        untraced = sum(not pairs_are_traced(segmenter, dataset) for segmenter in self.segmenters)
        found, counted = measures(results, self.seed), {**counts(results), "networks_of_untraced_pairs": untraced}
        about, noted, shown = self._about(counted), notes(counted, self.fold == -1), table_rows(found)
        text = markdown(TABLE_HEAD, shown)
        write_text(self.output_dir / "table.md", text)
        gallery = Gallery(results)
        predictions = {i: _unpack(masks[i], read_label(results[i].entry["label"]).shape) for i in gallery.shown}
        write_text(self.output_dir / "report.html", report_page(about, noted, shown, gallery, predictions))
        summary = {
            "dataset": read_datalist(self.dataset_dir).get("name"),
            "data": self.folder.settings["data"],
            "fold": self.fold,
            "weights": [_described(segmenter) for segmenter in self.segmenters],
            "counts": {**counted, "left_out": self.selection.left_out},
            "notes": noted,
            "measures": {name: one.to_dict() for name, one in found.items()},
            "monai": {name: None if math.isnan(value) else float(value) for name, value in monais.items()},
            "bootstrap": {"draws": DRAWS, "seed": self.seed, "level": LEVEL},
            "hit_iou": HIT_IOU,
            "versions": measuring_versions(),
        }
        write_json(self.output_dir / "summary.json", summary)
        print(text, end="")
        for line in (*(f"note: {note}" for note in noted), f"evaluated: {self.output_dir / 'report.html'}"):
            print(line, file=sys.stderr)

    def _about(self, counted: Mapping[str, int]) -> dict[str, str]:
        left_out = ", ".join(f"{n} {why}" for why, n in self.selection.left_out.items() if n)
        with_lesion = f"{counted['slices_with_lesion']} with {counted['lesions']} lesions"
        patients = f"{counted['patients']}, {counted['patients_with_lesion']} with a lesion"
        networks = f"{len(self.segmenters)} networks, whose probabilities are averaged"
        return {
            "dataset": str(read_datalist(self.dataset_dir).get("name")),
            "evaluated": "all patients" if self.fold == -1 else f"fold {self.fold}, held out",
            "slices": f"{counted['slices']}, {with_lesion}",
            "left out": left_out or "none",
            "patients": patients,
            "weights": f"{self.segmenters[0].sha256[:12]}…" if len(self.segmenters) == 1 else networks,
            "image size": f"{self.segmenters[0].image_size} × {self.segmenters[0].image_size} pixels",
        }

    def plan(self) -> None:
        """Check everything that `run` would need, time one batch, and print the plan; nothing is written."""
        entries = self.selection.entries
        intention = self.folder.check()
        batch = self._evaluator(entries[: self.batch_size], lambda *_: None)
        batch.run()  # the first one chooses algorithms
        begin = time.perf_counter()
        batch.run()  # its masks are on the CPU: the GPU has finished
        seconds = (time.perf_counter() - begin) / len(entries[: self.batch_size])
        weights = f"{len(self.segmenters)}, {', '.join(str(s.path) for s in self.segmenters)}"
        left_out = ", ".join(f"{n} {why}" for why, n in self.selection.left_out.items() if n)
        print_plan(
            "plan of an evaluation",
            {
                "networks": weights,
                "image size": f"{self.segmenters[0].image_size} × {self.segmenters[0].image_size} pixels",
                "slices": f"{len(entries)} of {'all patients' if self.fold == -1 else f'fold {self.fold}'}",
                "left out": left_out or None,
                "patients": len({entry["patient"] for entry in entries}),
                "output_dir": f"{self.output_dir} ({WORDS[intention]})",
                "a slice": f"{duration(seconds)} ({self.device})",
                "time to go": f"about {duration(len(entries) * seconds)}",
                "peak memory": file_size(peak_memory(self.device)),
            },
        )


def _described(segmenter: Segmenter) -> dict[str, Any]:
    """Return what the summary keeps of a network: no paths, and patients by number only."""
    pairs = ("pairs", "pairs_folds")
    kept = ("image_size", "fold", *pairs, "datalist_sha256", "data", "epoch", "iteration", "val_mean_dice")
    known = {key: segmenter.meta[key] for key in kept if key in segmenter.meta}
    return {"sha256": segmenter.sha256, **known, "patients": len(segmenter.meta["patients"])}


def _unpack(packed: bytes, shape: Sequence[int]) -> np.ndarray:
    """Return a mask, bool (W, H), that was kept as compressed bits."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=math.prod(shape))
    return bits.reshape(shape).astype(bool)
