"""What a study file says: data, folds, methods, numbers of pairs, seeds and budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pig_monai.cli import as_whole
from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.study.methods import METHODS, Method, Trainings, find_method, trainings_of

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "pig_dbt"
CONFIGS = BUNDLE / "configs"
ROLES = ("autoencoder", "guider", "generator")
SPACES = ("pixels", "latents")
SCHEDULING = {"threads", "memory", "minutes", "gpus", "python"}
"""Settings of the workflow alone, which change no result."""

_REMEDY = "workflows/study.smk begins with an example"
_GIVEN = {
    "dataset_dir", "fold", "output_dir", "device", "seed", "overwrite", "resume", "dry_run", "init_ckpt",
    "augment", "num_pairs", "max_pairs", "pairs_dir", "guider_ckpt", "generator_ckpt", "autoencoder_ckpt",
    "patience",
}  # fmt: skip
"""Ids that the study sets itself."""
_SAMPLING = ("min_mask_area", "max_mask_area", "max_components", "min_inside_breast", "min_accepted")
"""Ids of infer_pairs.yaml that a study may give: they say which masks are rejected. All others would give methods
that make masks other terms than those that are given them."""
_TERMS = (
    "image_size", "batch_size", "max_epochs", "max_iterations", "learning_rate", "lr_schedule", "ema_decay",
    "gradient_clip", "num_train_timesteps", "beta_start", "beta_end", "amp",
)  # fmt: skip
"""Ids of the trainings that are equal for all methods, on pixels and on latents."""
_BLOCKS = ("presets", "training", "autoencoder", "sampling", "segmentation")
BUDGET = ("seed", *_BLOCKS)
"""Settings on which all runs of a study's folder depend, but see `changes_nothing`."""
_NO_MATTER = ("cache_rate", "checkpoint_interval", "preview_interval", "keep_checkpoints")
_WHOLE = ("image_size", "batch_size", "max_epochs", "max_iterations", "checkpoint_interval")
_WEIGHTS = ("inception_weights", "dinov2_weights")


