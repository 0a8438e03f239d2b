"""What the nodes of a study left: figures by method and by arm, read from their folders."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon

from pig_monai.errors import PigError
from pig_monai.files import read_json, read_rows
from pig_monai.metrics.bootstrap import Estimate, estimate, paired_difference
from pig_monai.metrics.spread import Spread
from pig_monai.metrics.two_samples import holm
from pig_monai.pairs_evaluation.figures import EQUAL, GENERATED, HELDOUT
from pig_monai.study import layout
from pig_monai.study.arms import Arm, Kind, arms
from pig_monai.study.methods import Method, Training
from pig_monai.study.settings import Study

OVERLAPS = ("dice", "iou", "precision", "recall")
"""Table 2's measures, columns of an evaluation's metrics.csv."""

REMEDY = "let the study finish: give the same snakemake command again"
RATE = re.compile(r"([\d.]+) s a candidate")
"""What a sampling says of its cost."""

Key = tuple[str, str, str]
"""A figure's metric, features and region."""


@dataclass(frozen=True)
class Cost:
    """What a method costs, in one fold.

    Args:
        parameters: of the networks that make a slice.
        iterations: of each of them; the most.
        minutes: of all trainings that it takes, shared ones included; None where too short to be measured.
        seconds: a slice that was accepted, of the last sampling; None where its log does not say.
    """

    parameters: int
    iterations: int
    minutes: float | None
    seconds: float | None


@dataclass(frozen=True)
class MethodResult:
    """A row of table 1.

    Args:
        study: whose folders are read.
        method: which.
    """

    study: Study
    method: Method

    def pairs_folder(self, fold: int) -> Path:
        """Return the folder of its pairs, or slices."""
        return self.study.output / layout.pairs(fold, self.method.name)

    @cached_property
    def quality(self) -> list[dict[str, Any]]:
        """The content of metrics.json, by fold."""
        folders = [self.study.output / layout.quality(fold, self.method.name) for fold in self.study.folds]
        return [read_json(folder / "metrics.json", REMEDY) for folder in folders]

    @cached_property
    def costs(self) -> list[Cost]:
        """By fold."""
        return [self._cost(fold) for fold in self.study.folds]

    @property
    def evaluated(self) -> Spread:
        """How many of its slices were measured."""
        return Spread([one["counts"]["generated"] for one in self.quality])

    @property
    def accepted(self) -> Spread:
        """Share of its candidates that were accepted."""
        return Spread([self._accepted(fold) for fold in self.study.folds])

    def _accepted(self, fold: int) -> float:
        report = read_json(self.pairs_folder(fold) / "report.json", REMEDY)
        return float(report["accepted"] / report["candidates"])

    def figure(self, key: Key, samples: Sequence[str] = (EQUAL, GENERATED)) -> Spread:
        """Return a figure of quality, of the first of some samples that there is.

        As many generated slices as there are held-out ones are the first choice: figures depend on the number.
        """
        return self._of_figure(key, samples, "value")

    def slices_of(self, key: Key) -> Spread:
        """Return of how many generated slices `figure` is."""
        return self._of_figure(key, (EQUAL, GENERATED), "n_generated")

    def _of_figure(self, key: Key, samples: Sequence[str], what: str) -> Spread:
        found = [_find(one["figures"], key, samples) for one in self.quality]
        return Spread([None if one is None else one[what] for one in found])

    def reference(self, key: Key) -> Spread:
        """Return the figure of real slices that the generator never saw."""
        return self.figure(key, (HELDOUT,))

    def _cost(self, fold: int) -> Cost:
        trainings = self.study.trainings(self.method)
        networks = [self._checkpoint(fold, training) for training in trainings.networks()]
        minutes = [self._minutes(fold, training) for training in trainings.all()]
        log = self.study.output / layout.log(layout.pairs(fold, self.method.name))
        rates = RATE.findall(log.read_text(errors="replace")) if log.is_file() else []
        known = [one for one in minutes if one is not None]
        return Cost(
            sum(tensor.numel() for one in networks for tensor in one["model"].values()),
            max(one["meta"]["iteration"] for one in networks),
            sum(known) if len(known) == len(minutes) else None,
            float(rates[-1]) / self._accepted(fold) if rates else None,
        )

    def _training_folder(self, fold: int, training: Training) -> Path:
        return self.study.output / layout.network(fold, training.name)

    def _checkpoint(self, fold: int, training: Training) -> dict[str, Any]:
        path = self._training_folder(fold, training) / f"model_{training.role}.pt"
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as cause:
            raise PigError(f"{path} cannot be read ({cause.strerror})", REMEDY) from None
        return content

    def _minutes(self, fold: int, training: Training) -> float | None:
        """Return what the steps of a training took, validation and previews left out, by its own measurements."""
        folder = self._training_folder(fold, training)
        batch = read_json(folder / "run.json", REMEDY)["settings"]["batch_size"]
        done, seconds = 0, 0.0
        for row in read_rows(folder / "metrics.csv", REMEDY) if (folder / "metrics.csv").is_file() else []:
            if row["images_per_second"]:
                iteration = int(row["iteration"])
                seconds += (iteration - done) * batch / float(row["images_per_second"])
                done = iteration
        return seconds / 60 if done else None


