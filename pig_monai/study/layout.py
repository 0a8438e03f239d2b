"""Where things lie in a study's folder. A name is that of a folder inside it, and of the node that fills it."""

from __future__ import annotations

MODEL_META = "model.json"
"""Of a segmenter, beside its weights."""

STUDY = "study.json"
"""The study file with what the command line changed, as the workflow ran it."""

INPUTS = "inputs.json"
"""Digests of the dataset and of the configs that the runs were made with, by name."""

MARKS = ".marks"
"""The folder of the marks, see `mark`."""


def network(fold: int, training: str) -> str:
    """Return the name of a training's run."""
    return f"fold_{fold}/networks/{training}"


def pairs(fold: int, method: str) -> str:
    """Return the name of a method's pairs, or slices."""
    return f"fold_{fold}/pairs/{method}"


def quality(fold: int, method: str) -> str:
    """Return the name of what a method's slices are like."""
    return f"fold_{fold}/quality/{method}"


def segmenter(fold: int, arm: str, seed: int) -> str:
    """Return the name of a segmenter's run."""
    return f"fold_{fold}/segmenters/{arm}/seed_{seed}"


def evaluation(fold: int, arm: str, seed: int) -> str:
    """Return the name of a segmenter's evaluation."""
    return f"{segmenter(fold, arm, seed)}/evaluation"


def mark(name: str) -> str:
    """Return the file that says that a node is done, and, where it makes or measures pairs, of how many.

    The marks, not the folders, are what Snakemake knows of: it removes a rule's outputs before it runs it again.
    """
    return f"{MARKS}/{name}.done"


def log(name: str) -> str:
    """Return the file of what a node said."""
    return f"logs/{name}.log"
