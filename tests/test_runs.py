import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pig_monai.errors import PigError
from pig_monai.runs import Run
from tests.conftest import ROOT

OWNED = ["checkpoints", "model.pt"]

HOLDS_A_RUN = """
import sys
from pig_monai.runs import Run
Run(sys.argv[1], "guider", {"seed": 0}, ["checkpoints"]).open()
print("open", flush=True)
sys.stdin.read()
"""

# Tells whether the lock file was locked when it was removed.
ENDS_A_RUN = """
import fcntl, sys
from pathlib import Path
from pig_monai.runs import Run
remove = Path.unlink
def watched(path, **options):
    if path.name == "run.lock":
        with open(path) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                print("free")
            except BlockingIOError:
                print("locked")
    remove(path, **options)
Path.unlink = watched
Run(sys.argv[1], "guider", {}, ["x"]).open()
"""

# Forty processes want the same folder; who has it makes a file that must not be there yet.
TAKES_TURNS = """
import atexit, os, sys, time
from pathlib import Path
from pig_monai.errors import PigError
from pig_monai.runs import Run
folder = Path(sys.argv[1])
for _ in range(40):
    if os.fork() == 0:
        break
else:
    sys.exit(any([os.wait()[1] for _ in range(40)]))
while True:
    try:
        Run(folder, "guider", {}, ["x"]).open()
        break
    except PigError as cause:
        assert "in use by another process" in str(cause), cause
        time.sleep(0.01)
(folder.parent / "inside").touch(exist_ok=False)
time.sleep(0.005)
(folder.parent / "inside").unlink()
with open(folder.parent / "turns", "a") as stream:
    stream.write("x")
atexit._run_exitfuncs()
os._exit(0)  # quickly: forty times torch's own end takes long
"""


def a_run(folder, workflow="guider", **settings):
    Run(folder, workflow, settings, OWNED).open()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/state_00000001.pt").write_text("a state")
    (folder / "notes.txt").write_text("the user's own")
    return folder


def test_the_same_run_continues(tmp_path):
    folder = a_run(tmp_path, seed=0, channels=(1, 2))
    Run(folder, "guider", {"channels": [1, 2], "seed": 0}, OWNED).open()
    assert (folder / "checkpoints/state_00000001.pt").read_text() == "a state"
    with pytest.raises(PigError, match="holds a run; give --resume"):
        Run(folder, "guider", {"seed": 0, "channels": [1, 2]}, OWNED, resume="False").check()


@pytest.mark.parametrize("settings", [{"seed": 1}, {}, {"seed": 0, "new": 3}])
def test_any_difference_is_refused_with_its_name(tmp_path, settings):
    with pytest.raises(PigError, match=r"seed = 0, not|new = None, not 3"):
        Run(a_run(tmp_path, seed=0), "guider", settings, OWNED).check()


def test_overwriting_removes_a_runs_own_files_only(tmp_path):
    folder = a_run(tmp_path, seed=0)
    Run(folder, "guider", {"seed": 1}, OWNED, overwrite="true").open()
    assert not (folder / "checkpoints").exists()
    assert (folder / "notes.txt").read_text() == "the user's own"
    assert json.loads((folder / "run.json").read_text()) == {"workflow": "guider", "settings": {"seed": 1}}


@pytest.mark.parametrize(
    ("given", "lost"),
    [
        ("", "checkpoints"),
        ("model.pt", "model.pt"),
        ("checkpoints", "checkpoints"),
        ("checkpoints/state_00000001.pt", "checkpoints"),
        ("../link", "model.pt"),
    ],
)
def test_overwriting_never_removes_what_the_run_reads(tmp_path, given, lost):
    folder = a_run(tmp_path / "run", seed=0)
    (folder / "model.pt").write_text("weights")
    (tmp_path / "link").symlink_to(folder / "model.pt")
    inputs = {"dataset_dir": tmp_path / "data", "base_ckpt": None, "init_ckpt": folder / given}
    run = Run(folder, "guider", {"seed": 1}, OWNED, overwrite=True, inputs=inputs)
    for way_in in (run.check, run.open):
        with pytest.raises(PigError) as caught:
            way_in()
        told = (
            f"would be removed: --overwrite true empties output_dir {folder} of {lost}; choose another output_dir"
        )
        assert str(caught.value) == f"init_ckpt {folder / given} {told}"
    assert (folder / "model.pt").read_text() == "weights"
    assert (folder / "checkpoints/state_00000001.pt").read_text() == "a state"
    again = Run(folder, "guider", {"seed": 0}, OWNED, inputs=inputs)
    assert again.check() == "continue"  # which removes nothing


def test_what_a_run_reads_elsewhere_does_not_stand_in_the_way(tmp_path):
    folder = a_run(tmp_path / "data/run", seed=0)  # a run inside of its dataset's folder
    (folder / "model.pt.txt").write_text("the user's own")
    inputs = {"dataset_dir": tmp_path / "data", "init_ckpt": folder / "model.pt.txt", "guider_ckpt": "nowhere.pt"}
    assert Run(folder, "guider", {}, OWNED, overwrite=True, inputs=inputs).check() == "overwrite"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_of_this_workflow_is_never_touched(tmp_path, overwrite):
    generator = a_run(tmp_path / "generator", workflow="generator")
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "datalist.json").write_text("{}")
    for folder, owned in ((generator, OWNED), (dataset, ["datalist.json"])):
        with pytest.raises(PigError, match="but no guider run"):
            Run(folder, "guider", {}, owned, overwrite=overwrite).open()
        assert (folder / owned[0]).exists()


