"""The rules for small samples: what is refused, reduced, drawn and noted."""

from __future__ import annotations

import numpy as np
import pytest

from pig_monai.metrics.frechet import frechet_distance
from pig_monai.metrics.kernel import kernel_distance, kernel_spread
from pig_monai.metrics.neighbours import neighbourhoods
from pig_monai.metrics.projection import fit_projection
from pig_monai.pairs_evaluation import distances
from pig_monai.pairs_evaluation.distances import DRAWS, METRICS, SPLITS, compare_features, split_distances
from pig_monai.pairs_evaluation.figures import EQUAL, GENERATED, HELDOUT, SPLIT, find

RNG = np.random.default_rng(0)
REAL, GENERATED_SLICES, HELDOUT_SLICES = (RNG.standard_normal((n, 8)) + shift for n, shift in
                                          ((120, 0), (90, 0.5), (60, 0)))  # fmt: skip


OWNERS = ([f"p{i // 3}" for i in range(120)], [f"h{i // 3}" for i in range(60)])


def test_many_slices_give_the_metrics_themselves():
    found = compare_features(REAL, GENERATED_SLICES, features="f", region="lesion", seed=4)
    values = {figure.metric: figure.value for figure in found if figure.sample == GENERATED}
    centred = fit_projection(REAL)
    kernel = kernel_distance(centred(REAL), centred(GENERATED_SLICES))
    sd, _ = kernel_spread(centred(REAL), centred(GENERATED_SLICES), seed=4)
    lie = neighbourhoods(REAL, GENERATED_SLICES)
    assert values["frechet"] == pytest.approx(frechet_distance(REAL, GENERATED_SLICES))
    assert (values["kernel"], values["kernel_sd"]) == pytest.approx((kernel, sd))
    assert [values[name] for name in METRICS[2:]] == [lie.precision, lie.recall, lie.density, lie.coverage]
    assert {(f.features, f.region, f.n_real) for f in found} == {("f", "lesion", 120)}
    assert {(f.sample, f.n_generated) for f in found} == {(GENERATED, 90), (EQUAL, 24)}


