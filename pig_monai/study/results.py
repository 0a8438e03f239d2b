"""What the nodes of a study left: figures by method and by arm, read from their folders."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from pig_monai.pairs_evaluation.figures import EQUAL, GENERATED, HELDOUT, SPLIT, Figure, find
from pig_monai.study import layout
from pig_monai.study.arms import Arm, Kind, arms
from pig_monai.study.methods import PIG, Method, Training
from pig_monai.study.settings import Study

OVERLAPS = ("dice", "iou", "precision", "recall")
"""Table 2's measures, columns of an evaluation's metrics.csv."""

REMEDY = (
    "let the study finish: give the same snakemake command again, and if nothing is to be done then, remove the "
    "folder .marks in the study's"
)
COST = re.compile(r"([\d.]+) s a candidate \((\d+) drawn\)")
"""What a sampling says of its cost: seconds a candidate, and how many it drew."""

Versions = Mapping[str, str]
"""Of packages, by name."""

Key = tuple[str, str, str]
"""A figure's metric, features and region."""


@dataclass(frozen=True)
class Cost:
    """What a method costs, in one fold.

    Args:
        parameters: of the networks that make a slice.
        iterations: of each of them; the most.
        trainings: how many it takes, shared ones included.
        minutes: of all trainings that it takes, shared ones included; None where too short to be measured.
        seconds: a slice that was accepted, of all calls of the sampling that its log tells of; None for none.
    """

    parameters: int
    iterations: int
    trainings: int
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
        return [self._quality(fold) for fold in self.study.folds]

    def _quality(self, fold: int) -> dict[str, Any]:
        name = layout.quality(fold, self.method.name)
        content: dict[str, Any] = read_json(self.study.output / name / "metrics.json", REMEDY)
        measured, wanted = content["settings"]["max_pairs"], self.study.num_evaluated
        if measured != wanted:
            raise PigError(
                f"{self.study.output / name} was made with num_evaluated {measured}, not {wanted}",
                _again(self.study, name),
            )
        return content

    @cached_property
    def figures(self) -> list[list[Figure]]:
        """The figures of quality, by fold."""
        return [[Figure(**row) for row in one["figures"]] for one in self.quality]

    @cached_property
    def costs(self) -> list[Cost]:
        """By fold."""
        return [self._cost(fold) for fold in self.study.folds]

    @property
    def image_size(self) -> int:
        """Pixels a side of its slices."""
        return int(self.quality[0]["image_size"])

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

    def figure(self, key: Key) -> Spread:
        """Return a figure of quality, of as many generated slices as there are held-out ones: it depends on them.

        A fold that holds out too few slices for a figure has none: one of all generated slices would be another
        figure.
        """
        return Spread([None if one is None else one.value for one in self._equal(key)])

    def slices_of(self, key: Key) -> Spread:
        """Return of how many generated slices `figure` is."""
        return Spread([None if one is None else one.n_generated for one in self._equal(key)])

    def _equal(self, key: Key) -> list[Figure | None]:
        found: list[Figure | None] = []
        for figures in self.figures:
            heldout = find(figures, *key, HELDOUT)
            refused = heldout is not None and heldout.value is None
            made = find(figures, *key, EQUAL) or find(figures, *key, GENERATED)
            found.append(None if refused or made is None or made.value is None else made)
        return found

    def _of(self, key: Key, sample: str) -> list[Figure | None]:
        return [find(figures, *key, sample) for figures in self.figures]

    def figure_of(self, key: Key, sample: str) -> Spread:
        """Return a figure of one sample: of held-out slices, say, or of random choices of real patients."""
        return Spread([None if one is None else one.value for one in self._of(key, sample)])

    def note(self, key: Key) -> str:
        """Return the note of a figure of all slices, in the first fold; empty where there is none."""
        found = self._of(key, GENERATED)[0]
        return "" if found is None else found.note

    def reference(self, key: Key) -> Spread:
        """Return the figure of real slices that the generator never saw."""
        return self.figure_of(key, HELDOUT)

    def range_of_real(self, key: Key) -> tuple[float | None, float | None]:
        """Return between what 95 % of the random choices of real patients lie, of a Fréchet distance."""
        found = self._of(key, SPLIT)
        low = Spread([None if one is None else one.low for one in found])
        high = Spread([None if one is None else one.high for one in found])
        return low.mean, high.mean

    def interval(self, key: Key) -> tuple[float | None, float | None]:
        """Return the confidence interval of a figure of generated slices; none of several folds' mean."""
        first, *others = self._of(key, GENERATED)
        return (None, None) if first is None or others else (first.low, first.high)

    @cached_property
    def versions(self) -> list[Versions]:
        """With which versions of packages each of its networks was trained."""
        trained = self.study.trainings(self.method).all()
        return [self._checkpoint(fold, one)["meta"]["versions"] for fold in self.study.folds for one in trained]

    @property
    def measured_with(self) -> list[Versions]:
        """With which versions its slices were measured, by fold."""
        return [one["versions"] for one in self.quality]

    def _cost(self, fold: int) -> Cost:
        trainings = self.study.trainings(self.method)
        networks = [self._checkpoint(fold, training) for training in trainings.networks()]
        minutes = [self._minutes(fold, training) for training in trainings.all()]
        log = self.study.output / layout.log(layout.pairs(fold, self.method.name))
        calls = COST.findall(log.read_text(errors="replace")) if log.is_file() else []
        drawn = sum(int(number) for _, number in calls)
        seconds = sum(float(each) * int(number) for each, number in calls)
        known = [one for one in minutes if one is not None]
        return Cost(
            sum(tensor.numel() for one in networks for tensor in one["model"].values()),
            max(one["meta"]["iteration"] for one in networks),
            len(minutes),
            sum(known) if len(known) == len(minutes) else None,
            seconds / drawn / self._accepted(fold) if drawn else None,
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


@dataclass(frozen=True)
class Difference:
    """An arm against another, on the same slices.

    Args:
        of: the slices' differences; ``patient_mean``, in which each patient counts once, and its interval over
            patients and seeds are what the test is about.
        p_value: of Wilcoxon's signed-rank test of the patients' differences, means over slices and seeds.
        p_holm: corrected for the number of comparisons of its kind.
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
        """The slices' rows with a lesion, by fold and seed.

        Raises:
            PigError: slices of one name, in one fold or in two, which their values could not be told apart by.
        """
        found = {(fold, seed): self._rows(fold, seed) for fold in self.study.folds for seed in self.study.seeds}
        first = [row["name"] for (_, seed), rows in found.items() if seed == self.study.seeds[0] for row in rows]
        for name, times in Counter(first).items():
            if times > 1:
                raise PigError(
                    f"{times} slices of {self.study.dataset_dir} are named {name}",
                    "give the dataset's files different names",
                )
        return found

    def _rows(self, fold: int, seed: int) -> list[dict[str, str]]:
        arm = self.by_fold[fold]
        name = layout.segmenter(fold, arm.name, seed)
        trained = self._meta_file(fold, seed)
        pairs = read_json(trained, REMEDY)["pairs"]
        if pairs != arm.pairs:
            raise PigError(
                f"{trained} says that {pairs} pairs were trained with, not {arm.pairs}",
                "remove that folder, and " + _again(self.study, name),
            )
        path = self.study.output / layout.evaluation(fold, arm.name, seed) / "metrics.csv"
        return [row for row in read_rows(path, REMEDY) if row["dice"]]

    def _meta_file(self, fold: int, seed: int) -> Path:
        return self.study.output / layout.segmenter(fold, self.by_fold[fold].name, seed) / layout.MODEL_META

    @cached_property
    def versions(self) -> list[Versions]:
        """With which versions of packages each of its segmenters was trained."""
        return [read_json(self._meta_file(*run), REMEDY)["versions"] for run in self.runs]

    @cached_property
    def measured_with(self) -> list[Versions]:
        """With which versions each of its segmenters was evaluated."""
        folders = [layout.evaluation(fold, self.by_fold[fold].name, seed) for fold, seed in self.runs]
        return [read_json(self.study.output / folder / "summary.json", REMEDY)["versions"] for folder in folders]

    def over_runs(self, measure: str) -> Spread:
        """Return a measure's mean over the slices of each run."""
        return Spread([statistics.fmean(float(row[measure]) for row in rows) for rows in self.runs.values()])

    def by_slice(self, measure: str) -> dict[str, list[float]]:
        """Return each slice's values, one a seed."""
        values = defaultdict[str, list[float]](list)
        for rows in self.runs.values():
            for row in rows:
                values[row["name"]].append(float(row[measure]))
        return dict(values)

    @property
    def patients(self) -> dict[str, str]:
        """Whose each slice is."""
        return {row["name"]: row["patient"] for rows in self.runs.values() for row in rows}

    @property
    def folds(self) -> dict[str, int]:
        """In which fold each slice was held out."""
        return {row["name"]: fold for (fold, _), rows in self.runs.items() for row in rows}

    def estimate(self, measure: str) -> Estimate:
        """Return the mean over all slices and its interval over patients and seeds, cut to that of a share."""
        found = self._estimate(self.by_slice(measure))
        if found.low is None or found.high is None:
            return found
        return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))

    def _estimate(self, values: Mapping[str, Sequence[float]]) -> Estimate:
        """Return the mean of slices' values, one a seed each."""
        patients, folds = self.patients, self.folds
        return estimate(
            np.array(list(values.values())).T,
            [patients[name] for name in values],
            self.study.seed,
            folds=[folds[name] for name in values],
        )

    def minus(self, other: ArmResult, measure: str = "dice") -> tuple[Estimate, float]:
        """Return the slices' differences from another arm's, and the p-value of the patients'.

        The runs are paired by seed: both begin with the same weights.
        """
        own, others = self.by_slice(measure), other.by_slice(measure)
        if own.keys() != others.keys():
            raise PigError(f"{self.arm.title} was not evaluated on the slices of {other.arm.title}", REMEDY)
        differences = {
            name: [mine - theirs for mine, theirs in zip(own[name], others[name], strict=True)] for name in own
        }
        of_patient = defaultdict[str, list[float]](list)
        for name, values in differences.items():
            of_patient[self.patients[name]].append(statistics.fmean(values))
        p_value = signed_rank([statistics.fmean(values) for values in of_patient.values()])
        return self._estimate(differences), p_value


