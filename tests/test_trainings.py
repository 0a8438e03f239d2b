"""Trainings by their command lines: what they leave, how they stop, and that no stop changes where they end."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pig_monai.checkpoint import load_weights
from pig_monai.data.folder import heldout_entries, read_datalist, training_entries
from pig_monai.data.transforms import load_slices
from pig_monai.denoisers import load_denoiser
from pig_monai.diffusion.noise import PairNoise, Purpose
from pig_monai.diffusion.sampling import KnownImage, sample_pairs
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.diffusion.solvers import SOLVERS
from pig_monai.pictures import contact_sheet, magnification
from tests.conftest import ROOT, TINY, run_bundle

QUICK = {**TINY, "image_size": 8, "prediction": "v"}  # of v even a hundred iterations make masks
GUIDER = "configs/train_guider.yaml"


def start(config: str, log: Path, **ids: object) -> subprocess.Popen[bytes]:
    """Start a training as a user does and do not wait for it; what it says on stderr goes to ``log``."""
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        f"bundles/pig_dbt/{config}",
    ]
    for name, value in ids.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIG_DEBUG": "0"}
    with open(log, "wb") as stream:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stream, env=environment, start_new_session=True
        )


def wait(condition: Callable[[], Any], seconds: float, pause: float = 0.002) -> None:
    """Wait for a condition, at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(pause)


def latest_state(folder: Path) -> int:
    """Return the iteration of the latest saved state, 0 for none."""
    return max((int(path.stem.split("_")[1]) for path in folder.glob("checkpoints/state_*.pt")), default=0)


def metrics(folder: Path, column: str) -> dict[int, float]:
    with open(folder / "metrics.csv", newline="") as stream:
        return {int(row["iteration"]): float(row[column]) for row in csv.DictReader(stream) if row[column]}


def assert_same(one: Any, other: Any) -> None:
    """Two states are equal, tensors to 1e-6."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)
    else:
        assert one == other


def upper_row(entries: list[dict[str, Any]]) -> np.ndarray:
    """The pixels of a preview's upper row for these slices."""
    items: list[Any] = [load_slices(8)({key: entry[key] for key in ("image", "label")}) for entry in entries]
    slices, masks = ([item[key][0].numpy() for item in items] for key in ("image", "label"))
    sheet = contact_sheet(slices, [mask > 0.5 for mask in masks], 6, magnification(192, 8))
    return np.asarray(sheet)


@pytest.fixture(scope="module")
def guider(phantom_dataset, tmp_path_factory):
    """A guider's training of 120 iterations, and what it said."""
    folder = tmp_path_factory.mktemp("training") / "guider"
    ids = {"max_iterations": 120, "checkpoint_interval": 50, "preview_interval": 60}
    result = run_bundle("training", GUIDER, output_dir=folder, dataset_dir=phantom_dataset, **QUICK, **ids)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_training_leaves_its_figures_as_a_table_and_for_tensorboard(guider):
    folder, result = guider
    bands = ["loss_t0", "loss_t256", "loss_t512", "loss_t768"]
    measured = ["loss", "learning_rate", "ema_distance", "images_per_second", *bands]
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert sorted(header) == sorted(["iteration", "validation_loss", *measured])
    validations = metrics(folder, "validation_loss")
    assert list(validations) == [50, 100, 120]
    assert validations[120] < 0.95 * validations[50]
    rates = metrics(folder, "learning_rate")
    for iteration in (50, 100):  # the rate of the next step: warm-up times cosine, to 0 at 120
        warm = min(1.0, (iteration + 1) / 100)
        wanted = 2e-4 * warm * (1 + np.cos(np.pi * iteration / 120)) / 2
        assert rates[iteration] == pytest.approx(wanted, rel=1e-5)
    losses, by_level = metrics(folder, "loss"), [metrics(folder, band) for band in bands]
    for iteration in (50, 100):
        assert min(b[iteration] for b in by_level) < losses[iteration] < max(b[iteration] for b in by_level)
        assert 0 < metrics(folder, "ema_distance")[iteration] < 0.1
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in (*measured, "validation_loss"):
        table = metrics(folder, name)
        assert list(table) == ([50, 100, 120] if name == "validation_loss" else [50, 100])
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert shown == pytest.approx(table, rel=1e-5)
    assert [event.step for event in events.Images("preview")] == [60, 120]
    assert len(list((folder / "tensorboard").iterdir())) == 1
    forecasts = [line for line in result.stderr.splitlines() if "an iteration, about" in line]
    assert len(forecasts) == 1
    assert re.fullmatch(
        r"guider: .* s an iteration, about .* s to go \(until .*\) without validation and previews; "
        r"peak memory .* [MG]B",
        forecasts[0],
    )


