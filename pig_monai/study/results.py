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
from pig_monai.metrics.bootstrap import Estimate, estimate
from pig_monai.metrics.spread import Spread
from pig_monai.metrics.two_samples import holm
from pig_monai.pairs_evaluation.figures import EQUAL, GENERATED, HELDOUT
from pig_monai.study.arms import BASELINE, Arm, arms
from pig_monai.study.methods import Method, Training
from pig_monai.study.settings import Study

OVERLAPS = ("dice", "iou", "precision", "recall")
"""Table 2's measures, columns of an evaluation's metrics.csv."""

REMEDY = "let the study finish: give the same snakemake command again"
_RATE = re.compile(r"([\d.]+) s a candidate")

Key = tuple[str, str, str]
"""A figure's metric, features and region."""


@dataclass(frozen=True)
class Cost:
    """What a method costs, in one fold.

    Args:
        parameters: of the networks that make a slice.
        iterations: of each of them; the most.
        minutes: of all trainings that it takes, shared ones included; None where too short to be measured.
        seconds: a candidate, of the last sampling; None where its log does not say.
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

    def folder(self, kind: str, fold: int) -> Path:
        """Return the folder of ``pairs`` or ``quality``."""
        return self.study.output / f"fold_{fold}" / kind / self.method.name

    @cached_property
    def quality(self) -> list[dict[str, Any]]:
        """The content of metrics.json, by fold."""
        return [read_json(self.folder("quality", fold) / "metrics.json", REMEDY) for fold in self.study.folds]

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
        reports = [read_json(self.folder("pairs", fold) / "report.json", REMEDY) for fold in self.study.folds]
        return Spread([one["accepted"] / one["candidates"] for one in reports])

    def figure(self, key: Key, samples: Sequence[str] = (EQUAL, GENERATED)) -> Spread:
        """Return a figure of quality, of the first of some samples that there is.

        As many generated slices as there are held-out ones are the first choice: figures depend on the number.
        """
        return Spread([_find(one["figures"], key, samples) for one in self.quality])

    def reference(self, key: Key) -> Spread:
        """Return the figure of real slices that the generator never saw."""
        return self.figure(key, (HELDOUT,))

    def _cost(self, fold: int) -> Cost:
        trainings = self.study.trainings(self.method)
        networks = [self._checkpoint(fold, training) for training in trainings.networks()]
        minutes = [self._minutes(fold, training) for training in trainings.all()]
        log = self.study.output / f"logs/fold_{fold}/pairs/{self.method.name}.log"
        rates = _RATE.findall(log.read_text(errors="replace")) if log.is_file() else []
        known = [one for one in minutes if one is not None]
        return Cost(
            sum(tensor.numel() for one in networks for tensor in one["model"].values()),
            max(one["meta"]["iteration"] for one in networks),
            sum(known) if len(known) == len(minutes) else None,
            float(rates[-1]) if rates else None,
        )

    def _training_folder(self, fold: int, training: Training) -> Path:
        return self.study.output / f"fold_{fold}/networks/{training.name}"

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


def _find(figures: Iterable[Mapping[str, Any]], key: Key, samples: Sequence[str]) -> float | None:
    by_sample = {f["sample"]: f["value"] for f in figures if (f["metric"], f["features"], f["region"]) == key}
    return next((by_sample[sample] for sample in samples if by_sample.get(sample) is not None), None)


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline, on the same slices.

    Args:
        of: the difference of the slices, with its interval over patients.
        p_value: of Wilcoxon's signed-rank test of the patients' means.
        p_holm: corrected for the number of arms.
    """

    of: Estimate
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class ArmResult:
    """A row of table 2: an arm's evaluations in all folds, by all seeds.

    Args:
        study: whose folders are read.
        arm: which.
    """

    study: Study
    arm: Arm

    @cached_property
    def runs(self) -> dict[tuple[int, int], list[dict[str, str]]]:
        """The slices' rows with a lesion, by fold and seed."""
        found = {}
        for fold in self.study.folds:
            for seed in self.study.seeds:
                folder = self.study.output / f"fold_{fold}/segmenters/{self.arm.name}/seed_{seed}/evaluation"
                found[fold, seed] = [row for row in read_rows(folder / "metrics.csv", REMEDY) if row["dice"]]
        return found

    def over_runs(self, measure: str) -> Spread:
        """Return a measure's mean over the slices of each run."""
        return Spread([statistics.fmean(float(row[measure]) for row in rows) for rows in self.runs.values()])

    def by_slice(self, measure: str) -> dict[str, tuple[float, str]]:
        """Return each slice's mean over the seeds, and whose it is."""
        values, patients = defaultdict[str, list[float]](list), {}
        for rows in self.runs.values():
            for row in rows:
                values[row["name"]].append(float(row[measure]))
                patients[row["name"]] = row["patient"]
        return {name: (statistics.fmean(found), patients[name]) for name, found in values.items()}

    def estimate(self, measure: str) -> Estimate:
        """Return the mean over all slices with its interval over patients."""
        found = self.by_slice(measure).values()
        return estimate([value for value, _ in found], [patient for _, patient in found], self.study.seed)

    def minus(self, baseline: ArmResult, measure: str = "dice") -> tuple[Estimate, float]:
        """Return the differences of the slices from the baseline's, and the p-value of the patients' means."""
        own, other = self.by_slice(measure), baseline.by_slice(measure)
        if own.keys() != other.keys():
            raise PigError(f"{self.arm.title} was not evaluated on the slices of {baseline.arm.title}", REMEDY)
        differences = [own[name][0] - other[name][0] for name in own]
        patients = [own[name][1] for name in own]
        means = defaultdict[str, list[float]](list)
        for patient, difference in zip(patients, differences, strict=True):
            means[patient].append(difference)
        return estimate(differences, patients, self.study.seed), signed_rank(
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
        rows = [ArmResult(study, arm) for arm in arms(study, study.folds[0])]
        return cls(study, [MethodResult(study, method) for method in study.chosen], rows)

    @cached_property
    def baseline(self) -> ArmResult:
        """The arm with which all others are compared."""
        return next(one for one in self.arms if one.arm.name == BASELINE)

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Each arm's Dice against the baseline's, by the arm's name."""
        others = [one for one in self.arms if one is not self.baseline]
        found = [one.minus(self.baseline) for one in others]
        corrected = holm([p for _, p in found])
        return {
            one.arm.name: Difference(of, p, p_holm)
            for one, (of, p), p_holm in zip(others, found, corrected, strict=True)
        }
