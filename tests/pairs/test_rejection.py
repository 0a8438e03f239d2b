from __future__ import annotations

import numpy as np
import pytest

from pig_monai.errors import PigError
from pig_monai.pairs.rejection import Limits, find_limits, rejection_reason, too_few_accepted
from pig_monai.training.meta import mask_statistics
from tests.test_mask_features import breast

LIMITS = Limits(min_mask_area=4 / 1024, max_mask_area=60 / 1024, max_components=2, min_inside_breast=0.75)

ALL_NULL = dict.fromkeys(LIMITS.to_dict())


def mask(*blocks: tuple[slice, slice]) -> np.ndarray:
    drawn = np.zeros((32, 32), bool)
    for block in blocks:
        drawn[block] = True
    return drawn


IN, APART, THIRD = (slice(2, 4), slice(15, 17)), (slice(6, 8), slice(15, 17)), (slice(9, 11), slice(15, 17))
LARGE = (slice(1, 9), slice(12, 20))  # 64 pixels
OUTSIDE = (slice(24, 26), slice(2, 4))
PARTLY = (slice(10, 18), slice(16, 17))  # eight pixels, of which 14, 15, 16 and 17 lie outside


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([], "empty"),
        ([(slice(2, 3), slice(15, 18))], "tiny"),
        ([IN], None),  # four pixels: the limit itself is allowed
        ([LARGE], "oversized"),
        ([(slice(1, 9), slice(12, 19)), (slice(0, 1), slice(12, 16))], None),  # sixty
        ([IN, APART], None),
        ([IN, APART, THIRD], "fragmented"),
        ([OUTSIDE], "outside_breast"),
        ([PARTLY], "outside_breast"),
        ([IN, (slice(11, 15), slice(16, 17))], None),  # seven of eight are inside
        ([(slice(24, 25), slice(2, 4))], "tiny"),  # the first that applies counts: also outside
        ([LARGE, OUTSIDE, IN, THIRD, (slice(26, 32), slice(26, 32))], "oversized"),
        ([IN, OUTSIDE, (slice(28, 31), slice(2, 4))], "fragmented"),
    ],
)
def test_each_reason_by_hand(blocks, reason):
    assert rejection_reason(mask(*blocks), breast(), LIMITS) == reason


def training_set() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of 1 to 150 pixels from the chest wall on: some of them leave the breast, some are in several parts."""
    random = np.random.default_rng(0)
    items = []
    for count in range(1, 151):
        drawn = np.zeros((32, 32), bool)
        flat = np.zeros(5 * 32, bool)
        flat[:count] = True
        drawn[:, 8:13] = flat.reshape(5, 32).T
        drawn[0, [24, 26, 28][: random.integers(0, 4)]] = True
        items.append((drawn, breast()))
    return items


def test_limits_are_quantiles_of_the_training_masks():
    items = training_set()
    limits = find_limits({"role": "generator", "masks": mask_statistics(items)}, **ALL_NULL)
    areas = sorted(drawn.sum() / 1024 for drawn, _ in items)
    inside = sorted((drawn & (breast() > -1)).sum() / drawn.sum() for drawn, _ in items)
    parts = sorted(1 + drawn[0, [24, 26, 28]].sum() for drawn, _ in items)

    def quantile(values: list[float], q: float) -> float:  # linear between the order statistics
        position = q * (len(values) - 1)
        low = int(position)
        return values[low] + (position - low) * (values[low + 1] - values[low])

    assert limits.min_mask_area == pytest.approx(quantile(areas, 0.01))
    assert limits.max_mask_area == pytest.approx(quantile(areas, 0.99))
    assert limits.max_components == pytest.approx(quantile(parts, 0.99))
    assert limits.min_inside_breast == pytest.approx(quantile(inside, 0.01))
    reasons = [rejection_reason(*item, limits) for item in items]
    assert reasons.count("tiny") == sum(area < limits.min_mask_area for area in areas) == 2
    assert reasons.count("oversized") == sum(area > limits.max_mask_area for area in areas) == 2


def test_a_given_limit_counts_and_the_others_are_the_training_sets():
    meta = {"role": "generator", "masks": mask_statistics(training_set())}
    limits = find_limits(meta, **{**ALL_NULL, "max_mask_area": 0.5})
    assert limits == Limits(**{**find_limits(meta, **ALL_NULL).to_dict(), "max_mask_area": 0.5})


def test_weights_that_lack_a_statistic_are_named_with_the_ids_to_give():
    masks = {"area": {"0.01": 0.1, "0.99": 0.2}}
    meta = {"role": "generator", "masks": masks}
    with pytest.raises(PigError) as caught:
        find_limits(meta, **ALL_NULL)
    assert "the generator's checkpoint says nothing of its training masks' components" in str(caught.value)
    assert "--max_components and --min_inside_breast" in caught.value.remedy
    given = {"max_components": 3, "min_inside_breast": 0.5}
    assert find_limits(meta, **{**ALL_NULL, **given}) == Limits(0.1, 0.2, 3, 0.5)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"min_mask_area": "abc"}, "min_mask_area is 'abc'"),
        ({"min_inside_breast": -1}, "min_inside_breast is -1"),
        ({"min_mask_area": 0.5}, "min_mask_area 0.5 is more than max_mask_area 0.1"),
    ],
)
def test_limits_that_cannot_be_are_refused(given, what):
    with pytest.raises(PigError, match=what):
        find_limits({"role": "generator"}, **{**LIMITS.to_dict(), "max_mask_area": 0.1, **given})


@pytest.mark.parametrize(
    ("rejected", "told", "remedy"),
    [
        ({"empty": 28, "tiny": 2}, "most are empty: 28 empty, 2 tiny", "train longer (empty masks"),
        (
            {"empty": 3, "oversized": 27},
            "most are oversized (max_mask_area is 0.05859)",
            "raise max_mask_area, or",
        ),
        ({"tiny": 30}, "most are tiny (min_mask_area is 0.003906)", "lower min_mask_area, or"),
        ({"fragmented": 30}, "(max_components is 2)", "train longer (fragmented masks are typical"),
        ({"outside_breast": 30}, "(min_inside_breast is 0.75)", "or lower min_inside_breast, or"),
    ],
)
def test_the_commonest_reason_and_its_limit_are_told(rejected, told, remedy):
    error = too_few_accepted(2, rejected, LIMITS)
    assert error.what.startswith("only 2 of 32 candidates were accepted, and ")
    assert told in error.what
    assert remedy in error.remedy
    assert error.remedy.endswith("lower min_accepted")