def _again(study: Study, name: str) -> str:
    """Return the remedy for a node that was done otherwise."""
    return f"remove {study.output / layout.mark(name)} and give the same snakemake command again"


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
        (real,) = self.of(Kind.BASELINE)
        return _differences((one, real) for one in self.of(Kind.PLAIN, Kind.LONGER, Kind.PAIRS))

    @cached_property
    def against_longer(self) -> dict[Arm, Difference]:
        """The Dice of the arms with pairs against that of real slices trained as long: what is the pairs' own."""
        longer = {one.arm.as_long_as: one for one in self.of(Kind.LONGER)}
        return _differences((one, longer[one.arm.pairs]) for one in self.of(Kind.PAIRS))

    @cached_property
    def against_pig(self) -> dict[Arm, Difference]:
        """The Dice of the other methods' arms against that of as many pairs of `PIG`, where the study has it."""
        pig = {one.arm.pairs: one for one in self.of(Kind.PAIRS) if _method(one) == PIG}
        others = [one for one in self.of(Kind.PAIRS) if _method(one) != PIG]
        return _differences((one, pig[one.arm.pairs]) for one in others) if pig else {}


def _method(one: ArmResult) -> str:
    return "" if one.arm.method is None else one.arm.method.name


def _differences(compared: Iterable[tuple[ArmResult, ArmResult]]) -> dict[Arm, Difference]:
    """Compare each first arm with its second one, and correct for how many comparisons there are."""
    found = [(one.arm, *one.minus(other)) for one, other in compared]
    corrected = holm([p for _, _, p in found])
    return {arm: Difference(of, p, p_holm) for (arm, of, p), p_holm in zip(found, corrected, strict=True)}
