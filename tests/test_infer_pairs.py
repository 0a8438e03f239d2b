"""infer_pairs as a user meets it: what is written, the same bytes however it is drawn, and errors of one line."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pig_monai.checkpoint import load_weights
from pig_monai.data.folder import read_datalist, read_label, read_slice
from tests.conftest import ANY_MASK, ROOT, TINY, last_line, run_bundle
from tests.pairs.known import contents

BUNDLE = ROOT / "bundles/pig_dbt"
CONFIG = "bundles/pig_dbt/configs/infer_pairs.yaml"

# What passes of the noise that scrambled networks make: about half, with some rejected for each reason but empty.
LIMITS = {"min_mask_area": 0.45, "max_mask_area": 0.53, "max_components": 5, "min_inside_breast": 0.965}

SETTINGS = {"num_inference_steps": 3, "device": "cpu", "amp": "false", "min_accepted": 0, "seed": 3}


def networks(folder: Path) -> dict[str, object]:
    # a run folder and a weights file: either will do
    return {"guider_ckpt": folder / "guider", "generator_ckpt": folder / "generator/model_generator.pt"}


def infer(folder: Path, output_dir: Path, **ids: object) -> subprocess.CompletedProcess[str]:
    given = {**networks(folder), **SETTINGS, **LIMITS, **ids}
    return run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=output_dir, **given)


def command(start: list[str], folder: Path, output_dir: Path, **ids: object) -> list[str]:
    given = {**networks(folder), **SETTINGS, **LIMITS, "output_dir": output_dir, **ids}
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return [sys.executable, *start, "run", "infer_pairs", "--config_file", CONFIG, *options]


def read_pairs(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    entries = read_datalist(folder)["training"]
    return [(e["patient"], read_slice(folder / e["image"]), read_label(folder / e["label"])) for e in entries]


@pytest.fixture(scope="module")
def pairs(scrambled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    result = infer(scrambled, folder, num_pairs=24, batch_size=4)
    assert result.returncode == 0, result.stderr
    return folder


def test_pairs_are_a_dataset_folder_with_provenance(pairs, scrambled):
    entries = read_datalist(pairs)["training"]
    report = json.loads((pairs / "report.json").read_text())
    assert report["requested"] == report["accepted"] == len(entries) == 24
    assert report["candidates"] == 24 + sum(report["rejected"].values()) == report["next_index"]
    assert report["limits"] == LIMITS
    for entry in entries:
        assert entry["patient"] == f"synthetic-3-{entry['index']}"
        assert (entry["origin"], entry["fold"]) == ("synthetic", -1)
        assert entry["provenance"]["steps"] == 3
        assert entry["spacing"] == load_weights(scrambled / "generator", "generator")[1]["spacing"]
        assert 0.45 <= read_label(pairs / entry["label"]).mean() <= 0.53
    for picture in ("contact_sheet.png", "film_strip.png"):
        assert (pairs / picture).read_bytes().startswith(b"\x89PNG")


def test_the_fixtures_limits_reject_some_for_each_reason_but_empty(pairs):
    """Otherwise what follows would compare less than it says."""
    report = json.loads((pairs / "report.json").read_text())
    assert report["rejected"].pop("empty") == 0
    assert all(report["rejected"].values())
    names = [path.name for path in (pairs / "rejected").iterdir()]
    counts = {reason: sum(name.startswith(f"{reason}-") for name in names) for reason in report["rejected"]}
    assert counts == report["rejected"]
    assert np.std([image for _, image, _ in read_pairs(pairs)]) > 0.1


def test_pairs_are_the_same_bytes_in_any_batch_and_when_extended(pairs, scrambled, tmp_path):
    assert infer(scrambled, tmp_path / "a", num_pairs=5, batch_size=1).returncode == 0
    extended = infer(scrambled, tmp_path / "a", num_pairs=24, batch_size=7)
    assert "5/24" in extended.stderr  # it continues
    assert contents(tmp_path / "a") == contents(pairs)


def test_two_processes_draw_the_same_bytes(pairs, scrambled, tmp_path):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle"]
    two = command(start, scrambled, tmp_path / "a", num_pairs=24, batch_size=3)
    result = subprocess.run(two, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "a") == contents(pairs)
    told = [line for line in result.stderr.splitlines() if line.startswith("24 pairs")]
    assert len(told) == 1
    # an error of the first process ends both, and its line is the only one
    again = command(start, scrambled, tmp_path / "a", num_pairs=24, solver="ddim", num_inference_steps=4)
    result = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "holds a run with solver = dpmpp_2m, not ddim" in errors[0]


def merge(parts: str, output_dir: Path, num_pairs: int) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pig_monai.merge_pairs", "--parts", parts, "--output_dir", str(output_dir),
         "--num_pairs", str(num_pairs)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_ranges_drawn_apart_make_the_same_bytes_when_merged(pairs, scrambled, tmp_path):
    judged = json.loads((pairs / "report.json").read_text())["candidates"]
    length = judged // 3 + 2  # the last of three ranges goes beyond what one run draws
    for part in range(3):
        ids = {"start_index": part * length, "num_pairs": length, "replace_rejected": "false", "batch_size": 5}
        assert infer(scrambled, tmp_path / f"part_{part}", **ids).returncode == 0
    merge(str(tmp_path / "part_*"), tmp_path / "all", 24)
    assert contents(tmp_path / "all") == contents(pairs)
    merge(str(tmp_path / "part_*"), tmp_path / "some", 13)
    assert infer(scrambled, tmp_path / "some", num_pairs=24).returncode == 0  # one run may continue it
    assert contents(tmp_path / "some") == contents(pairs)


KILLS = 10


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(scrambled, tmp_path):
    """SIGKILL at seeded random moments between the first and the last candidate; each start continues."""
    # a record every 0.2 seconds, for a run of seconds instead of hours
    start = [
        "-c",
        "import runpy, sys; import pig_monai.pairs.folder as folder; folder.SAVE_EVERY = 0.2; "
        "sys.argv[0] = 'monai.bundle'; runpy.run_module('monai.bundle', run_name='__main__')",
    ]
    ids = {"num_pairs": 20, "num_inference_steps": 8, "batch_size": 3}
    begin = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    through = command(start, scrambled, tmp_path / "through", **ids)
    uninterrupted = subprocess.run(through, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    written = [path.stat().st_mtime for path in (tmp_path / "through").rglob("*.*")]
    length = max(written) - min(written)  # from the first file to the last
    moments = random.Random(0)
    record, report = tmp_path / "killed/run.json", tmp_path / "killed/report.json"
    kills, progress = 0, []
    while kills < KILLS:
        before = record.stat().st_mtime_ns if record.exists() else None
        run = subprocess.Popen(
            command(start, scrambled, tmp_path / "killed", **ids),
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        while run.poll() is None and (not record.exists() or record.stat().st_mtime_ns == before):
            time.sleep(0.01)  # until this start has opened the folder
        time.sleep(moments.uniform(0, 0.2 * length))
        run.send_signal(signal.SIGKILL)
        if run.wait() == 0:  # too late: it is finished, and the next start begins anew
            assert contents(tmp_path / "killed") == contents(tmp_path / "through")
            shutil.rmtree(tmp_path / "killed")
        else:
            assert run.returncode == -signal.SIGKILL
            kills += 1
            progress.append(json.loads(report.read_text())["candidates"] if report.exists() else 0)
    final = infer(scrambled, tmp_path / "killed", **ids)
    assert final.returncode == 0, final.stderr
    print(f"{kills} kills in {time.monotonic() - begin:.0f} s, after {progress} candidates")
    assert len(set(progress)) > 3  # they fell far apart, and each start continued
    assert contents(tmp_path / "killed") == contents(tmp_path / "through")


def test_sigterm_ends_with_a_record_and_one_line(scrambled, tmp_path):
    ids = {"num_pairs": 5000, "batch_size": 2}
    run = subprocess.Popen(
        command(["-m", "monai.bundle"], scrambled, tmp_path / "a", **ids),
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list((tmp_path / "a").glob("images/*.nii.gz")) and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 143
    assert "Traceback" not in told
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["accepted"] == len(read_datalist(tmp_path / "a")["training"]) > 0
    assert told.strip().splitlines()[-1].startswith(f"stopped with {report['accepted']} pairs of ")


def test_a_dry_run_tells_the_plan_and_writes_nothing(pairs, scrambled, tmp_path):
    before = contents(pairs)
    result = infer(scrambled, pairs, num_pairs=48, dry_run="true")
    assert result.returncode == 0, result.stderr
    lines = [line.split(":", 1) for line in result.stdout.splitlines() if line.startswith("  ")]
    plan = {name.strip(): value.strip() for name, value in lines}
    state = load_weights(scrambled / "guider", "guider")[0]
    millions = sum(value.numel() for value in state.values()) / 1e6
    assert (
        plan["guider"] == f"{millions:.2f} M parameters, iteration 3, fold 0 held out, trained on phantom slices"
    )
    assert plan["solver"] == "dpmpp_2m, 3 steps"
    assert plan["min_mask_area"] == "0.45 of the slice's pixels"
    report = json.loads((pairs / "report.json").read_text())
    assert f"(continues, 24 pairs of {report['candidates']} candidates are there, rejected: " in plan["output_dir"]
    assert f"for {24 * report['candidates'] / 24:.0f} candidates" in plan["time to go"]
    assert "(a dry run: nothing was written)" in result.stdout
    assert contents(pairs) == before
    assert infer(scrambled, tmp_path / "new", dry_run="true").returncode == 0
    assert not (tmp_path / "new").exists()
    other = infer(scrambled, pairs, max_components=4, dry_run="true")
    assert other.returncode == 1
    assert "holds a run with max_components = 5.0, not 4.0" in last_line(other)


def test_bfloat16_pairs_are_within_a_hundredth_of_the_range_in_any_batch(tmp_path):
    for name, batch_size in (("one", 1), ("many", 4)):
        ids = {"num_pairs": 4, "num_inference_steps": 10, "batch_size": batch_size, "min_accepted": 0, **ANY_MASK}
        shipped = run_bundle("infer_pairs", "configs/infer_pairs.yaml", output_dir=tmp_path / name, **ids)
        assert shipped.returncode == 0, shipped.stderr
    for one, many in zip(read_pairs(tmp_path / "one"), read_pairs(tmp_path / "many"), strict=True):
        assert one[0] == many[0]
        assert np.abs(one[1] - many[1]).max() <= 0.02  # of a range of 2
        assert (one[2] != many[2]).mean() <= 0.01


def test_float32_pairs_are_the_same_bytes_with_any_number_of_threads(tmp_path, monkeypatch):
    """With the bundle's own networks, whose convolutions do share their sums out among threads."""
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        ids = {"num_pairs": 1, "num_inference_steps": 4, "min_accepted": 0, "amp": "false", **ANY_MASK}
        options = [text for name, value in ids.items() for text in (f"--{name}", str(value))]
        start = [sys.executable, "-m", "monai.bundle", "run", "infer_pairs", "--config_file", CONFIG]
        drawn = subprocess.run(
            [*start, "--output_dir", str(tmp_path / threads), *options], cwd=ROOT, capture_output=True, check=False
        )
        assert drawn.returncode == 0, drawn.stderr
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_other_settings_in_the_same_folder_are_refused(pairs, scrambled):
    result = infer(scrambled, pairs, seed=4)
    assert result.returncode == 1
    assert last_line(result).startswith(f"error: {pairs} holds a run with seed = 3, not 4; ")