def test_the_best_weights_are_those_of_the_lowest_validation_loss(guider):
    folder, _ = guider
    validations = metrics(folder, "validation_loss")
    best = min(validations, key=validations.__getitem__)
    assert load_weights(folder / "model_guider_best.pt", "guider")[1]["iteration"] == best
    assert load_weights(folder, "guider")[1]["iteration"] == 120
    state = torch.load(folder / "checkpoints/best.pt", weights_only=True)
    assert state["iteration"] == state["validation"]["iteration"] == best
    assert state["validation"]["loss"] == pytest.approx(validations[best], rel=1e-5)


def test_previews_show_heldout_slices(guider, phantom_dataset):
    folder, _ = guider
    assert sorted(path.name for path in (folder / "previews").iterdir()) == ["00000060.png", "00000120.png"]
    heldout = heldout_entries(phantom_dataset, 0)
    validating = [heldout[n * len(heldout) // 64] for n in range(64)]
    wanted = upper_row([validating[n * 64 // 6] for n in range(6)])
    for path in (folder / "previews").iterdir():
        np.testing.assert_array_equal(np.asarray(Image.open(path))[: len(wanted)], wanted)


def test_without_a_fold_nothing_is_validated_and_training_slices_are_shown(phantom_dataset, tmp_path):
    ids = {"fold": -1, "max_iterations": 51, "checkpoint_interval": 25, "output_dir": tmp_path / "run"}
    result = run_bundle("training", GUIDER, dataset_dir=phantom_dataset, **QUICK, **ids)
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path / "run", "validation_loss") == {}
    assert list(metrics(tmp_path / "run", "loss")) == [50]
    assert not (tmp_path / "run/model_guider_best.pt").exists()
    assert not (tmp_path / "run/checkpoints/best.pt").exists()
    entries = training_entries(phantom_dataset, -1)
    wanted = upper_row([entries[n * len(entries) // 6] for n in range(6)])
    preview = np.asarray(Image.open(tmp_path / "run/previews/00000051.png"))
    np.testing.assert_array_equal(preview[: len(wanted)], wanted)


def test_a_generators_previews_are_made_with_its_guider(guider, phantom_dataset, tmp_path):
    ids = {"guider_ckpt": guider[0], "max_iterations": 4, "output_dir": tmp_path / "generator"}
    result = run_bundle("training", "configs/train_generator.yaml", dataset_dir=phantom_dataset, **QUICK, **ids)
    assert result.returncode == 0, result.stderr
    heldout = heldout_entries(phantom_dataset, 0)
    shown = [heldout[n * 64 // 6 * len(heldout) // 64] for n in range(6)]
    masks = torch.stack([load_slices(8)({"label": e["label"], "image": e["image"]})["label"] for e in shown])
    schedule, solver = NoiseSchedule(), SOLVERS["dpmpp_2m"]
    generator = load_denoiser(tmp_path / "generator", "generator", "cpu", amp=True).denoiser
    preview = np.asarray(Image.open(tmp_path / "generator/previews/00000004.png")).astype(int)
    apart = []
    for predict_mask in (load_denoiser(guider[0], "guider", "cpu", amp=True).denoiser,
                         KnownImage(masks * 2 - 1, schedule)):  # fmt: skip
        noise = PairNoise(0, range(6), "cpu", Purpose.PREVIEW)
        grid = solver.timesteps(schedule, 25)
        x, y = sample_pairs(
            predict_mask, generator, schedule, grid, solver.step, noise.draw(1, 8, 8), noise.draw(1, 8, 8), noise
        )
        sheet = contact_sheet(list(y[:, 0].numpy()), list(x[:, 0].numpy() > 0), 6, magnification(192, 8))
        row = np.asarray(sheet).astype(int)
        apart.append(np.abs(preview[-len(row) :] - row).mean())
    assert apart[0] < 0.1  # grey levels
    assert apart[1] > 1  # made for the true masks they look different


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in [folder, *folder.rglob("*")]}


def test_a_dry_run_tells_the_plan_and_leaves_all_as_it_was(guider, phantom_dataset, tmp_path):
    folder, _ = guider
    entries = read_datalist(phantom_dataset)["training"]
    heldout = sum(entry["fold"] == 0 for entry in entries)
    weights = sum(value.numel() for value in load_weights(folder, "guider")[0].values())
    epoch = -(-(len(entries) - heldout) // 4)
    for output_dir, found, to_go in (
        (folder, "continues", "120 done, 50 to go"),
        (tmp_path / "not/there", "a new run", "0 done, 170 to go"),
    ):
        before = listing(output_dir.parent) if output_dir.exists() else None
        ids = {"max_iterations": 170, "output_dir": output_dir, "dry_run": "true", "keep_checkpoints": 3}
        result = run_bundle("training", GUIDER, dataset_dir=phantom_dataset, **QUICK, **ids)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.split("plan of the guider's training")[1].splitlines()[1:]
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert told["slices"] == f"{len(entries) - heldout} to train on, {heldout} of fold 0 validate"
        assert told["image size"] == "8 × 8 pixels"
        assert told["batch size"] == "4"
        assert told["epochs"] == f"{170 / epoch:.1f} of {epoch} iterations"
        assert told["parameters"] == f"{weights / 1e6:.2f} M"
        assert told["output_dir"] == f"{output_dir} ({found})"
        assert told["iterations"] == f"170, {to_go}"
        size, unit = told["disk"].removeprefix("about ").split()
        assert unit == "MB"
        assert float(size) == pytest.approx(4 * weights * (2 + 4 * 4) / 1e6, rel=0.01)
        if before is None:
            assert not (tmp_path / "not").exists()
        else:
            assert listing(output_dir.parent) == before


def test_weights_of_another_image_size_start_a_training(guider, phantom_dataset, tmp_path):
    state, _ = load_weights(guider[0], "guider")
    ids = {**QUICK, "image_size": 16, "dataset_dir": phantom_dataset, "output_dir": tmp_path / "run"}
    result = run_bundle("training", GUIDER, **ids, init_ckpt=guider[0], max_iterations=1, learning_rate=0)
    assert result.returncode == 0, result.stderr
    assert f"loaded {len(state)} of {len(state)} tensors, 100.0 % of the parameters" in result.stderr
    started, meta = load_weights(tmp_path / "run", "guider")
    assert meta["image_size"] == 16
    for name, value in started.items():  # a rate of 0 leaves them as they were
        np.testing.assert_array_equal(value, state[name], err_msg=name)


def stop(number: signal.Signals, status: int, log: Path, ids: dict[str, Any]) -> int:
    """Start a training, stop it after its next saved state, and return the iteration it says it ended with."""
    folder = ids["output_dir"]
    before = latest_state(folder)
    process = start(GUIDER, log, **ids)
    wait(lambda: latest_state(folder) > before or process.poll() is not None, 120)
    os.killpg(process.pid, number)  # to all its processes, as schedulers and terminals do
    assert process.wait(60) == status
    said = re.search(
        rf"stopped by {number.name} after iteration (\d+), which is saved in (.*); the same command continues\s*$",
        log.read_text(),
    )
    assert said is not None
    assert said[2] == str(folder)
    stopped = int(said[1])
    assert before < stopped < ids["max_iterations"]
    assert latest_state(folder) == stopped
    state = torch.load(folder / f"checkpoints/state_{stopped:08d}.pt", weights_only=True)
    assert state["iteration"] == stopped
    assert load_weights(folder, "guider")[1]["iteration"] == stopped
    return stopped


def test_a_stopped_training_goes_on_to_the_end_it_would_have_had(guider, phantom_dataset, tmp_path):
    folder = tmp_path / "run"
    ids = {**QUICK, "max_iterations": 120, "checkpoint_interval": 20, "dataset_dir": phantom_dataset,
           "output_dir": folder}  # fmt: skip
    stop(signal.SIGTERM, 143, tmp_path / "log", {**ids, "num_workers": 1})  # the signal reaches the loader, too
    stopped = stop(signal.SIGINT, 130, tmp_path / "log", ids)
    result = run_bundle("training", GUIDER, **ids)
    assert result.returncode == 0, result.stderr
    assert f"continuing from iteration {stopped}" in result.stderr
    assert (folder / "model_guider.pt").read_bytes() == (guider[0] / "model_guider.pt").read_bytes()
    assert list(metrics(folder, "validation_loss")) == [20, 40, 60, 80, 100, 120]


RUN_TO = 150
LAST_KILL = RUN_TO - 50 - 14  # not far beyond this iteration: two intervals of 7 may pass before it is seen
KILLS = ["start-up"] * 3 + ["training"] * 4 + ["saving"] * 5


def killed(process: subprocess.Popen[bytes], moment: str, folder: Path, chance: random.Random) -> list[str]:
    """Kill −9 a training at a random moment; return the scratch files that it left."""
    before = latest_state(folder)

    def late() -> bool:
        return latest_state(folder) >= LAST_KILL or process.poll() is not None

    def scratch() -> list[str]:
        places = [place for place in (folder, folder / "checkpoints") if place.exists()]
        return [
            f"{place.name}/{name}" for place in places for name in os.listdir(place) if name[:9] == ".writing-"
        ]

    if moment == "start-up":
        wait(late, chance.uniform(0.5, 5))
    else:
        wait(lambda: latest_state(folder) > before or late(), 120)
        if moment == "training":
            wait(late, chance.uniform(0, 0.4))
        else:
            wait(lambda: scratch() or late(), 5, pause=0)
            time.sleep(chance.choice([0, 0.001]))  # a file is being written for a millisecond or two
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return scratch()


@pytest.fixture(scope="module")
def uninterrupted(phantom_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    ids = {**QUICK, "max_iterations": RUN_TO, "checkpoint_interval": 7, "dataset_dir": phantom_dataset}
    result = run_bundle("training", GUIDER, output_dir=folder, **ids)
    assert result.returncode == 0, result.stderr
    return folder, ids


def test_trainings_killed_at_random_moments_end_where_the_uninterrupted_one_does(uninterrupted, tmp_path):
    reference, ids = uninterrupted
    folder, chance = tmp_path / "run", random.Random(0)
    moments = chance.sample(KILLS, len(KILLS))
    for number, moment in enumerate(moments, 1):
        process = start(GUIDER, tmp_path / "log", output_dir=folder, **ids)
        left = killed(process, moment, folder, chance)
        print(
            f"kill {number} in {moment}: latest state {latest_state(folder)}, half-written files {left or 'none'}"
        )
    assert 0 < latest_state(folder) <= RUN_TO - 50
    result = run_bundle("training", GUIDER, output_dir=folder, **ids)
    assert result.returncode == 0, result.stderr
    assert list(folder.rglob(".writing-*")) == []
    ends = [
        torch.load(path / f"checkpoints/state_{RUN_TO:08d}.pt", weights_only=True) for path in (folder, reference)
    ]
    for name in ("network", "ema", "optimizer", "lr_scheduler", "validation"):
        assert_same(ends[0][name], ends[1][name])
    for name in ("model_guider.pt", "model_guider_best.pt"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes()
    assert metrics(folder, "validation_loss") == metrics(reference, "validation_loss")


def test_mlflow_records_losses_by_iteration_and_goes_on_in_the_same_folder(phantom_dataset, tmp_path):
    pytest.importorskip("mlflow")
    for iterations in (4, 6):
        ids = {"max_iterations": iterations, "checkpoint_interval": 2, "tracking": "mlflow"}
        result = run_bundle("training", GUIDER, output_dir=tmp_path, dataset_dir=phantom_dataset, **QUICK, **ids)
        assert result.returncode == 0, result.stderr
    with closing(sqlite3.connect(tmp_path / "mlruns.db")) as database:
        rows = database.execute("SELECT key, step, value FROM metrics ORDER BY step").fetchall()
    validations = {step: value for key, step, value in rows if key == "validation_loss"}
    assert validations == pytest.approx(metrics(tmp_path, "validation_loss"), rel=1e-5)
    assert [step for key, step, _ in rows if key == "train_loss"] == [1, 2, 3, 4, 5, 6]
    assert all(0 < value < 3 for key, _, value in rows if key == "train_loss")
    for path in tmp_path.glob("config_*.json"):  # MONAI's record of the config as it was run
        assert json.loads(path.read_text())["max_iterations"] in (4, 6)