@pytest.mark.parametrize("n", [10, 15, 16, 40])
def test_no_more_dimensions_than_half_the_smallest_sample(n):
    figure = find(compare_features(REAL, GENERATED_SLICES[:n]), "frechet", "features", "slice")
    kept = min(8, n // 2)
    project = fit_projection(REAL, kept)
    assert figure.value == pytest.approx(frechet_distance(project(REAL), project(GENERATED_SLICES[:n])))
    assert (f"{kept} principal components of 8 features" in figure.note) == (kept < 8)
    assert ("fewer than 50" in figure.note) == (n < 50)


def test_held_out_slices_count_for_the_dimensions_and_a_handful_does_not_matter():
    figure = find(compare_features(REAL, GENERATED_SLICES, HELDOUT_SLICES[:12]), "frechet", "features", "slice")
    assert "6 principal components" in figure.note
    found = compare_features(REAL, GENERATED_SLICES, HELDOUT_SLICES[:9])
    assert {figure.sample for figure in found if figure.value is not None} == {GENERATED}
    assert "principal" not in found[0].note


@pytest.mark.parametrize("generated", [GENERATED_SLICES, GENERATED_SLICES[:8]])
def test_a_handful_of_held_out_slices_is_refused_by_name(generated):
    found = compare_features(REAL, generated, HELDOUT_SLICES[:9], patients=(OWNERS[0], OWNERS[1][:9]), fid=True)
    heldout = [figure for figure in found if figure.sample == HELDOUT]
    assert [figure.metric for figure in heldout] == [*METRICS, "fid"]
    assert {(f.value, f.n_generated, f.note) for f in heldout} == {
        (None, 9, "refused: 9 slices are fewer than 10")
    }


def test_too_few_slices_are_refused():
    found = compare_features(REAL, GENERATED_SLICES[:9])
    assert {figure.metric for figure in found} == set(METRICS)
    assert {figure.value for figure in found} == {None}
    assert {figure.note for figure in found} == {"refused: 9 slices are fewer than 10"}


def test_held_out_slices_are_compared_with_as_many_generated_ones():
    found = compare_features(REAL, GENERATED_SLICES, HELDOUT_SLICES, seed=7)
    heldout = find(found, "frechet", "features", "slice", HELDOUT)
    equal = find(found, "frechet", "features", "slice", EQUAL)
    assert (heldout.n_generated, equal.n_generated) == (60, 60)
    assert heldout.value == pytest.approx(frechet_distance(REAL, HELDOUT_SLICES))
    rng = np.random.default_rng(7)
    drawn = [GENERATED_SLICES[rng.choice(90, 60, False)] for _ in range(DRAWS)]
    assert equal.value == pytest.approx(np.mean([frechet_distance(REAL, one) for one in drawn]))
    assert equal.note == "mean of 10 draws of 60 slices"
    assert heldout.note == ""
    assert heldout.value < equal.value


def test_more_held_out_slices_than_generated_ones_are_drawn_from():
    found = compare_features(REAL, GENERATED_SLICES[:50], HELDOUT_SLICES)
    assert find(found, "frechet", "features", "slice", EQUAL) is None
    heldout = find(found, "coverage", "features", "slice", HELDOUT)
    assert heldout.n_generated == 50
    assert "mean of 10 draws of 50" in heldout.note


def test_standardised_features_do_not_depend_on_their_units():
    units = np.array([1000, 1, 1, 0.01, 1, 1, 1, 1])
    one = compare_features(REAL, GENERATED_SLICES, HELDOUT_SLICES, standardise=True)
    other = compare_features(REAL * units, GENERATED_SLICES * units, HELDOUT_SLICES * units, standardise=True)
    assert [figure.value for figure in one] == pytest.approx([figure.value for figure in other])
    raw = compare_features(REAL * units, GENERATED_SLICES * units)
    assert raw[0].value > 10 * one[0].value


def test_fid_keeps_all_dimensions_and_says_when_the_covariance_is_singular():
    wide, made, held = (RNG.standard_normal((n, 70)) for n in (60, 80, 55))
    found = compare_features(wide, made, held, fid=True)
    fid = find(found, "fid", "features", "slice")
    assert fid.value == pytest.approx(frechet_distance(wide, made))
    assert "60 slices for 70 features: the covariance is singular" in fid.note
    assert find(found, "fid", "features", "slice", HELDOUT).value == pytest.approx(frechet_distance(wide, held))
    equal = find(found, "fid", "features", "slice", EQUAL)  # as many as held-out ones, so that the two compare
    drawn = np.random.default_rng(0)
    draws = [frechet_distance(wide, made[drawn.choice(80, 55, False)]) for _ in range(DRAWS)]
    assert (equal.n_generated, equal.value) == (55, pytest.approx(np.mean(draws)))
    assert find(found, "frechet", "features", "slice").value < fid.value
    many = find(compare_features(REAL, GENERATED_SLICES, fid=True), "fid", "features", "slice")
    assert "singular" not in many.note
    assert find(compare_features(REAL, GENERATED_SLICES), "fid", "features", "slice") is None


def test_the_seed_decides_the_draws():
    one, same, other = (compare_features(REAL, GENERATED_SLICES, HELDOUT_SLICES, seed=s) for s in (1, 1, 2))
    assert one == same
    assert find(one, "frechet", "features", "slice", EQUAL) != find(other, "frechet", "features", "slice", EQUAL)


# --- real against real ------------------------------------------------------------------------------------------


def test_chosen_patients_are_never_among_the_others(monkeypatch):
    seen = []
    monkeypatch.setattr(distances, "frechet_distance", lambda rest, chosen: seen.append((rest, chosen)) or 0.0)
    patients = [
        name for name, count in zip("abcdefgh", (1, 2, 3, 4, 5, 3, 2, 4), strict=True) for _ in range(count)
    ]
    slices = np.arange(len(patients), dtype=np.float64)[:, None]
    _, others = split_distances(slices, patients, 7, seed=0, splits=30)
    assert len(seen) == 30
    assert others == int(np.median([len(rest) for rest, _ in seen]))
    for rest, chosen in seen:
        assert len(chosen) == len(np.unique(chosen)) == 7
        owners = [{patients[int(i)] for i in side[:, 0]} for side in (rest, chosen)]
        assert not owners[0] & owners[1]
        last = len(owners[0] | owners[1])
        assert last == 8  # everybody is on one side
    assert len({tuple(chosen[:, 0]) for _, chosen in seen}) > 20


def test_choices_that_leave_too_few_others_are_left_out():
    slices, patients = RNG.standard_normal((30, 3)), ["a"] * 10 + ["b"] * 20

    def choices(n: int) -> int:
        return len(split_distances(slices, patients, n, seed=0)[0])

    assert choices(10) == SPLITS
    assert not choices(12)  # of b's or of a's and b's, none leaves twelve
    patients = ["a"] * 10 + ["b"] * 15 + ["c"] * 5
    assert 0 < choices(12) < SPLITS  # b leaves fifteen, a and c none


def test_generated_slices_of_the_same_distribution_lie_among_the_choices():
    same, far = RNG.standard_normal((90, 8)), RNG.standard_normal((90, 8)) + 1
    for heldout in (HELDOUT_SLICES, None):
        owners = (OWNERS[0], OWNERS[1] if heldout is not None else [])
        near, off = (compare_features(REAL, one, heldout, patients=owners) for one in (same, far))
        mean = find(near, "frechet", "features", "slice", SPLIT)
        bounds = (mean.low, mean.high)
        assert bounds[0] < mean.value < bounds[1]
        everyone = len(REAL) + (0 if heldout is None else len(heldout))
        assert mean.n_real <= everyone - mean.n_generated
        assert mean.n_generated == find(near, "frechet", "features", "slice", EQUAL).n_generated
        assert 0.8 * bounds[0] < find(near, "frechet", "features", "slice", EQUAL).value < 1.2 * bounds[1]
        assert find(off, "frechet", "features", "slice", EQUAL).value > 2 * bounds[1]
