"""The plan of a pairs run: all that can be checked and measured without writing anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pig_monai.denoisers import LoadedDenoiser
from pig_monai.pairs.folder import Common, PairsFolder
from pig_monai.pairs.generate import PairsJob
from pig_monai.pairs.ranks import Ranks
from pig_monai.pairs.rejection import describe_counts
from pig_monai.pairs.sampler import Sampler
from pig_monai.plan import TIMED, WARM_UP, duration, file_size, peak_memory, print_plan
from pig_monai.runs import WORDS, Intention

UNITS = {
    "min_mask_area": "of the slice's pixels",
    "max_mask_area": "of the slice's pixels",
    "max_components": "parts",
    "min_inside_breast": "of the mask's pixels",
}


def plan_pairs(sampler: Sampler, job: PairsJob) -> None:
    """Check everything that `generate_pairs` would need, measure what a pair costs, and print the plan.

    Nothing is written. Under torchrun the first process alone measures and prints.

    Raises:
        PigError: whatever would stop the run before its first candidate.
    """
    ranks = Ranks()
    if not ranks.first:
        return
    intention = job.run(sampler).check()
    pairs = PairsFolder(job.folder, Common.of(sampler, job.limits), job.start_index)
    if intention == "continue":
        pairs.read()
    lines = {
        **dict(_networks(sampler)),
        **_sampling(sampler, job, ranks),
        **_limits(job),
        "output_dir": f"{job.folder} ({_held(intention, pairs, sampler.things)})",
        **_costs(sampler, job, pairs, ranks),
    }
    print_plan(f"plan of {job.num_pairs} {sampler.things if job.replace_rejected else 'candidates'}", lines)


def _networks(sampler: Sampler) -> Iterator[tuple[str, str]]:
    for loaded in sampler.networks:
        meta = loaded.meta
        held_out = "no fold held out" if meta["fold"] == -1 else f"fold {meta['fold']} held out"
        yield (
            meta["role"],
            f"{_parameters(loaded) / 1e6:.2f} M parameters, iteration {meta['iteration']}, {held_out}, "
            f"trained on {' and '.join(meta['origin'])} slices",
        )


def _parameters(loaded: LoadedDenoiser) -> int:
    return sum(p.numel() for p in loaded.denoiser.network.parameters())


def _sampling(sampler: Sampler, job: PairsJob, ranks: Ranks) -> dict[str, str]:
    size = sampler.image_size
    number = f"{ranks.size} processes, " if ranks.size > 1 else ""
    precision = "bfloat16 autocast" if sampler.generator.denoiser.amp else "float32"
    return {
        "image size": f"{size} × {size} pixels",
        "solver": f"{sampler.solver_name}, {len(sampler.grid)} steps",
        "sampling": f"{number}{job.batch_size} candidates at a time on {sampler.device}, {precision}",
        "candidates": f"from {job.start_index} on, seed {sampler.seed}",
    }


def _limits(job: PairsJob) -> dict[str, str]:
    return {name: f"{value:.4g} {UNITS[name]}" for name, value in job.limits.to_dict().items()}


def _held(intention: Intention, pairs: PairsFolder, things: str) -> str:
    if not pairs.judged:
        return WORDS[intention]
    counts = describe_counts(pairs.rejected)
    there = f"{len(pairs.entries)} {things} of {pairs.judged} candidates are there"
    return f"{WORDS[intention]}, {there}, rejected: {counts}"


def _costs(sampler: Sampler, job: PairsJob, pairs: PairsFolder, ranks: Ranks) -> dict[str, Any]:
    """Measure one batch, and say what the rest of the run will take."""
    seconds = seconds_a_candidate(sampler, job) / ranks.size
    left = float(max(0, job.num_pairs - job.found(pairs)))
    if job.replace_rejected and pairs.entries:
        left *= pairs.judged / len(pairs.entries)  # as many are rejected as were so far
    more = "" if pairs.entries or not job.replace_rejected else ", and more for those that are rejected"
    bytes_a_pair = 2 * sampler.image_size**2  # uint16, whose last bits hardly compress; masks do
    return {
        "a candidate": duration(seconds),
        "time to go": f"about {duration(left * seconds)} for {left:.0f} candidates{more}",
        "peak memory": file_size(peak_memory(sampler.device)) + (" a process" if ranks.size > 1 else ""),
        "disk": f"about {file_size(job.num_pairs * bytes_a_pair)}",
    }


def seconds_a_candidate(sampler: Sampler, job: PairsJob) -> float:
    """Return the seconds that a candidate takes in full batches, from a few steps of the first candidates."""
    indices = range(job.start_index, job.start_index + job.batch_size)
    sampler.draw(indices, steps=WARM_UP)
    timed = min(TIMED, len(sampler.grid))
    begin = time.perf_counter()
    sampler.draw(indices, steps=timed)  # its results are on the CPU: the GPU has finished
    return (time.perf_counter() - begin) / timed * len(sampler.grid) / job.batch_size
