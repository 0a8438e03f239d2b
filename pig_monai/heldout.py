"""What weights must not have seen: the slices that a training holds out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pig_monai.errors import PigError


def check_heldout(given: str, meta: Mapping[str, Any], data: str, fold: int) -> None:
    """Refuse weights that have learnt from the slices which a training holds out: every figure would be too good.

    Weights that were trained on other data are let through, and that is said on stderr: whether the held-out
    patients are among theirs, nobody but the user can know.

    Args:
        given: the id and the path of the weights.
        meta: what their checkpoint says of itself.
        data: fingerprint of the training's slices.
        fold: that it holds out; −1 for none.

    Raises:
        PigError: they were trained on the same data with another fold held out, or none.
    """
    if fold == -1:
        return
    if meta["data"] != data:
        print(
            f"{given} was trained on other data: make sure that no patient of fold {fold} is in it",
            file=sys.stderr,
        )
    elif meta["fold"] != fold:
        theirs = "no fold" if meta["fold"] == -1 else f"fold {meta['fold']}"
        raise PigError(
            f"{given} was trained with {theirs} held out, and this training holds out fold {fold}",
            f"name one that was trained with --fold {fold}: this one has learnt from the held-out slices",
        )
