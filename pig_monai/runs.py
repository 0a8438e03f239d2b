"""Run folders: what a command made, with which settings, and whether it may go on or start afresh there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pig_monai import processes
from pig_monai.cli import as_bool
from pig_monai.errors import PigError, disk_full
from pig_monai.files import read_json, remove_scratch_files, write_json
from pig_monai.locking import check_free, lock_for_good, unwritable

RECORD = "run.json"
DATALIST = "datalist.json"  # a dataset folder is no place for a run
_OPTION = "output_dir"

_REPEAT = {
    "data": "give the dataset_dir that it was started with, unchanged",
    "init_sha256": "give the init_ckpt that it was started with, unchanged",
    "guider_sha256": "give the guider_ckpt that it was started with, unchanged (not trained further since)",
    "generator_sha256": "give the generator_ckpt that it was started with, unchanged (not trained further since)",
    "autoencoder_sha256": "give the autoencoder_ckpt that it was started with (not trained further since)",
    "guider_clamp": "give the clamp that it was started with",
    "pairs": "give the pairs_dir that it was started with, unchanged",
    "segmenter_sha256": "give the segmenter_ckpt that it was started with, unchanged",
    "weights": "give the ckpt or ckpts that it was started with, unchanged",
}
"""How to repeat a setting that is no id."""

Intention = Literal["fresh", "continue", "overwrite"]

WORDS: Mapping[Intention, str] = {
    "fresh": "a new run",
    "continue": "continues",
    "overwrite": "the run there would be overwritten",
}
"""How a plan says them."""


class Run:
    """The folder of a run, into which one process at a time writes.

    ``run.json`` keeps the workflow and the settings that make a run what it is. The same command again finds them
    unchanged and continues; others are refused, so that no folder ever mixes two runs. Overwriting is for a
    former run of the same workflow only: a dataset, or another workflow's result, is never removed.

    Under torchrun the first process alone opens the folder.

    Args:
        output_dir: the run's folder.
        workflow: what runs: ``guider``, ``generator``, ``autoencoder``, ``pairs``, ``evaluation``, …
        settings: by id.
        owned: names in ``output_dir`` that the workflow writes.
        overwrite: start afresh.
        resume: continue where the folder has a run; otherwise such a folder is refused.
        growing: settings that are mappings to which a later command may add; what is there already must stay.
        inputs: what the run reads, by id: files, folders, or None; overwriting never removes one of them.
    """

    def __init__(
        self,
        output_dir: str | Path,
        workflow: str,
        settings: Mapping[str, Any],
        owned: Sequence[str],
        overwrite: bool | str = False,
        resume: bool | str = True,
        growing: Sequence[str] = (),
        inputs: Mapping[str, str | Path | None] | None = None,
    ) -> None:
        self.folder = Path(output_dir)
        self.workflow = workflow
        self.settings = _plain(settings)
        self.owned = list(owned)
        self.overwrite = as_bool(overwrite, "overwrite")
        self.resume = as_bool(resume, "resume")
        self.growing = tuple(growing)
        self.inputs = {name: Path(path) for name, path in (inputs or {}).items() if path is not None}

    def check(self) -> Intention:
        """Refuse a folder in which this run may not write; touches nothing.

        Returns:
            what `open` would do: ``fresh`` (there is no run yet), ``continue``, or ``overwrite`` (a former run's
            files are removed).

        Raises:
            PigError: the folder cannot be written, another process writes there, it holds another run or
                something that is no run of this workflow, or overwriting would remove what this run reads.
        """
        self._check_place()
        if processes.rank() == 0:
            check_free(self.folder, _OPTION)
        record = self.folder / RECORD
        found = read_json(record, "choose another output_dir") if record.exists() else {}
        workflow = found.get("workflow") if isinstance(found, dict) else None
        taken = [name for name in (*self.owned, DATALIST) if (self.folder / name).exists()]
        if workflow != self.workflow and (workflow or taken):
            held = f"a {workflow} run" if workflow else taken[0]
            raise PigError(f"{self.folder} holds {held} but no {self.workflow} run", "choose another output_dir")
        if not taken:
            return "fresh"
        if self.overwrite:
            self._check_inputs()
            return "overwrite"
        self._check_settings(found.get("settings", {}))
        if not self.resume:
            raise PigError(f"{self.folder} holds a run", "give --resume true or --overwrite true")
        return "continue"

    def open(self) -> None:
        """Make the folder and lock it; when overwriting remove a former run's files, and nothing else.

        Call it when all else is known to be in order. The process keeps the lock until it ends, however it ends.

        Raises:
            PigError: see `check`.
        """
        if processes.rank() == 0:
            self._check_place()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock_for_good(self.folder, _OPTION)
                if self.check() == "overwrite":
                    for name in self.owned:
                        _remove(self.folder / name)
                remove_scratch_files([self.folder, *(self.folder / name for name in self.owned)])
                write_json(self.folder / RECORD, {"workflow": self.workflow, "settings": self.settings})
            except OSError as cause:
                raise disk_full(cause, self.folder) or unwritable(self.folder, _OPTION, cause.strerror) from cause

    def _check_place(self) -> None:
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if os.path.exists(path))
        if not existing.is_dir():
            raise PigError(f"output_dir {self.folder}: {existing} is a file", "choose another")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise unwritable(self.folder, _OPTION, f"no permission to write in {existing}")

    def _check_inputs(self) -> None:
        """Refuse to overwrite what this run reads: an input, or what lies in one, that is among the owned."""
        owned = {(self.folder / name).resolve() for name in self.owned}
        for name, path in self.inputs.items():
            for read in (path, *(sorted(path.iterdir()) if path.is_dir() else ())):
                lost = owned.intersection((read.resolve(), *read.resolve().parents))
                if lost:
                    raise PigError(
                        f"{name} {path} would be removed: --overwrite true empties output_dir {self.folder} of "
                        f"{min(lost).name}",
                        "choose another output_dir",
                    )

    def _check_settings(self, former: Mapping[str, Any]) -> None:
        """Refuse other settings; take over what the former run has in growing ones and this one does not name."""
        compared = dict(former)
        for name in self.growing:
            before, own = former.get(name), self.settings[name]
            if isinstance(before, Mapping) and isinstance(own, Mapping):
                self.settings[name], compared[name] = {**before, **own}, {**own, **before}
        found = next(differences(compared, self.settings), None)
        if found is not None:
            key, before, now = found
            repeat = _REPEAT.get(key.split("#")[0], "repeat that setting")
            raise PigError(
                f"{self.folder} holds a run with {key} = {before}, not {now}",
                f"{repeat}, choose another output_dir, or give --overwrite true",
            )


def differences(one: Any, other: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two settings differ, down to the innermost: its key (``a#b``) and both values, or None."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}):
            yield from differences(one.get(name), other.get(name), f"{key}#{name}" if key else name)
    elif one != other:
        yield key, one, other


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
