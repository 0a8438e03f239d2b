"""The pairs folder with a sampler whose candidates are known: every third mask is empty."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pig_monai.data.folder import read_datalist, read_label, read_slice
from pig_monai.errors import PigError
from pig_monai.pairs import folder as pairs_folder
from pig_monai.pairs import generate as generate_module
from pig_monai.pairs.folder import PairsFolder
from pig_monai.pairs.rejection import Limits
from pig_monai.pictures import OUTLINE
from tests.pairs.known import KnownSampler, contents, generate


def indices(folder: Path) -> list[int]:
    return [entry["index"] for entry in read_datalist(folder)["training"]]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def rejected(**counts: int) -> dict[str, int]:
    return {**dict.fromkeys(("empty", "tiny", "oversized", "fragmented", "outside_breast"), 0), **counts}


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_the_first_accepted_in_index_order(tmp_path, batch_size):
    sampler = KnownSampler()
    generate(sampler, tmp_path, num_pairs=5, start_index=6, batch_size=batch_size)
    assert indices(tmp_path) == [7, 8, 10, 11, 13]
    assert sampler.drawn == [*range(6, 14), 7]  # each candidate once, and the first pair for its film strip
    report = report_of(tmp_path)
    counts = {key: report[key] for key in ("requested", "accepted", "rejected", "candidates", "next_index")}
    assert counts == {
        "requested": 5,
        "accepted": 5,
        "rejected": rejected(empty=3),
        "candidates": 8,
        "next_index": 14,
    }
    entry = read_datalist(tmp_path)["training"][2]
    assert entry["spacing"] == [0.5, 0.25]
    np.testing.assert_allclose(read_slice(tmp_path / entry["image"]), 0.1, atol=2e-5)
    assert np.array_equal(read_label(tmp_path / entry["label"]), KnownSampler().candidate(10).mask)


def test_rejected_candidates_are_counted_and_kept_as_thumbnails(tmp_path):
    limits = Limits(min_mask_area=2 / 64, max_mask_area=1, max_components=1, min_inside_breast=0)
    sampler = KnownSampler()
    original = sampler.candidate

    def candidate(index: int):  # of ten: 1 tiny, 2 and 7 in two parts, 0, 3, 6 and 9 empty
        drawn = original(index)
        drawn.mask[:, 3] &= index != 1
        drawn.mask[(index + 4) % 8, 5] = index in (2, 7)
        return drawn

    sampler.candidate = candidate
    generate(sampler, tmp_path, limits, num_pairs=3)
    assert indices(tmp_path) == [4, 5, 8]
    report = report_of(tmp_path)
    assert report["rejected"] == rejected(empty=3, tiny=1, fragmented=2)
    assert report["limits"] == limits.to_dict()
    names = sorted(path.name for path in (tmp_path / "rejected").iterdir())
    assert names == [
        "empty-000000.png",
        "empty-000003.png",
        "empty-000006.png",
        "fragmented-000002.png",
        "fragmented-000007.png",
        "tiny-000001.png",
    ]
    shown = np.asarray(Image.open(tmp_path / "rejected/tiny-000001.png"))
    assert shown.shape == (128, 128, 3)
    assert tuple(shown[100, 100]) == (129,) * 3  # 0.01 of the range above the middle
    orange = np.argwhere((shown == OUTLINE).all(-1))
    # the mask is the pixel (1, 2): magnified 16 times, column 1 and row 2, and outlined just outside
    assert orange.min(0).tolist() == [31, 15]
    assert orange.max(0).tolist() == [48, 32]


def test_more_pairs_continue_and_fewer_change_nothing(tmp_path):
    generate(KnownSampler(), tmp_path / "grown", num_pairs=3, batch_size=4)
    sampler = KnownSampler()
    generate(sampler, tmp_path / "grown", num_pairs=5, batch_size=4)
    assert indices(tmp_path / "grown") == [1, 2, 4, 5, 7]
    assert min(sampler.drawn) == 5  # 0 to 4 were judged
    generate(KnownSampler(), tmp_path / "through", num_pairs=5)
    assert contents(tmp_path / "grown") == contents(tmp_path / "through")
    generate(sampler, tmp_path / "grown", num_pairs=2)
    assert contents(tmp_path / "grown") == contents(tmp_path / "through")


def test_pairs_of_former_versions_are_continued_and_then_say_whom_their_generator_saw(tmp_path):
    generate(KnownSampler(), tmp_path / "former", num_pairs=3)
    path = tmp_path / "former/datalist.json"
    datalist = json.loads(path.read_text())
    assert datalist.pop("generators") == KnownSampler().generators
    path.write_text(json.dumps(datalist))
    generate(KnownSampler(), tmp_path / "former", num_pairs=5)
    generate(KnownSampler(), tmp_path / "through", num_pairs=5)
    assert contents(tmp_path / "former") == contents(tmp_path / "through")


def test_without_replacement_a_range_of_candidates_is_drawn(tmp_path, capsys):
    sampler = KnownSampler()
    generate(sampler, tmp_path, num_pairs=7, start_index=3, batch_size=4, replace_rejected="false")
    assert indices(tmp_path) == [4, 5, 7, 8]
    report = report_of(tmp_path)
    assert (report["requested"], report["candidates"], report["next_index"]) == (7, 7, 10)
    assert report["rejected"] == rejected(empty=3)
    assert "4 pairs of 7 candidates" in capsys.readouterr().err
    generate(sampler, tmp_path, num_pairs=5, start_index=3, batch_size=4)  # either way continues the other
    assert indices(tmp_path) == [4, 5, 7, 8, 10]


def test_the_cost_of_a_candidate_is_told_where_some_were_drawn(tmp_path, capsys, monkeypatch):
    """The clock moves while the two rounds are drawn, while they are judged, and while the film strip is drawn."""
    now = [0.0]
    sampler = KnownSampler()
    draw, judge = sampler.draw, PairsFolder.judge

    def slow_draw(indices, on_step=None, steps=None):
        now[0] += 1.5 * len(indices)
        return draw(indices, on_step, steps)

    def slow_judge(*given):
        now[0] += 1000
        return judge(*given)

    sampler.draw = slow_draw
    monkeypatch.setattr(PairsFolder, "judge", slow_judge)
    monkeypatch.setattr(generate_module.time, "perf_counter", lambda: now[0])
    told = f"4 pairs of 5 candidates in {tmp_path}; {{}}rejected: 1 empty, 0 tiny, "
    for cost in ("1.500 s a candidate (5 drawn); ", ""):  # the second time there is nothing left to draw
        generate(sampler, tmp_path, num_pairs=4, start_index=1, batch_size=4)
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith(told.format(cost))


def test_a_range_without_any_pair_is_no_error_and_says_so(tmp_path, capsys):
    generate(KnownSampler(every=1), tmp_path, num_pairs=40, replace_rejected=False)
    assert report_of(tmp_path)["rejected"] == rejected(empty=40)
    assert not (tmp_path / "datalist.json").exists()
    assert "warning: only 0 of 40 candidates were accepted, and most are empty" in capsys.readouterr().err


def test_other_limits_in_the_same_folder_are_refused(tmp_path):
    generate(KnownSampler(), tmp_path, num_pairs=2)
    with pytest.raises(PigError, match=r"holds a run with max_mask_area = 1, not 0\.5"):
        generate(KnownSampler(), tmp_path, Limits(0, 0.5, 64, 0), num_pairs=2)


def test_overwrite_leaves_nothing_of_the_former_run(tmp_path):
    generate(KnownSampler(every=2), tmp_path / "a", num_pairs=9)
    generate(KnownSampler(), tmp_path / "a", num_pairs=3, overwrite=True)
    generate(KnownSampler(), tmp_path / "b", num_pairs=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_crash_between_datalist_and_report_repeats_that_batch(tmp_path):
    generate(KnownSampler(), tmp_path, num_pairs=2, batch_size=2)
    before = (tmp_path / "report.json").read_text()
    generate(KnownSampler(), tmp_path, num_pairs=4, batch_size=2)
    (tmp_path / "report.json").write_text(before)  # the datalist is ahead, as after a kill between the two
    generate(KnownSampler(), tmp_path, num_pairs=4, batch_size=2)
    assert indices(tmp_path) == [1, 2, 4, 5]
    assert report_of(tmp_path)["rejected"] == rejected(empty=2)


def test_what_came_after_the_last_record_leaves_no_trace(tmp_path):
    generate(KnownSampler(), tmp_path / "a", num_pairs=2)
    before = {name: (tmp_path / "a" / name).read_text() for name in ("report.json", "datalist.json")}
    generate(KnownSampler(), tmp_path / "a", num_pairs=9)
    for name, text in before.items():  # as after a kill at the ninth pair, long after the last record
        (tmp_path / "a" / name).write_text(text)
    generate(KnownSampler(), tmp_path / "a", num_pairs=4)
    generate(KnownSampler(), tmp_path / "b", num_pairs=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_records_are_far_apart_however_many_batches(tmp_path, monkeypatch):
    now = [0.0]
    written = Counter()
    monkeypatch.setattr(pairs_folder.time, "monotonic", lambda: now[0])
    write = pairs_folder.write_json

    def count(path: Path, content: dict) -> None:
        written[path.name] += 1
        write(path, content)

    monkeypatch.setattr(pairs_folder, "write_json", count)
    sampler = KnownSampler()
    draw = sampler.draw

    def slow(*args, **kwargs):  # two seconds a batch: 18 candidates make 36
        now[0] += 2
        return draw(*args, **kwargs)

    sampler.draw = slow
    generate(sampler, tmp_path, num_pairs=12, batch_size=1)
    assert written["report.json"] == 2  # after 20 seconds and at the end
    assert len(indices(tmp_path)) == 12


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_in_good_order(tmp_path, capsys, number, status):
    sampler = KnownSampler()
    draw = sampler.draw

    def interrupted(indices, on_step=None, steps=None):
        if 6 in indices:
            os.kill(os.getpid(), number)
        return draw(indices, on_step, steps)

    sampler.draw = interrupted
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as ended:
        generate(sampler, tmp_path / "a", num_pairs=6, batch_size=2)
    assert ended.value.code == status
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    found, cost = re.escape(f"4 pairs of 6 candidates in {tmp_path / 'a'}"), r"\d\.\d{3} s a candidate \(6 drawn\)"
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(f"stopped with {found}; {cost}; the same command continues", told)
    assert report_of(tmp_path / "a")["next_index"] == 6
    again = KnownSampler()
    generate(again, tmp_path / "a", num_pairs=6, batch_size=2)
    assert again.drawn[0] == 6
    generate(KnownSampler(), tmp_path / "b", num_pairs=6)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(("min_accepted", "judged"), [(0.1, 32), (0, 512)])
def test_a_sampler_that_makes_nothing_comes_to_an_end(tmp_path, min_accepted, judged):
    with pytest.raises(PigError, match=f"only 0 of {judged} candidates"):
        generate(KnownSampler(every=1), tmp_path, num_pairs=1, min_accepted=min_accepted)
    assert report_of(tmp_path)["rejected"] == rejected(empty=judged)


def test_a_pair_that_was_deleted_is_named(tmp_path):
    generate(KnownSampler(), tmp_path, num_pairs=2)
    (tmp_path / read_datalist(tmp_path)["training"][0]["image"]).unlink()
    with pytest.raises(PigError, match=r"synthetic-5-000001\.nii\.gz does not exist"):
        generate(KnownSampler(), tmp_path, num_pairs=4)
