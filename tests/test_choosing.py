import pytest

from pig_monai.choosing import spread_evenly


@pytest.mark.parametrize(
    ("length", "count", "repeated", "wanted"),
    [
        (10, 4, False, [0, 2, 5, 7]),
        (10, 4, True, [0, 2, 5, 7]),
        (3, 6, False, [0, 1, 2]),
        (3, 6, True, [0, 0, 1, 1, 2, 2]),
        (2, 5, True, [0, 0, 0, 1, 1]),
        (0, 4, False, []),
        (0, 4, True, []),
    ],
)
def test_a_few_are_spread_evenly_over_all_from_the_first_on(length, count, repeated, wanted):
    assert spread_evenly(range(length), count, repeated) == wanted
