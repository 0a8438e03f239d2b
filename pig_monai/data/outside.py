"""Files that must not lie in a dataset folder, because what they hold would undo its anonymity."""

from __future__ import annotations

from pathlib import Path

from pig_monai.data.folder import DATALIST, SETTINGS
from pig_monai.errors import PigError


def refuse_inside(what: str, path: Path, dataset_dir: Path, why: str) -> None:
    """Refuse a file that lies in a dataset folder, whichever links or ``..`` lead there.

    Args:
        what: the option or thing, as the error calls it.
        path: the file; it need not exist.
        dataset_dir: the dataset folder; it need not exist.
        why: why it must lie elsewhere.

    Raises:
        PigError: it lies inside.
    """
    within = [dataset_dir]
    if dataset_dir.is_dir():  # a folder inside may itself be a link to another disk
        within += [folder for folder in dataset_dir.iterdir() if folder.is_dir()]
    places = path.resolve(), path.parent.resolve() / path.name  # where a link leads, and where the link is
    if any(place.is_relative_to(folder.resolve()) for place in places for folder in within):
        raise PigError(f"{what} {path} lies inside the dataset folder", f"keep it elsewhere: {why}")


def refuse_in_dataset(what: str, path: Path, why: str) -> None:
    """Refuse a place inside any dataset folder, be it finished, a shard, or still being prepared.

    Args:
        what: the option, as the error calls it.
        path: the file or folder; it need not exist.
        why: why it must lie elsewhere.

    Raises:
        PigError: it lies inside.
    """
    place = path.resolve()
    for folder in (place, *place.parents):
        if (folder / DATALIST).is_file() or (folder / SETTINGS).is_file():
            raise PigError(f"{what} {path} lies in the dataset folder {folder}", f"give another folder: {why}")
