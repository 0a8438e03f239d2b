"""What a study's runs read, so that runs of different things never share a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from pig_monai.data.folder import fingerprint
from pig_monai.errors import PigError
from pig_monai.files import read_json, write_json
from pig_monai.runs import differences
from pig_monai.study import layout
from pig_monai.study.nodes import Node
from pig_monai.study.settings import BUDGET, CONFIGS, Study, changes_nothing

_OTHER_BUDGET = "take another output for another budget"
_CHANGED = "restore it, or take another output"
_FORMER = "its runs are of a former version: take another output"
_NETWORKS = f"{layout.MARKS}/fold_*/networks/*.done"
_LEFT = {
    "sampling": f"{layout.MARKS}/fold_*/pairs/*.done",
    "segmentation": "fold_*/segmenters/*/*/checkpoints/*.pt",
}
"""What is there once a block of settings can change no more; of all others, `_NETWORKS`.

Trainings of networks and samplings refuse to go on with other settings by themselves; segmenters do not.
"""


def check_unchanged(study: Study, nodes: Iterable[Node]) -> None:
    """Refuse another budget, dataset or config in a folder where runs were made with a former one.

    A segmenter that is finished would stay as it is, and be reported as of the new settings. Settings of which no
    run is there yet may change: those of the segmenters, say, when the first of them ran out of memory.

    Args:
        study: what is wanted.
        nodes: its nodes.

    Raises:
        PigError: names the first thing that differs.
    """
    begun = {pattern for pattern in (_NETWORKS, *_LEFT.values()) if any(study.output.glob(pattern))}
    if not begun:
        return
    given = read_json(study.output / layout.STUDY, _FORMER)
    defaults = Study(study.output, study.dataset_dir, [], [])  # its dataset may have moved: it is not read
    former = {name: given.get(name, getattr(defaults, name)) for name in BUDGET}
    now = {name: getattr(study, name) for name in BUDGET}
    for key, theirs, ours in differences(former, now):
        block = key.partition("#")[0]
        if not changes_nothing(key) and _LEFT.get(block, _NETWORKS) in begun:
            raise PigError(
                f"{key} is {ours!r}, but runs in {study.output} were made with {theirs!r}", _OTHER_BUDGET
            )
    recorded = read_json(study.output / layout.INPUTS, _FORMER)
    for name, digest in digests(study, nodes).items():
        if recorded.get(name, digest) != digest:
            raise PigError(f"{name} has changed since runs in {study.output} were made", _CHANGED)


def outdate(study: Study, nodes: Iterable[Node]) -> None:
    """Make old the marks of nodes that made, or measured, another number of pairs: Snakemake runs them again.

    Its own records tell it, too, but lie in the working directory: from another one it would do nothing.

    Args:
        study: what is wanted.
        nodes: its nodes.
    """
    for node in nodes:
        mark = study.output / layout.mark(node.name)
        if mark.is_file() and mark.read_text(encoding="utf-8").strip() != node.amount:
            os.utime(mark, (1, 1))  # of the epoch; at 0 Snakemake takes it for a file without a time


def record(study: Study, nodes: Iterable[Node], given: Mapping[str, Any]) -> None:
    """Write what runs, of whatever files and options it was put together.

    The report and `check_unchanged` read it.

    Args:
        study: what runs.
        nodes: its nodes; digests of what others read are kept.
        given: the study file's content.
    """
    study.output.mkdir(parents=True, exist_ok=True)
    path = study.output / layout.INPUTS
    former = read_json(path, _FORMER) if path.is_file() else {}
    write_json(path, {**former, **digests(study, nodes)})
    write_json(study.output / layout.STUDY, given)


def digests(study: Study, nodes: Iterable[Node]) -> dict[str, str]:
    """Return SHA-256 digests of what the nodes read: of the dataset, and of each config's content."""
    found = {"dataset": fingerprint(study.dataset_dir)}
    for name in sorted({config for node in nodes for config in node.configs}):
        content = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
        found[f"configs/{name}"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return found
