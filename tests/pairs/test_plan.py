from types import SimpleNamespace

import pytest

from pig_monai.pairs import plan
from pig_monai.pairs.generate import PairsJob
from tests.pairs.known import NO_LIMITS, KnownSampler


@pytest.mark.parametrize(("steps", "batch_size"), [(25, 8), (3, 1), (2, 4)])
def test_the_seconds_of_a_candidate_are_those_of_all_its_steps(monkeypatch, tmp_path, steps, batch_size):
    """With a clock of our own: 0.5 s a step and candidate, and 30 s more for the first step ever."""
    now = [0.0]
    monkeypatch.setattr(plan, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    sampler = KnownSampler()
    sampler.grid = [(t, t - 1) for t in reversed(range(steps))]
    draw = sampler.draw

    def timed(indices, on_step=None, steps=None):
        now[0] += 0.5 * len(indices) * len(sampler.grid[:steps]) + (30 if not sampler.drawn else 0)
        return draw(indices, on_step, steps)

    sampler.draw = timed
    job = PairsJob(tmp_path / "pairs", NO_LIMITS, batch_size=batch_size)
    assert plan.seconds_a_candidate(sampler, job) == pytest.approx(0.5 * steps)