def _find(figures: Iterable[Mapping[str, Any]], key: Key, samples: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the figure of the first of some samples that has a value."""
    found = [f for f in figures if (f["metric"], f["features"], f["region"]) == key and f["value"] is not None]
    by_sample = {one["sample"]: one for one in found}
    return next((by_sample[sample] for sample in samples if sample in by_sample), None)


@dataclass(frozen=True)
class Difference:
    """An arm against another, on the same slices.

    Args:
        of: the difference of the slices, with its interval over patients.
        p_value: of Wilcoxon's signed-rank test of the patients' means.
        p_holm: corrected for the number of arms that are compared with that other one.
    """

    of: Estimate
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class ArmResult:
    """A row of table 2: an arm's evaluations in all folds, by all seeds.

    Args:
        study: whose folders are read.
        by_fold: the arm, by fold; of some the folder's name differs between folds.
    """

    study: Study
    by_fold: Mapping[int, Arm]

    @property
    def arm(self) -> Arm:
        """The first fold's."""
        return self.by_fold[self.study.folds[0]]

    @cached_property
    def runs(self) -> dict[tuple[int, int], list[dict[str, str]]]:
        """The slices' rows with a lesion, by fold and seed."""
        return {(fold, seed): self._rows(fold, seed) for fold in self.study.folds for seed in self.study.seeds}

    def _rows(self, fold: int, seed: int) -> list[dict[str, str]]:
        arm = self.by_fold[fold]
        trained = self.study.output / layout.segmenter(fold, arm.name, seed) / layout.MODEL_META
        pairs = read_json(trained, REMEDY)["pairs"]
        if pairs != arm.pairs:
            raise PigError(
                f"{trained} says that {pairs} pairs were trained with, not {arm.pairs}",
                "remove that folder and its mark, and give the same snakemake command again",
            )
        evaluation = self.study.output / layout.evaluation(fold, arm.name, seed)
        return [row for row in read_rows(evaluation / "metrics.csv", REMEDY) if row["dice"]]

    def over_runs(self, measure: str) -> Spread:
        """Return a measure's mean over the slices of each run."""
        return Spread([statistics.fmean(float(row[measure]) for row in rows) for rows in self.runs.values()])

    def by_slice(self, measure: str) -> dict[str, float]:
        """Return each slice's mean over the seeds."""
        values = defaultdict[str, list[float]](list)
        for rows in self.runs.values():
            for row in rows:
                values[row["name"]].append(float(row[measure]))
        return {name: statistics.fmean(found) for name, found in values.items()}

    @property
    def patients(self) -> dict[str, str]:
        """Whose each slice is."""
        return {row["name"]: row["patient"] for rows in self.runs.values() for row in rows}

    def estimate(self, measure: str) -> Estimate:
        """Return the mean over all slices with its interval over patients."""
        found = self.by_slice(measure)
        return estimate(list(found.values()), [self.patients[name] for name in found], self.study.seed)

    def minus(self, other: ArmResult, measure: str = "dice") -> tuple[Estimate, float]:
        """Return the differences of the slices from another arm's, and the p-value of the patients' means."""
        own, others, patients = self.by_slice(measure), other.by_slice(measure), self.patients
        if own.keys() != others.keys():
            raise PigError(f"{self.arm.title} was not evaluated on the slices of {other.arm.title}", REMEDY)
        means = defaultdict[str, list[float]](list)
        for name, value in own.items():
            means[patients[name]].append(value - others[name])
        return paired_difference(others, own, patients, self.study.seed), signed_rank(
            [statistics.fmean(values) for values in means.values()]
        )


def signed_rank(differences: Sequence[float]) -> float:
    """Return the p-value of Wilcoxon's signed-rank test, 1 where nothing differs."""
    values = np.asarray(differences)
    return float(wilcoxon(values).pvalue) if values.any() else 1.0


@dataclass(frozen=True)
class Results:
    """All rows of both tables.

    Args:
        study: which.
        methods: rows of table 1.
        arms: rows of table 2.
    """

    study: Study
    methods: Sequence[MethodResult]
    arms: Sequence[ArmResult]

    @classmethod
    def read(cls, study: Study) -> Results:
        """Open the folders of a finished study."""
        by_fold = zip(*(arms(study, fold) for fold in study.folds), strict=True)
        rows = [ArmResult(study, dict(zip(study.folds, same, strict=True))) for same in by_fold]
        return cls(study, [MethodResult(study, method) for method in study.chosen], rows)

    def of(self, *kinds: Kind) -> list[ArmResult]:
        """Return the arms of some kinds."""
        return [one for one in self.arms if one.arm.kind in kinds]

    @cached_property
    def against_real(self) -> dict[Arm, Difference]:
        """The Dice of all other arms against that of real slices alone."""
        return _differences(self.of(Kind.PLAIN, Kind.LONGER, Kind.PAIRS), self.of(Kind.BASELINE))

    @cached_property
    def against_longer(self) -> dict[Arm, Difference]:
        """The Dice of the arms with pairs against that of real slices trained as long: what is the pairs' own."""
        return _differences(self.of(Kind.PAIRS), self.of(Kind.LONGER))


def _differences(some: Sequence[ArmResult], others: Sequence[ArmResult]) -> dict[Arm, Difference]:
    """Compare arms with another one, and correct for how many they are."""
    if not others:
        return {}
    found = [one.minus(others[0]) for one in some]
    corrected = holm([p for _, p in found])
    return {
        one.arm: Difference(of, p, p_holm) for one, (of, p), p_holm in zip(some, found, corrected, strict=True)
    }
