"""The command as a user types it, killed at any moment or asked to stop: it continues to the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pig_monai.data.phantom_dicom import write_phantom
from tests.data.helpers import contents, report

ROOT = Path(__file__).parents[2]
KILLS = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looking for orphans needs Linux"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom, a file that is cut off and one that is no DICOM; and what one run with one worker makes of it."""
    folder = tmp_path_factory.mktemp("source")
    write_phantom(folder, patients=10, seed=0, slices=12, rows=192, columns=128)
    volumes = sorted((folder / "dicom").glob("*.dcm"))
    volumes[3].write_bytes(volumes[3].read_bytes()[:-1000])
    (folder / "dicom/broken.dcm").write_bytes(b"no DICOM")
    (folder / "key").write_text("k")
    done = start(folder, folder / "whole", workers=1)
    assert done.wait() == 0, done.communicate()
    return folder


def start(source: Path, output: Path, workers: int = 2) -> subprocess.Popen[str]:
    """Start the command as the leader of a session of its own."""
    options = {"input": source / "dicom", "masks": source / "masks", "output": output, "key": source / "key"}
    command = [sys.executable, ROOT / "data_prep/dicom_to_slices.py", "--size", "128", "--workers", str(workers)]
    for name, value in options.items():
        command += [f"--{name}", value]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what() and (process is None or process.poll() is None):
        assert time.monotonic() < until
        time.sleep(0.01)


def alive(session: int) -> list[int]:
    """Return the processes of a session that run still."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def test_killed_at_any_moment_it_continues_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rng = random.Random(0)
    finished = 0
    for number in range(KILLS):
        process = start(source, out)
        if number % 4:
            wait_for((out / ".prepared/settings.json").exists, process)
            begun = len(list((out / ".prepared").glob("*.json")))
            if number % 4 > 1:  # when the workers are at it
                wait_for(lambda begun=begun: len(list((out / ".prepared").glob("*.json"))) > begun, process)
        time.sleep(rng.uniform(0, 0.4 if number % 4 else 6))
        finished += process.poll() is not None
        if number % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        wait_for(lambda session=process.pid: not alive(session), seconds=20)
        if (out / "datalist.json").exists():
            assert contents(out).keys() >= contents(source / "whole").keys()
            shutil.rmtree(out)
    assert finished < KILLS / 2
    last = start(source, out)
    assert last.wait() == 0, last.communicate()
    assert contents(out) == contents(source / "whole")
    assert len(report(out)["skipped"]) > 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("workers", [1, 2])
def test_asked_to_stop_it_ends_with_one_line(
    source: Path, tmp_path: Path, number: signal.Signals, status: int, workers: int
) -> None:
    out = tmp_path / "out"
    process = start(source, out, workers)
    wait_for(lambda: len(list((out / ".prepared").glob("*.json"))) > 2, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == status, told
    expected = f"stopped: what is finished stays in {out}; the same command continues"
    assert told.splitlines()[-1] == expected
    assert "Traceback" not in told
    wait_for(lambda: not alive(process.pid), seconds=20)  # the process that starts workers goes a little later
    assert not (out / "run.lock").exists()
    assert not (out / "datalist.json").exists()
    if (number, workers) == (signal.SIGTERM, 2):
        again = start(source, out)
        assert again.wait() == 0, again.communicate()
        assert contents(out) == contents(source / "whole")