def test_a_dataset_is_never_overwritten_with_pairs(scrambled, phantom_dataset):
    result = infer(scrambled, phantom_dataset, overwrite="true")
    assert "holds datalist.json but no pairs run" in last_line(result)
    assert read_datalist(phantom_dataset)


def test_the_command_works_from_the_bundles_root(tmp_path):
    ids = {
        "output_dir": tmp_path / "pairs",
        "num_pairs": 1,
        "num_inference_steps": 4,
        "min_accepted": 0,
        **ANY_MASK,
    }
    shipped = run_bundle("infer_pairs", "configs/infer_pairs.yaml", cwd=BUNDLE, **ids)
    assert shipped.returncode == 0, shipped.stderr
    assert read_datalist(tmp_path / "pairs")["training"][0]["provenance"]["generator_fold"] == -1


def test_a_preset_is_merged_and_what_it_brings_for_others_is_named(trained, tmp_path):
    files = "['bundles/pig_dbt/configs/infer_pairs.yaml','bundles/pig_dbt/configs/presets/demo.yaml']"
    limits = [text for name, value in ANY_MASK.items() for text in (f"--{name}", str(value))]
    result = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "infer_pairs", "--config_file", files, "--num_pairs", "1",
         "--output_dir", str(tmp_path / "pairs"), "--num_inference_steps", "2", "--min_accepted", "0", *limits,
         "--guider_ckpt", str(trained / "guider"), "--generator_ckpt", str(trained / "generator")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stderr.splitlines() if line.startswith("ignored"))
    assert "learning_rate" in line
    assert "solver" not in line


