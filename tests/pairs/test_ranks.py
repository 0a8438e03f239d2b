"""Two real processes under torchrun; what a round brings together, and what an error in one of them does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pig_monai.bundle import default_device
from pig_monai.pairs.ranks import Ranks

SCRIPT = """
import sys
from pig_monai.errors import PigError, install_excepthook
from pig_monai.pairs.ranks import Ranks
install_excepthook()
ranks = Ranks()
ranks.join()

def work(indices):
    if sys.argv[1] == "error" and 13 in indices:
        raise PigError(f"process {ranks.rank} has no luck", "do without 13")
    return [(index, ranks.rank) for index in indices]

try:
    for start in (0, 5, 10):
        found = ranks.draw(work, ranks.share(range(start, start + 5) if ranks.first else None))
        if ranks.first:
            print(found, flush=True)
        else:
            assert found == []
    ranks.leave()
except (RuntimeError, PigError):
    if ranks.first:
        raise
    sys.exit(1)
"""


@pytest.mark.parametrize("kind", ["fine", "error"])
def test_a_round_is_shared_in_turn_and_an_error_reaches_the_first_process(tmp_path, kind):
    (tmp_path / "script.py").write_text(SCRIPT)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*start, str(tmp_path / "script.py"), kind], capture_output=True, text=True, check=False, timeout=120
    )
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        "[(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]",
        "[(5, 0), (6, 1), (7, 0), (8, 1), (9, 0)]",
    ]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if kind == "fine":
        assert (result.returncode, errors, len(lines)) == (0, [], 3)
    else:
        assert result.returncode == 1
        assert errors == ["error: process 1 has no luck; do without 13"]


@pytest.mark.parametrize(
    ("gpu", "local_rank", "device"),
    [(False, None, "cpu"), (False, "1", "cpu"), (True, None, "cuda"), (True, "1", "cuda:1")],
)
def test_each_process_has_a_gpu_of_its_own(monkeypatch, gpu, local_rank, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert default_device() == device


def test_one_process_draws_alone():
    assert Ranks(0, 1).draw(lambda indices: [i * i for i in indices], range(4)) == [0, 1, 4, 9]
    with pytest.raises(ZeroDivisionError):  # as it was raised, with its own traceback
        Ranks(0, 1).draw(lambda indices: [1 // 0], range(4))