@dataclass(frozen=True)
class Study:
    """A study, as its file describes it; arguments are the file's names.

    Args:
        output: the study's folder.
        dataset_dir: dataset folder of real slices.
        methods: names, see `METHODS`.
        num_pairs: numbers of pairs that segmenters are trained with.
        folds: which are held out, one after the other.
        seeds: of the segmenters' trainings.
        seed: of the generators' trainings and of sampling.
        num_evaluated: slices of each method whose quality is measured; the same number for all.
        presets: of the networks' sizes and the sampling, by ``pixels`` and ``latents``.
        training: further ids of the guiders' and generators' trainings, equal for all methods.
        autoencoder: further ids of the autoencoder's training.
        sampling: ids of ``infer_pairs.yaml``: what masks are rejected, for all methods that make them.
        segmentation: ids of ``train.yaml``, equal for all.
        inception_weights: a file, for distances by InceptionV3; None for none.
        dinov2_weights: a file, for distances by DINOv2; None for none.
        device: where to compute.
    """

    output: Path
    dataset_dir: Path
    methods: Sequence[str]
    num_pairs: Sequence[int]
    folds: Sequence[int] = (0, 1, 2, 3, 4)
    seeds: Sequence[int] = (0, 1, 2)
    seed: int = 0
    num_evaluated: int = 256
    presets: Mapping[str, str] = field(default_factory=lambda: {"pixels": "demo", "latents": "maisi_demo"})
    training: Mapping[str, Any] = field(default_factory=dict)
    autoencoder: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    segmentation: Mapping[str, Any] = field(default_factory=dict)
    inception_weights: str | None = None
    dinov2_weights: str | None = None
    device: str = "cpu"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Study:
        """Return the study that a file's content describes.

        Raises:
            PigError: a setting that is missing, unknown, or no good.
        """
        known = [one.name for one in fields(cls)]
        for name in sorted(set(given) - {*known, *SCHEDULING}):
            raise PigError(
                f"{name} is no setting of a study", f"known are {', '.join([*known, *sorted(SCHEDULING)])}"
            )
        for name in ("output", "dataset_dir", "methods", "num_pairs"):
            if name not in given:
                raise PigError(f"the setting {name} is missing", _REMEDY)
        own = {name: value for name, value in given.items() if name in known}
        paths = {name: Path(str(own[name])) for name in ("output", "dataset_dir")}
        study = cls(**{**own, **paths})
        study.check()
        return study

    @classmethod
    def load(cls, file: str | Path) -> Study:
        """Return the study of a YAML file, or of a JSON file such as its folder's ``study.json``; see `read`."""
        try:
            text = Path(file).read_text(encoding="utf-8")
            # YAML takes JSON's 1e-05 for text
            content = json.loads(text) if Path(file).suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as cause:
            raise PigError(f"{file} cannot be read ({str(cause).splitlines()[0]})", _REMEDY) from None
        if not isinstance(content, dict):
            raise PigError(f"{file} holds no settings", _REMEDY)
        return cls.read(content)

    def check(self) -> None:
        """Refuse what cannot run.

        Raises:
            PigError: names the setting.
        """
        for name in ("methods", "num_pairs", "folds", "seeds"):
            _check_list(name, getattr(self, name))
        for name in self.methods:
            find_method(name)
        for name, least in (("num_pairs", 1), ("folds", 0), ("seeds", 0)):
            for number in getattr(self, name):
                as_whole(number, name, least)
        as_whole(self.seed, "seed", 0)
        as_whole(self.num_evaluated, "num_evaluated")
        known = {entry["fold"] for entry in read_datalist(self.dataset_dir)["training"]} - {-1}
        for fold in sorted(set(self.folds) - known):
            raise PigError(f"folds: {self.dataset_dir} has no fold {fold}", f"it has {sorted(known)}")
        for name in _BLOCKS:
            _check_block(name, getattr(self, name))
        for name, path in self.feature_weights.items():
            if not Path(path).is_file():
                raise PigError(f"{name} {path} is no file", "docs/evaluation_of_pairs.md says where to get it")
        if set(self.presets) != set(SPACES):
            raise PigError(f"presets has {', '.join(map(str, self.presets))}", f"give {' and '.join(SPACES)}")
        for space in SPACES:
            if not (CONFIGS / "presets" / f"{self.presets.get(space)}.yaml").is_file():
                raise PigError(
                    f"presets#{space} is {self.presets.get(space)!r}",
                    "name a file of configs/presets, without .yaml",
                )
        self._check_ids()
        self._check_terms()

    def _check_ids(self) -> None:
        own = {id_ for name in METHODS for id_ in _read(CONFIGS / f"presets/methods/{name}.yaml")}
        configs = {
            "training": set(_read(CONFIGS / "train_guider.yaml")) & set(_read(CONFIGS / "train_generator.yaml")),
            "autoencoder": set(_read(CONFIGS / "train_autoencoder.yaml")),
            "sampling": set(_read(CONFIGS / "infer_pairs.yaml")),
            "segmentation": set(_read(CONFIGS / "train.yaml")),
        }
        for name, known in configs.items():
            for id_ in getattr(self, name):
                if id_ in _GIVEN | own:
                    raise PigError(f"{name}#{id_} is for the study or a method to say", "leave it out")
                if id_ not in known:
                    raise PigError(
                        f"{name}#{id_} is no id of its configs", f"their ids are explained in {CONFIGS}"
                    )
                if name == "sampling" and id_ not in _SAMPLING:
                    raise PigError(
                        f"sampling#{id_} would give only some methods other terms",
                        f"leave it out; {', '.join(_SAMPLING)} may be given",
                    )

    def _check_terms(self) -> None:
        """Refuse presets by which methods on pixels and on latents would be trained on other terms."""
        if len({method.latent for method in self.chosen}) == 1:
            return
        found = {
            id_: values
            for id_ in _TERMS
            for role in ("guider", "generator")
            if len(set(values := [self._resolved(space, role, id_) for space in SPACES])) > 1
        }
        if found:
            named = "; ".join(f"{id_} ({values[0]} and {values[1]})" for id_, values in found.items())
            raise PigError(
                f"{' and '.join(f'presets/{name}.yaml' for name in self.presets.values())} differ in {named}",
                f"give it under training, for all methods: training: {{{next(iter(found))}: …}}",
            )

    def _resolved(self, space: str, role: str, id_: str) -> Any:
        return self.training.get(id_, self._known[space][role].get(id_))

    @property
    def feature_weights(self) -> dict[str, str]:
        """Ids of ``evaluate_pairs.yaml`` that name weights; only those that were given."""
        given = {name: getattr(self, name) for name in _WEIGHTS}
        return {name: str(path) for name, path in given.items() if path is not None}

    @property
    def chosen(self) -> list[Method]:
        """The methods, in the order of the tables."""
        return [method for name, method in METHODS.items() if name in self.methods]

    def preset(self, method: Method) -> dict[str, Any]:
        """Return the ids of a method's preset."""
        return _read(CONFIGS / f"presets/methods/{method.name}.yaml")

    def trainings(self, method: Method) -> Trainings:
        """Return the trainings of a method."""
        return trainings_of(method, self.preset(method), self._known["latents" if method.latent else "pixels"])

    @cached_property
    def _known(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The ids that each training has and what they are without a method's preset, by space and role."""
        known: dict[str, dict[str, dict[str, Any]]] = {}
        for space in SPACES:
            preset = _read(CONFIGS / f"presets/{self.presets[space]}.yaml")
            known[space] = {}
            for role in ROLES:
                ids = _read(CONFIGS / f"train_{role}.yaml")
                known[space][role] = {name: preset.get(name, value) for name, value in ids.items()}
        return known


def changes_nothing(key: str) -> bool:
    """Return whether a setting, such as ``training#num_workers``, is known to change no result.

    Generators draw noise by seed and iteration alone; the segmenters' augmentation is drawn in the loader's
    processes, and so depends on how many there are.
    """
    block, _, id_ = key.partition("#")
    return id_ in _NO_MATTER or (id_ == "num_workers" and block != "segmentation")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _check_list(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not value or len(set(map(str, value))) < len(value):
        raise PigError(f"{name} is {value!r}", "give a list of at least one thing, each once")


def _check_block(name: str, block: Any) -> None:
    if not isinstance(block, Mapping):
        raise PigError(f"{name} is {block!r}", f"give ids with values, or leave {name} out")
    for id_ in _WHOLE:
        if id_ in block:
            as_whole(block[id_], f"{name}#{id_}")
