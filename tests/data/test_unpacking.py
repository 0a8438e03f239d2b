from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest

from pig_monai.data import unpacking
from pig_monai.data.unpacking import GzipStream

CONTENT = np.random.default_rng(0).integers(0, 3, 100_000, np.uint8).tobytes() + bytes(3_000_000) + b"end"


@pytest.fixture(params=[2**20, 1000])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The content packed as one gzip file, read in large and in small pieces."""
    monkeypatch.setattr(unpacking, "_PIECE", request.param)
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(CONTENT))
    return file


def test_it_reads_what_was_packed(path: Path) -> None:
    stream = GzipStream(path)
    read = [stream.read(size) for size in (0, 7, 352, 99_000, 1_500_000, 10_000_000, 1, -1)]
    assert [len(part) for part in read] == [0, 7, 352, 99_000, 1_500_000, len(CONTENT) - 1_599_359, 0, 0]
    assert b"".join(read) == CONTENT
    assert stream.tell() == len(CONTENT)
    assert GzipStream(path).read() == CONTENT
    numbers = np.zeros(60_000, np.uint16)
    assert GzipStream(path).readinto(numbers) == 120_000
    assert numbers.tobytes() == CONTENT[:120_000]


def test_it_goes_forwards_and_backwards(path: Path) -> None:
    stream = GzipStream(path)
    for place in (5, 90_000, 2_999_999, 17, 0, len(CONTENT) - 3):
        assert stream.seek(place) == place
        assert stream.read(20) == CONTENT[place : place + 20]
    assert stream.seek(len(CONTENT) + 5) == len(CONTENT)


@pytest.mark.parametrize("padding", [b"", bytes(5000)])
def test_several_files_in_a_row_are_one(path: Path, padding: bytes) -> None:
    path.write_bytes(
        b"".join(gzip.compress(CONTENT[a : a + 700_000]) for a in range(0, len(CONTENT), 700_000)) + padding
    )
    assert GzipStream(path).read(len(CONTENT) + 9) == CONTENT
    assert GzipStream(path).read() == CONTENT


def test_damage_shows(path: Path) -> None:
    packed = path.read_bytes()
    for place in (3, len(packed) // 2, len(packed) - 6):  # header, content, checksum
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 255]) + packed[place + 1 :])
        with pytest.raises(zlib.error):
            GzipStream(path).read()
    path.write_bytes(packed[:-2000])
    assert len(GzipStream(path).read()) < len(CONTENT)