@pytest.mark.parametrize(
    ("ids", "what"),
    [
        ({"guider_ckpt": "/nowhere.pt"}, "guider_ckpt /nowhere.pt does not exist"),
        ({"solver": "euler"}, "solver is 'euler'"),
        ({"num_pairs": 0}, "num_pairs is 0"),
        ({"num_inference_steps": 2000}, "num_inference_steps is 2000"),
        ({"amp": "maybe"}, "amp is 'maybe'"),
        ({"replace_rejected": "maybe"}, "replace_rejected is 'maybe'"),
        ({"max_mask_area": "large"}, "max_mask_area is 'large'"),
        ({"min_mask_area": 0.5, "max_mask_area": 0.4}, "min_mask_area 0.5 is more than max_mask_area 0.4"),
    ],
)
def test_a_users_mistake_ends_with_one_line(ids, what, tmp_path):
    given = {"output_dir": tmp_path / "out", **ANY_MASK, **ids}
    result = run_bundle("infer_pairs", "configs/infer_pairs.yaml", **given)
    assert result.returncode == 1
    assert last_line(result).startswith("error: ")
    assert what in last_line(result)
    assert "; " in last_line(result)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_networks_that_make_no_pair_are_refused_with_both_sides(trained, phantom_dataset, tmp_path):
    ids = {
        **TINY,
        "dataset_dir": phantom_dataset,
        "output_dir": tmp_path / "guider",
        "max_iterations": 1,
        "fold": 1,
    }
    assert run_bundle("training", "configs/train_guider.yaml", **ids).returncode == 0
    result = infer(trained, tmp_path / "pairs", guider_ckpt=tmp_path / "guider")
    assert result.returncode == 1
    assert "the guider's fold is 1 and the generator's is 0" in last_line(result)


