"""Five folds in one command: each fold's training and evaluation as a process of its own, then one table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pig_monai.cli import as_bool, as_whole
from pig_monai.data.folder import DATALIST, fingerprint, read_datalist
from pig_monai.errors import PigError
from pig_monai.evaluation.evaluate import select_entries
from pig_monai.evaluation.fold_table import FoldFigures, FoldTable
from pig_monai.evaluation.pairs_trace import PairsTrace
from pig_monai.evaluation.segmenters import honest_pairs
from pig_monai.files import read_json, sha256, write_json, write_text
from pig_monai.plan import print_plan
from pig_monai.runs import WORDS, Run
from pig_monai.stopping import StopAskedError, StopSignals

LOG = "training.log"
OWNED = ("table.csv", "table.md", "summary.json", "report.html")
EPOCH = re.compile(r"Epoch\[(\d+)\] Metrics")
"""How a training's log tells that an epoch's validation is over."""

PAUSE = 1.0
"""Seconds between two looks at the logs."""


@dataclass(frozen=True)
class Fold:
    """The folder of one fold: ``fold_K/`` with the training's files, and in it ``evaluation/``.

    Args:
        number: 0 to 4.
        folder: its own.
    """

    number: int
    folder: Path

    @property
    def weights(self) -> Path:
        """What its training leaves."""
        return self.folder / "model.pt"

    @property
    def summary(self) -> Path:
        """What its evaluation leaves last."""
        return self.folder / "evaluation" / "summary.json"

    def trained(self) -> bool:
        """Whether its training is over."""
        described = self.weights.with_suffix(".json")
        if not (self.weights.is_file() and described.is_file()):
            return False
        return bool(read_json(described, "remove it")["weights_sha256"] == sha256(self.weights))

    def evaluated(self) -> bool:
        """Whether these very weights are evaluated."""
        if not (self.trained() and self.summary.is_file()):
            return False
        return [w["sha256"] for w in read_json(self.summary, "remove it")["weights"]] == [sha256(self.weights)]

    def epoch(self) -> int:
        """Return the last epoch that its training's log tells of, 0 for none."""
        log = self.folder / LOG
        found = EPOCH.findall(log.read_text(errors="replace")) if log.is_file() else []
        return int(found[-1]) if found else 0


@dataclass(frozen=True)
class _Running:
    """A fold's training or evaluation under way.

    Args:
        process: ends with this one.
        log: what it writes.
    """

    process: subprocess.Popen[bytes]
    log: Path