def test_a_start_that_failed_before_it_wrote_anything_blocks_nothing(tmp_path):
    Run(tmp_path, "guider", {"fold": 7}, OWNED).open()
    Run(tmp_path, "guider", {"fold": 0}, OWNED).open()
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == {"fold": 0}


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def other(tmp_path):
    """Another process that holds the run folder ``tmp_path / "run"``."""
    process = start(HOLDS_A_RUN, tmp_path / "run")
    assert process.stdout.readline() == "open\n", process.stderr.read()
    yield process
    process.kill()
    process.communicate()


def test_a_folder_belongs_to_one_process_until_it_ends(other, tmp_path):
    run = Run(tmp_path / "run", "guider", {"seed": 1}, ["checkpoints"], overwrite=True)
    line = f"{run.folder} is in use by another process; wait for it, or choose another output_dir"
    for way_in in (run.check, run.open):
        with pytest.raises(PigError) as caught:
            way_in()
        assert str(caught.value) == line
    assert json.loads((run.folder / "run.json").read_text())["settings"] == {"seed": 0}
    other.communicate("")  # it ends as it should, and leaves no trace of the lock
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]
    run.open()


def test_a_killed_process_keeps_no_lock(other, tmp_path):
    other.kill()
    other.wait()
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "run.lock"]
    run = Run(folder, "guider", {"seed": 0}, ["checkpoints"])
    assert run.check() == "fresh"
    run.open()


def test_of_many_processes_one_at_a_time_is_in_the_folder(tmp_path):
    process = start(TAKES_TURNS, tmp_path / "run")
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert (tmp_path / "turns").read_text() == 40 * "x"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_the_lock_file_is_removed_before_the_lock_is_given_back(tmp_path):
    # the other way round, two processes could hold two files of that name
    said, errors = start(ENDS_A_RUN, tmp_path / "run").communicate()
    assert said == "locked\n", errors


def test_under_torchrun_the_first_process_alone_opens_the_folder(other, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert Run(tmp_path / "run", "guider", {"seed": 0}, ["checkpoints"]).check() == "fresh"  # its first one's lock
    Run(tmp_path / "second", "guider", {}, OWNED).open()
    assert not (tmp_path / "second").exists()
    monkeypatch.setenv("RANK", "0")
    Run(tmp_path / "second", "guider", {}, OWNED).open()
    assert (tmp_path / "second/run.json").exists()


def test_checking_says_what_opening_would_do_and_touches_nothing(tmp_path):
    folder = tmp_path / "run"
    assert Run(folder, "guider", {}, OWNED).check() == "fresh"
    assert not folder.exists()
    a_run(folder)
    before = sorted(folder.rglob("*"))
    assert Run(folder, "guider", {}, OWNED).check() == "continue"
    assert Run(folder, "guider", {"seed": 9}, OWNED, overwrite=True).check() == "overwrite"
    assert sorted(folder.rglob("*")) == before


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    folder = a_run(tmp_path / "run")
    for place in ("checkpoints/.writing-a.pt", ".writing-b.json", "other/.writing-c.pt"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).touch()
    Run(folder, "guider", {}, OWNED).open()
    assert [path.name for path in folder.rglob(".writing-*")] == [".writing-c.pt"]  # not this run's


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(PigError, match=f"output_dir {place}: {tmp_path / 'file'} is a file; choose another"):
            Run(place, "guider", {}, OWNED).check()


def test_a_place_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(PigError, match=f"output_dir {tmp_path / 'a/b'} cannot be written .*in {tmp_path}\\)"):
        Run(tmp_path / "a/b", "guider", {}, OWNED).check()


def test_a_folder_belongs_to_the_workflow_that_opened_it_first(tmp_path):
    Run(tmp_path / "a", "guider", {}, ["checkpoints"]).open()
    with pytest.raises(PigError, match="holds a guider run but no pairs run"):
        Run(tmp_path / "a", "pairs", {}, ["images"], overwrite=True).check()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/datalist.json").write_text("{}")
    with pytest.raises(PigError, match=r"holds datalist\.json but no guider run"):
        Run(tmp_path / "b", "guider", {}, ["checkpoints"]).check()


def test_a_setting_that_is_no_id_says_how_to_repeat_it(tmp_path):
    settings = {"guider_sha256": "a", "network": {"name": "n", "arguments": {"channels": [1]}}}
    Run(tmp_path, "generator", settings, ["x"]).open()
    (tmp_path / "x").mkdir()
    with pytest.raises(PigError, match=r"guider_sha256 = a, not b; give the guider_ckpt that it was started with"):
        Run(tmp_path, "generator", {**settings, "guider_sha256": "b"}, ["x"]).check()
    other = {"name": "n", "arguments": {"channels": [2]}}
    with pytest.raises(PigError, match=r"network#arguments#channels = \[1\], not \[2\]; repeat that setting"):
        Run(tmp_path, "generator", {**settings, "network": other}, ["x"]).check()