def test_undertrained_weights_end_with_an_explanation(trained, tmp_path):
    """A guider that answers 'no mass anywhere' makes empty masks: counted as rejected, never filled."""
    content = torch.load(trained / "guider/model_guider.pt", weights_only=True)
    for value in content["model"].values():
        value.zero_()
    bias = next(name for name in reversed(content["model"]) if name.endswith("bias"))
    content["model"][bias].fill_(30.0)  # v = 30 pushes x̂₀ = αx − σv far below 0 at every step
    shutil.copytree(trained, tmp_path / "empty")
    torch.save(content, tmp_path / "empty/guider/model_guider.pt")
    nulls = dict.fromkeys(LIMITS, "None")  # the training masks' quantiles, as these weights say
    result = infer(tmp_path / "empty", tmp_path / "pairs", num_pairs=4, min_accepted=0.1, batch_size=8, **nulls)
    assert result.returncode == 1
    assert "only 0 of 32 candidates were accepted, and most are empty" in last_line(result)
    assert "train longer" in last_line(result)
    report = json.loads((tmp_path / "pairs/report.json").read_text())
    assert report["rejected"]["empty"] == sum(report["rejected"].values()) == 32
    masks = load_weights(trained / "generator", "generator")[1]["masks"]
    assert report["limits"]["max_mask_area"] == masks["area"]["0.99"]
    assert report["limits"]["min_inside_breast"] == masks["inside_breast"]["0.01"]
