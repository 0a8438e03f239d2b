"""A study as a graph: each node is one command of the bundle, and knows which others must be done before it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pig_monai.evaluation import segmenters
from pig_monai.study import layout
from pig_monai.study.arms import Arm, Kind, arms
from pig_monai.study.methods import Masks, Method, Training
from pig_monai.study.settings import CONFIGS, Study

INFERENCE = "inference.yaml"
"""How slices are segmented: the evaluations read it beside their own config."""


@dataclass(frozen=True)
class Node:
    """A command of a study.

    Args:
        name: of the folder that it fills, inside the study's.
        command: what runs.
        configs: that it reads, in the bundle's folder of them.
        needs: names of the nodes before it.
        grown: of further ones, which may grow without changing what this node reads: the pairs folder of an arm
            that trains with its first so many pairs.
        amount: how many pairs it makes or measures, which its mark says; empty for other nodes.
    """

    name: str
    command: Sequence[str]
    configs: Sequence[str]
    needs: Sequence[str] = ()
    grown: Sequence[str] = ()
    amount: str = ""


def nodes(study: Study, python: str = sys.executable) -> list[Node]:
    """Return the nodes of all folds, each after those that it needs; a network that methods share is there once.

    Args:
        study: what is wanted.
        python: that has pig-monai.
    """
    found = [node for fold in study.folds for node in _Fold(study, fold, python).nodes()]
    return list({node.name: node for node in found}.values())


class _Fold:
    """The nodes of one held-out fold.

    Args:
        study: what is wanted.
        fold: held out.
        python: that has pig-monai.
    """

    def __init__(self, study: Study, fold: int, python: str) -> None:
        self.study = study
        self.fold = fold
        self.python = python

    def nodes(self) -> Iterator[Node]:
        """Yield them: trainings, sampling, segmenters, quality."""
        for method in self.study.chosen:
            for training in self.study.trainings(method).all():
                yield self.train(training)
            yield self.sample(method)
        of_fold = list(arms(self.study, self.fold))
        for arm in of_fold:
            for seed in self.study.seeds:
                yield self.segment(arm, seed)
                yield self.evaluate(arm, seed)
        baseline = next(arm for arm in of_fold if arm.kind == Kind.BASELINE)
        for method in self.study.chosen:
            yield self.measure(method, baseline)

    def network(self, training: Training) -> str:
        """Return the name of a training's node."""
        return layout.network(self.fold, training.name)

    def pairs(self, method: Method) -> str:
        """Return the name of a sampling's node."""
        return layout.pairs(self.fold, method.name)

    def train(self, training: Training) -> Node:
        """Return the node of a network."""
        study = self.study
        latent = training.latent or training.role == "autoencoder"
        needs = {id_: self.network(needed) for id_, needed in training.needs}
        budget = study.autoencoder if training.role == "autoencoder" else study.training
        ids = {
            "dataset_dir": study.dataset_dir,
            "fold": self.fold,
            "seed": study.seed,
            **budget,
            **dict(training.ids),
            **{id_: study.output / name for id_, name in needs.items()},
        }
        configs = [
            f"train_{training.role}.yaml",
            f"presets/{study.presets['latents' if latent else 'pixels']}.yaml",
        ]
        return self._node(self.network(training), "training", configs, ids, needs.values())

    def sample(self, method: Method) -> Node:
        """Return the node of a method's pairs, or slices."""
        study, trainings = self.study, self.study.trainings(method)
        count = study.num_evaluated
        if method.masks != Masks.NONE:
            count = max(count, *study.num_pairs)
        ids: dict[str, Any] = {"num_pairs": count, "seed": study.seed}
        needs = [self.network(trainings.generator)]
        ids["generator_ckpt"] = study.output / needs[0]
        if trainings.guider is not None:
            needs.append(self.network(trainings.guider))
            ids["guider_ckpt"] = study.output / needs[1]
        if method.masks == Masks.GIVEN:
            ids["masks_dir"] = study.dataset_dir
        if method.masks == Masks.MADE:
            ids |= study.sampling
        way = "infer_pairs" if method.masks == Masks.MADE else "infer_slices"
        preset = study.presets["latents" if method.latent else "pixels"]
        configs = [f"{way}.yaml", f"presets/{preset}.yaml", f"presets/methods/{method.name}.yaml"]
        return self._node(self.pairs(method), way, configs, ids, needs, amount=count)

    def segment(self, arm: Arm, seed: int) -> Node:
        """Return the node of a segmenter."""
        ids = {
            "dataset_dir": self.study.dataset_dir,
            "fold": self.fold,
            "seed": seed,
            "resume": True,
            "patience": 10**6,  # nobody stops early: all arms of a size take equally many steps
            **self.study.segmentation,
            **dict(arm.ids),
        }
        pairs = [] if arm.method is None else [self.pairs(arm.method)]
        if pairs:
            ids |= {"pairs_dir": self.study.output / pairs[0], "max_pairs": arm.pairs}
        return self._node(
            layout.segmenter(self.fold, arm.name, seed), "training", ["train.yaml"], ids, grown=pairs
        )

    def evaluate(self, arm: Arm, seed: int) -> Node:
        """Return the node of a segmenter's evaluation on the held-out fold."""
        segmenter = layout.segmenter(self.fold, arm.name, seed)
        ids = {
            "dataset_dir": self.study.dataset_dir,
            "fold": self.fold,
            "ckpt": self.study.output / segmenter / segmenters.WEIGHTS,
            "overwrite": True,
        }
        name = layout.evaluation(self.fold, arm.name, seed)
        return self._node(name, "evaluate", ["evaluate.yaml"], ids, [segmenter], also_read=[INFERENCE])

    def measure(self, method: Method, baseline: Arm) -> Node:
        """Return the node of what a method's slices are like, by the first segmenter trained on real ones."""
        segmenter = layout.segmenter(self.fold, baseline.name, self.study.seeds[0])
        ids = {
            "dataset_dir": self.study.dataset_dir,
            "pairs_dir": self.study.output / self.pairs(method),
            "max_pairs": self.study.num_evaluated,
            "segmenter_ckpt": self.study.output / segmenter / segmenters.WEIGHTS,
            **self.study.feature_weights,
            "overwrite": True,
        }
        name = layout.quality(self.fold, method.name)
        needs = [self.pairs(method), segmenter]
        configs, amount = ["evaluate_pairs.yaml"], self.study.num_evaluated
        return self._node(name, "evaluate_pairs", configs, ids, needs, also_read=[INFERENCE], amount=amount)

    def _node(
        self,
        name: str,
        run_id: str,
        configs: Sequence[str],
        ids: Mapping[str, Any],
        needs: Iterable[str] = (),
        grown: Sequence[str] = (),
        also_read: Sequence[str] = (),
        amount: int | None = None,
    ) -> Node:
        """Return a node whose command is one of the bundle's."""
        files = [str(CONFIGS / config) for config in configs]
        given = {**ids, "output_dir": self.study.output / name, "device": self.study.device}
        command = [self.python, "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
        command += [text for id_, value in given.items() for text in (f"--{id_}", str(value))]
        return Node(name, command, [*configs, *also_read], list(needs), grown, str(amount or ""))
