"""Evaluating an autoencoder on slices that it never saw, lesions above all."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pig_monai.autoencoder.latents import Autoencoder, LatentStatistics, load_autoencoder
from pig_monai.autoencoder.quality import SegmentedImage, dice_of, lesion_crops, likeness
from pig_monai.autoencoder.results import Measured, Reconstructed, estimates, picture, pictured, readable_table
from pig_monai.checkpoint import versions
from pig_monai.cli import as_bool
from pig_monai.data.folder import (
    DATALIST,
    Entry,
    fingerprint,
    has_lesion,
    heldout_entries,
    read_datalist,
    training_entries,
)
from pig_monai.data.transforms import load_slices
from pig_monai.errors import PigError
from pig_monai.evaluation.notes import FEW_PATIENTS
from pig_monai.evaluation.results import as_csv
from pig_monai.evaluation.segmenters import Segmenter, check_fits, given_weights, load_segmenter
from pig_monai.files import atomic_path, write_json, write_text
from pig_monai.metrics.bootstrap import DRAWS, LEVEL
from pig_monai.plan import duration, file_size, peak_memory, print_plan
from pig_monai.runs import WORDS, Run
from pig_monai.stopping import stopping_at_once

JSON, CSV, TABLE, PICTURE = "autoencoder.json", "autoencoder.csv", "autoencoder.md", "autoencoder.png"

CHUNK = 8
"""Batches of the segmenter whose slices and reconstructions are in memory, and written for it, at a time."""


class AutoencoderEvaluation:
    """One evaluation: of which autoencoder, on which slices, into which folder.

    Args:
        bundle_root: whose ``configs/inference.yaml`` says how slices are segmented.
        dataset_dir: the dataset folder.
        autoencoder_ckpt: weights or run folder.
        segmenter_ckpt: a mass segmenter, weights or run folder, that held out the same fold; None for none.
        fold: the fold to evaluate; None for the one that the autoencoder held out, −1 for all slices of data that
            it never saw.
        output_dir: receives the figures.
        device: where to run.
        seed: of the bootstrap.
        batch_size: slices at a time for the segmenter.
        amp: bfloat16 autocast of the autoencoder.
        overwrite: replace a former evaluation.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        dataset_dir: str | Path,
        autoencoder_ckpt: str | Path,
        segmenter_ckpt: str | None,
        fold: int | None,
        output_dir: str | Path,
        device: str = "cpu",
        seed: int = 0,
        batch_size: int = 8,
        amp: bool | str = True,
        overwrite: bool | str = False,
    ) -> None:
        self.bundle_root = bundle_root
        self.inference = Path(bundle_root) / "configs" / "inference.yaml"
        self.dataset_dir = Path(dataset_dir)
        self.autoencoder_ckpt = autoencoder_ckpt
        self.segmenter_ckpt = segmenter_ckpt
        self.given_fold = fold
        self.output_dir = Path(output_dir)
        self.device = str(device)
        self.seed = seed
        self.batch_size = batch_size
        self.amp = as_bool(amp, "amp")
        self.overwrite = as_bool(overwrite, "overwrite")

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder."""
        return load_autoencoder(self.autoencoder_ckpt, self.device, self.amp)

    @cached_property
    def data(self) -> str:
        """The fingerprint of the slices."""
        return fingerprint(self.dataset_dir)

    @cached_property
    def fold(self) -> int:
        """The fold to evaluate.

        Raises:
            PigError: the autoencoder was trained on these slices.
        """
        held_out, trained_here = int(self.autoencoder.meta["fold"]), self.autoencoder.meta["data"] == self.data
        fold = held_out if self.given_fold is None else self.given_fold
        given = f"autoencoder_ckpt {self.autoencoder_ckpt}"
        if trained_here and (fold != held_out or fold == -1):
            held = "no fold" if held_out == -1 else f"fold {held_out}"
            remedy = "evaluate it on other data" if held_out == -1 else f"give --fold {held_out}"
            raise PigError(f"{given} was trained with {held} held out, and fold is {fold}", remedy)
        if not trained_here and fold != -1:
            raise PigError(
                f"{given} was trained on another dataset than {self.dataset_dir / DATALIST}",
                "evaluate the fold that it held out of its own, or by --fold -1 patients whom it never saw",
            )
        return fold

    @cached_property
    def entries(self) -> list[Entry]:
        """The slices to evaluate, annotated or not; generated ones never.

        Raises:
            PigError: there is none, or no such fold.
        """
        chosen = training_entries if self.fold == -1 else heldout_entries
        entries = chosen(self.dataset_dir, self.fold, labelled_only=False, lesion_free=True)
        real = [entry for entry in entries if entry.get("origin") != "synthetic"]
        if not real:
            raise PigError(f"{self.dataset_dir / DATALIST} holds generated slices only", "evaluate on real ones")
        return real

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """The segmenter, checked against the slices, or None."""
        if self.segmenter_ckpt is None:
            return None
        (path,) = given_weights(self.segmenter_ckpt, None, self.bundle_root)
        segmenter = load_segmenter(path, self.device)
        patients = {str(entry["patient"]) for entry in self.entries}
        everyone = {str(entry["patient"]) for entry in read_datalist(self.dataset_dir)["training"]}
        check_fits(segmenter, self.fold, patients, everyone, self.dataset_dir / DATALIST)
        return segmenter

    @cached_property
    def folder(self) -> Run:
        """The output folder, which keeps figures of one evaluation only."""
        settings = {
            "autoencoder_sha256": self.autoencoder.sha256,
            "segmenter_sha256": self.segmenter and self.segmenter.sha256,
            "data": self.data,
            "fold": self.fold,
            "seed": self.seed,
            "amp": self.amp,
        }
        owned = (JSON, CSV, TABLE, PICTURE)
        inputs = {
            "dataset_dir": self.dataset_dir,
            "autoencoder_ckpt": self.autoencoder_ckpt,
            "segmenter_ckpt": None if self.segmenter is None else self.segmenter.path,
        }
        return Run(self.output_dir, "autoencoder evaluation", settings, owned, self.overwrite, inputs=inputs)

    def run(self) -> None:
        """Evaluate and write everything; the same command again does it again.

        Raises:
            PigError: slices or weights that are broken or do not fit each other, or another run in the folder.
            SystemExit: SIGTERM or Ctrl-C asked for it; no figure was written.
        """
        self.folder.open()  # knows its settings only once slices and weights are found to fit
        with stopping_at_once("stopped before any figure was written; the same command starts anew"):
            found, latents = self._measure_all()
            shown = [self._reconstruct(entry) for entry in pictured(found)]  # again: they were not kept
        self._write(found, latents, shown)

    def _measure_all(self) -> tuple[list[Measured], LatentStatistics]:
        """Measure every slice; no more of them are in memory than the segmenter gets in a chunk."""
        found, latents = [], LatentStatistics()
        waiting: list[tuple[Measured, Reconstructed]] = []
        for entry in tqdm(self.entries, desc="autoencoder evaluation", unit="slice"):
            one = self._reconstruct(entry)
            latents.add(one.latent)
            found.append(self._measure(entry, one))
            if self.segmenter is not None and one.mask is not None:
                waiting.append((found[-1], one))
            if len(waiting) == CHUNK * self.batch_size:
                self._segment(waiting)
                waiting.clear()
        if waiting:
            self._segment(waiting)
        return found, latents

    def _reconstruct(self, entry: Entry) -> Reconstructed:
        item: Any = load_slices(self.autoencoder.meta["image_size"])(entry)
        image = item["image"][None].to(self.device)
        latent = self.autoencoder.encode(image)
        true, made = image[0, 0].cpu(), self.autoencoder.decode(latent)[0, 0].cpu()
        mask = item["label"][0].numpy() > 0.5 if "label" in item else None
        return Reconstructed(true.numpy(), made.numpy(), mask, latent.cpu())

    def _measure(self, entry: Entry, one: Reconstructed) -> Measured:
        true, made = torch.as_tensor(one.slice_), torch.as_tensor(one.made)
        boxes = [] if one.mask is None else lesion_crops(one.mask)
        around = [likeness(true[box], made[box]) for box in boxes]
        return Measured(entry, one.mask is not None, likeness(true, made), around)

    def _segment(self, chunk: Sequence[tuple[Measured, Reconstructed]]) -> None:
        """Note the segmenter's Dice on slices and reconstructions, both of the autoencoder's size."""
        stored = read_datalist(self.dataset_dir)["preprocessing"]["size"]
        scale = stored / self.autoencoder.meta["image_size"]

        def images(name: str) -> Iterator[SegmentedImage]:
            for measured, one in chunk:
                spacing = measured.entry.get("spacing")
                yield SegmentedImage(getattr(one, name), one.mask, spacing and [s * scale for s in spacing])  # type: ignore[arg-type]

        both = [
            dice_of(self.segmenter, list(images(name)), self.inference, self.device, self.batch_size)  # type: ignore[arg-type]
            for name in ("slice_", "made")
        ]
        for (measured, _), on_slice, on_made in zip(chunk, *both, strict=True):
            measured.dice = (on_slice, on_made)

    def _write(self, found: Sequence[Measured], latents: LatentStatistics, shown: Sequence[Reconstructed]) -> None:
        """Write all files; autoencoder.json, which says that the evaluation is whole, last."""
        rows = [one.row() for one in found]
        write_text(self.output_dir / CSV, as_csv(rows, list(rows[0])))
        measures = estimates(found, self.seed)
        table = readable_table(measures)
        write_text(self.output_dir / TABLE, table)
        with atomic_path(self.output_dir / PICTURE) as scratch:
            picture(shown).save(scratch)
        mean, std = latents.result()
        notes = self._notes(found)
        meta = self.autoencoder.meta
        summary = {
            "dataset": read_datalist(self.dataset_dir).get("name"),
            "data": self.data,
            "fold": self.fold,
            "autoencoder": {
                "sha256": self.autoencoder.sha256,
                **{key: meta[key] for key in ("network", "image_size", "iteration", "latent")},
            },
            "segmenter": self.segmenter
            and {"sha256": self.segmenter.sha256, "image_size": self.segmenter.image_size},
            "counts": {
                "slices": len(found),
                "patients": len({one.patient for one in found}),
                "annotated": sum(one.annotated for one in found),
                "lesions": sum(len(one.lesions) for one in found),
            },
            "notes": notes,
            "measures": {name: one.to_dict() for name, one in measures.items()},
            "latents": {"mean": mean, "std": std},
            "amp": self.amp,
            "bootstrap": {"draws": DRAWS, "seed": self.seed, "level": LEVEL},
            "versions": versions(),
        }
        write_json(self.output_dir / JSON, summary)
        print(table, end="")
        for line in (*(f"note: {note}" for note in notes), f"evaluated: {self.output_dir / TABLE}"):
            print(line, file=sys.stderr)

    def _notes(self, found: Sequence[Measured]) -> list[str]:
        """Return what a reader must know before believing the figures."""
        phantoms = sum(one.entry.get("origin") == "phantom" for one in found)
        patients = len({one.patient for one in found})
        notes = [
            (patients < FEW_PATIENTS, f"{patients} patients are too few for intervals to be trusted"),
            (self.fold == -1, "the autoencoder does not say on whom it was trained: not on these, one hopes"),
            (phantoms, f"{phantoms} slices are of a phantom, drawn anatomy: they say nothing about real breasts"),
            (self.segmenter is None, "without a segmenter nothing says whether lesions are still found"),
        ]
        return [note for applies, note in notes if applies]

    def plan(self) -> None:
        """Check everything that `run` would need, time one slice, and print the plan; nothing is written."""
        entries, segmenter = self.entries, self.segmenter
        intention = self.folder.check()
        self._measure(entries[0], self._reconstruct(entries[0]))  # the first one chooses algorithms
        begin = time.perf_counter()
        self._measure(entries[0], self._reconstruct(entries[0]))
        seconds = time.perf_counter() - begin
        size, factor = self.autoencoder.meta["image_size"], self.autoencoder.factor
        print_plan(
            "plan of an autoencoder's evaluation",
            {
                "autoencoder": f"{self.autoencoder_ckpt}, iteration {self.autoencoder.meta['iteration']}",
                "image size": f"{size} × {size} pixels",
                "latents": f"{self.autoencoder.channels} × {size // factor} × {size // factor}",
                "segmenter": segmenter and str(segmenter.path),
                "slices": f"{len(entries)} of {'all patients' if self.fold == -1 else f'fold {self.fold}'}",
                "annotated": f"{sum(map(has_lesion, entries))} with a lesion",
                "output_dir": f"{self.output_dir} ({WORDS[intention]})",
                "a slice": f"{duration(seconds)} ({self.device}), without the segmenter",
                "time to go": f"about {duration(len(entries) * seconds)}",
                "peak memory": file_size(peak_memory(self.device)),
            },
        )
