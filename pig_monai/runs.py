"""Run folders: what a command made, with which settings, and whether it may go on or start afresh there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pig_monai.cli import as_bool
from pig_monai.errors import PigError
from pig_monai.files import read_json, write_json

RECORD = "run.json"


def check_run(
    output_dir: str | Path,
    workflow: str,
    settings: Mapping[str, Any],
    owned: Sequence[str],
    overwrite: bool | str = False,
    resume: bool | str = True,
) -> None:
    """Refuse a folder in which this run may not write; touches nothing.

    ``run.json`` keeps the workflow and the settings that make a run what it is. The same command again finds them
    unchanged and continues; others are refused, so that no folder ever mixes two runs. Overwriting is for a
    former run of the same workflow only: a dataset, or another workflow's result, is never removed.

    Args:
        output_dir: the run's folder.
        workflow: what runs: ``guider``, ``generator`` or ``pairs``.
        settings: by id.
        owned: names in ``output_dir`` that the workflow writes.
        overwrite: start afresh.
        resume: continue where the folder has a run; otherwise such a folder is refused.

    Raises:
        PigError: the folder holds another run, or something that is no run of this workflow.
    """
    folder = Path(output_dir)
    overwrite, resume = as_bool(overwrite, "overwrite"), as_bool(resume, "resume")
    taken = [name for name in owned if (folder / name).exists()]
    if not taken:
        return
    found = read_json(folder / RECORD, "choose another output_dir") if (folder / RECORD).exists() else {}
    if found.get("workflow") != workflow:
        raise PigError(f"{folder} holds {taken[0]} but no {workflow} run", "choose another output_dir")
    if overwrite:
        return
    former, wanted = found["settings"], _plain(settings)
    for name in sorted({*former, *wanted}):
        if former.get(name) != wanted.get(name):
            raise PigError(
                f"{folder} holds a run with {name} = {former.get(name)}, not {wanted.get(name)}",
                "repeat that setting, choose another output_dir, or give --overwrite true",
            )
    if not resume:
        raise PigError(f"{folder} holds a run", "give --resume true or --overwrite true")


def open_run(
    output_dir: str | Path,
    workflow: str,
    settings: Mapping[str, Any],
    owned: Sequence[str],
    overwrite: bool | str = False,
    resume: bool | str = True,
) -> None:
    """Make the run's folder; with ``overwrite`` remove a former run's files, and nothing else.

    Call it when all else is known to be in order. Arguments and errors are those of `check_run`.
    """
    check_run(output_dir, workflow, settings, owned, overwrite, resume)
    folder = Path(output_dir)
    try:
        if as_bool(overwrite, "overwrite"):
            for name in owned:
                _remove(folder / name)
        write_json(folder / RECORD, {"workflow": workflow, "settings": _plain(settings)})
    except OSError as cause:
        raise PigError(f"output_dir {folder} cannot be written ({cause.strerror})", "choose another") from cause


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON would give it back."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