class CrossValidation:
    """Trains and evaluates a segmenter for each fold.

    Args:
        bundle_root: whose configs are run.
        dataset_dir: the dataset folder.
        output_dir: receives ``fold_K/`` for each fold, table.csv, table.md, summary.json and report.html.
        folds: which; all five for the table of the paper.
        pairs_dir: generated pairs to train on, too; ``{fold}`` in it becomes the fold, whose pairs must come from
            networks that held out that fold. None for real slices alone.
        training: further ids of ``train.yaml``, by name.
        device: where to train and to infer.
        seed: of trainings and bootstraps.
        parallel: folds at a time.
        overwrite: begin again, whatever is there.

    Raises:
        PigError: a fold that does not exist, or is listed twice; or pairs that carry what the fold is to test,
            which its evaluation would refuse after all the training.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        dataset_dir: str | Path,
        output_dir: str | Path,
        folds: Sequence[int],
        pairs_dir: str | None,
        training: Mapping[str, Any],
        device: str,
        seed: int,
        parallel: int = 1,
        overwrite: bool | str = False,
    ) -> None:
        self.bundle_root = Path(bundle_root).resolve()
        self.dataset_dir = Path(dataset_dir)
        known = sorted({entry["fold"] for entry in read_datalist(dataset_dir)["training"]} - {-1})
        if not folds or len(set(folds)) < len(folds) or not set(folds) <= set(known):
            raise PigError(f"folds is {list(folds)}", f"list folds of the dataset, each once: {known}")
        self.folds = [Fold(number, Path(output_dir) / f"fold_{number}") for number in folds]
        self.pairs_dir = None if pairs_dir is None else str(pairs_dir)
        self.training = dict(training)
        self.device = str(device)
        self.seed = seed
        self.parallel = as_whole(parallel, "parallel")
        for fold in self.folds if self.pairs_dir else []:
            self._check_pairs(fold)
        settings = {
            "data": fingerprint(self.dataset_dir),
            "pairs": {fold.number: fingerprint(self._pairs(fold)) for fold in self.folds} if pairs_dir else None,
            "seed": seed,
            **self.training,
        }
        owned = [*OWNED, *(f"fold_{number}" for number in known)]
        overwrite = as_bool(overwrite, "overwrite")
        inputs = {"dataset_dir": self.dataset_dir}
        if pairs_dir:
            inputs |= {f"pairs_dir of fold {fold.number}:": self._pairs(fold) for fold in self.folds}
        self.folder = Run(
            output_dir, "cross-validation", settings, owned, overwrite, growing=["pairs"], inputs=inputs
        )

    def run(self) -> None:
        """Train and evaluate what is not done yet, then write the table.

        Raises:
            PigError: a training or an evaluation failed, or another run is in the folder.
            SystemExit: SIGTERM or Ctrl-C asked for it; the same command continues.
        """
        self.folder.open()
        try:
            self._run_folds()
        except StopAskedError as asked:
            print("stopped; the same command continues", file=sys.stderr)
            sys.exit(asked.status)
        self._write()

    def _run_folds(self) -> None:
        """Keep `parallel` folds running until each has nothing more to do."""
        waiting, running = list(self.folds), dict[Fold, _Running]()
        epochs = int(self.training["max_epochs"])
        with StopSignals() as stop, tqdm(total=epochs * len(self.folds), desc="folds", unit="epoch") as bar:
            try:
                while waiting or running:
                    stop.check()
                    for fold in [fold for fold, one in running.items() if one.process.poll() is not None]:
                        self._check_ended(fold, running.pop(fold))
                        waiting.insert(0, fold)
                    while waiting and len(running) < self.parallel:
                        fold = waiting.pop(0)
                        command = self.next_command(fold)
                        if command:
                            running[fold] = self._start(fold, command)
                    bar.n = sum(epochs if fold.trained() else min(fold.epoch(), epochs) for fold in self.folds)
                    bar.set_postfix_str(", ".join(f"fold {fold.number}" for fold in running))
                    time.sleep(PAUSE if running else 0)
            finally:
                for one in running.values():
                    one.process.terminate()
                for one in running.values():
                    one.process.wait()

    def next_command(self, fold: Fold) -> list[str]:
        """Return the command that a fold waits for: its training, its evaluation, or nothing."""
        if not fold.trained():
            ids = {
                "dataset_dir": self.dataset_dir.resolve(),
                "output_dir": fold.folder.resolve(),
                "fold": fold.number,
                "device": self.device,
                "seed": self.seed,
                "resume": True,
                **self.training,
            }
            if self.pairs_dir:
                ids["pairs_dir"] = self._pairs(fold).resolve()
            return self._command("training", "train.yaml", ids)
        if not fold.evaluated():
            ids = {
                "dataset_dir": self.dataset_dir.resolve(),
                "output_dir": fold.summary.parent.resolve(),
                "fold": fold.number,
                "ckpt": fold.weights.resolve(),
                "device": self.device,
                "seed": self.seed,
                "overwrite": True,
            }
            return self._command("evaluate", "evaluate.yaml", ids)
        return []

    def _command(self, run_id: str, config: str, ids: Mapping[str, Any]) -> list[str]:
        start = [sys.executable, "-m", "pig_monai.with_parent", "monai.bundle", "run", run_id]
        start += ["--config_file", f"configs/{config}"]
        return start + [text for name, value in ids.items() for text in (f"--{name}", str(value))]

    def _start(self, fold: Fold, command: Sequence[str]) -> _Running:
        fold.folder.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.parallel)  # more of them would wait for each other
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        path = fold.folder / ("evaluation.log" if fold.trained() else LOG)
        with open(path, "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.bundle_root,
                env=environment,
                stdin=subprocess.PIPE,  # its end tells `with_parent` of ours
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process to pass on
            )
        return _Running(process, path)

    def _check_ended(self, fold: Fold, ended: _Running) -> None:
        assert ended.process.stdin is not None
        ended.process.stdin.close()
        if ended.process.returncode:
            last = "".join(ended.log.read_text(errors="replace").strip().splitlines()[-1:]) or "no output"
            raise PigError(
                f"fold {fold.number} ended with status {ended.process.returncode}: {last.removeprefix('error: ')}",
                f"see {ended.log}; the same command continues",
            )

    def _pairs(self, fold: Fold) -> Path:
        return Path(str(self.pairs_dir).replace("{fold}", str(fold.number)))

    def _check_pairs(self, fold: Fold) -> None:
        """Refuse pairs after which the fold would be no test."""
        everyone = {str(entry["patient"]) for entry in read_datalist(self.dataset_dir)["training"]}
        tested = {str(entry["patient"]) for entry in select_entries(self.dataset_dir, fold.number).entries}
        datalist = read_datalist(self._pairs(fold))
        used = datalist["training"][: int(self.training.get("max_pairs", len(datalist["training"])))]
        trace = PairsTrace.of_pairs(datalist, used)
        leak = trace.leak(fold.number, tested, everyone, self.dataset_dir / DATALIST)
        if leak is not None:
            raise PigError(f"pairs_dir {self._pairs(fold)} holds pairs {leak}", honest_pairs(fold.number))

    def _write(self) -> None:
        figures = [FoldFigures.read(fold.number, fold.summary.parent) for fold in self.folds]
        pairs = read_json(self.folds[0].weights.with_suffix(".json"), "train it anew")["pairs"]
        seen = " and ".join(self._origins()) + (f" + {pairs} pairs" if pairs else "")
        table = FoldTable(seen, figures, self.seed)
        out = self.folder.folder
        write_text(out / "table.csv", table.csv())
        write_text(out / "table.md", table.markdown())
        write_text(out / "report.html", table.page())
        write_json(out / "summary.json", table.summary() | {"weights": [sha256(f.weights) for f in self.folds]})
        print(table.markdown(), end="")
        for line in (*(f"note: {note}" for note in table.notes), f"cross-validated: {out / 'report.html'}"):
            print(line, file=sys.stderr)

    def _origins(self) -> list[str]:
        """Return what the slices of the folds are: ``real``, ``phantom``."""
        entries = read_datalist(self.dataset_dir)["training"]
        return sorted({entry.get("origin", "real") for entry in entries if entry["fold"] != -1})

    def plan(self) -> None:
        """Print what `run` would do; nothing is written."""
        intention = self.folder.check()
        states = {True: "to evaluate", False: "to train"}
        print_plan(
            "plan of a cross-validation",
            {
                "folds": ", ".join(
                    f"{fold.number} ({'done' if fold.evaluated() else states[fold.trained()]})"
                    for fold in self.folds
                ),
                "at a time": self.parallel,
                "pairs": self.pairs_dir,
                **self.training,
                "device": self.device,
                "output_dir": f"{self.folder.folder} ({WORDS[intention]})",
            },
        )
