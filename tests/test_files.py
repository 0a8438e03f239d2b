import errno
import os
from pathlib import Path

import pytest
import torch

from pig_monai.errors import PigError
from pig_monai.files import atomic_path, read_json, remove_scratch_files, save_torch, write_json, write_text


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch):
    write_text(tmp_path / "a.json", "former")
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    for write in (lambda: write_json(tmp_path / "a.json", {}), lambda: save_torch(tmp_path / "a.pt", {})):
        with pytest.raises(PigError) as caught:
            write()
        line = f"no space left in {tmp_path}; free some and run the same command again: it continues"
        assert str(caught.value) == line
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"former"}


def test_any_other_failure_keeps_its_own_words(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "a", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_scratch_files_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    write_text(tmp_path / "kept.txt", "kept")
    with atomic_path(tmp_path / "a.pt") as scratch:  # a process that is killed in this block leaves it
        left_over = scratch.read_bytes()
    scratch.write_bytes(left_over)
    remove_scratch_files([tmp_path, tmp_path / "absent"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "kept.txt"]


def test_what_torch_saves_comes_back_and_equal_content_is_equal_bytes(tmp_path):
    content = {"w": torch.arange(5.0), "n": 3}
    for name in ("a.pt", "other name.pt"):
        save_torch(tmp_path / name, content)
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(found["w"], content["w"])
    assert found["n"] == 3
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other name.pt").read_bytes()


@pytest.mark.parametrize(("content", "what"), [(None, "does not exist"), (b"{", "as JSON"), (b"\xff", "as JSON")])
def test_json_that_is_not_there_or_none_is_named(tmp_path, content, what):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PigError, match=f"{path} .*{what}.*; do this"):
        read_json(path, "do this")
