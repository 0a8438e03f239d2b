import pytest
import torch

from pig_monai.plan import duration, file_size, peak_memory, print_plan


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.842, "0.84 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (310, "5 min 10 s"),
        (3599.9, "1 h"),
        (3 * 3600 + 10 * 60 + 20, "3 h 10 min"),
        (24 * 3600 - 1, "1 d"),
        (52.2 * 3600, "2 d 4 h"),
        (1000 * 86400, "1000 d"),
    ],
)
def test_a_duration_is_said_in_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (3210, "3.21 kB"), (999_600, "1 MB"), (41.2e9, "41.2 GB")],
)
def test_a_size_is_said_in_powers_of_a_thousand(count: float, words: str) -> None:
    assert file_size(count) == words


def test_a_plan_is_a_title_and_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan("the plan", {"steps": 25, "image size": "64 pixels", "guider": None})
    assert capsys.readouterr().out.splitlines() == [
        "the plan (a dry run: nothing was written)",
        "  steps:      25",
        "  image size: 64 pixels",
        "  guider:     none",
    ]


def test_the_peak_memory_holds_what_was_allocated() -> None:
    before = peak_memory("cpu")
    size = int(before) + 2**26  # more than was ever used: the peak has to rise to it
    block = torch.ones(size, dtype=torch.uint8)
    assert size <= peak_memory("cpu") < before + size + 2**28
    assert block[-1] == 1
