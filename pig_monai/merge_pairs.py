"""Joins the pairs of several jobs: ``python -m pig_monai.merge_pairs --parts 'runs/part_*' --output_dir OUT``."""

from __future__ import annotations

import glob
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pig_monai.cli import as_bool, as_whole, run_command
from pig_monai.errors import PigError
from pig_monai.files import atomic_path
from pig_monai.pairs.folder import PairsFolder, pairs_run
from pig_monai.pairs.parts import Judged, Part, check_parts, read_part, take_pairs
from pig_monai.pairs.pictures import draw_contact_sheet
from pig_monai.pairs.rejection import describe_counts


def merge_pairs(
    *, parts: str, output_dir: str, num_pairs: int | None = None, overwrite: bool | str = False
) -> None:
    """Join the pairs of several infer_pairs jobs into one pairs folder.

    Draw the parts with the same settings, each with its own range of candidates:

        infer_pairs … --output_dir runs/part_0 --start_index 0    --num_pairs 1000 --replace_rejected false
        infer_pairs … --output_dir runs/part_1 --start_index 1000 --num_pairs 1000 --replace_rejected false

    The result has the bytes that one run from the smallest start_index on would have written, and infer_pairs
    may continue it. The parts stay as they are.

    Args:
        parts: the parts' folders: a pattern in quotes, such as 'runs/part_*', or a list with commas.
        output_dir: the folder to write; none of the parts.
        num_pairs: accepted pairs to keep, the first ones in index order; all by default.
        overwrite: true removes former pairs in output_dir.
    """
    folders = find_parts(parts)
    output = Path(str(output_dir))
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise PigError(f"output_dir {output} is one of the parts", "choose another")
    wanted = None if num_pairs is None else as_whole(num_pairs, "--num_pairs")
    found = sorted((read_part(folder) for folder in folders), key=lambda part: (part.start, part.stop))
    check_parts(found)
    taken = take_pairs(found, wanted)
    merged = _write(found, taken, output, as_bool(overwrite, "overwrite"))
    print(f"{len(merged.entries)} pairs of {merged.judged} candidates from {len(found)} parts in {output}")
    print(f"rejected: {describe_counts(merged.rejected)}")
    if found[-1].unfinished:
        print(f"note: {found[-1].folder} was stopped; its command continues it", file=sys.stderr)


def find_parts(parts: object) -> list[Path]:
    """Return the folders that ``--parts`` names.

    Args:
        parts: a glob, or folders with commas between them, which fire may have made a tuple.

    Raises:
        PigError: nothing there.
    """
    names = list(map(str, parts)) if isinstance(parts, tuple | list) else str(parts).split(",")
    folders = [Path(found) for name in names for found in (sorted(glob.glob(name.strip())) or [name.strip()])]
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing is not None:
        raise PigError(f"--parts: there is no folder {missing}", "name folders that infer_pairs wrote")
    return folders


def _write(parts: Sequence[Part], taken: Sequence[Judged], output: Path, overwrite: bool) -> PairsFolder:
    """Write the merged folder; a merge that was killed is done again by the same command."""
    entries = [one.entry for one in taken if one.entry is not None]
    first = next(one for one in taken if one.entry is not None)
    strip = first.part / "film_strip.png"
    if not strip.exists():
        raise PigError(f"{strip} is missing", f"run the command of {first.part} again: it continues")
    common = next(part.common for part in parts if part.folder == first.part)
    generators = [part.common.generators for part in parts if part.common.generators]  # one generator's: all alike
    common = replace(common, generators=generators[0] if generators else {})
    start = parts[0].start
    run = pairs_run(output, {**parts[0].settings, "start_index": start}, overwrite)
    merged = PairsFolder(output, common, start)
    if run.check() == "continue":
        merged.read()
        if len(merged.entries) > len(entries):
            raise PigError(
                f"{output} holds {len(merged.entries)} pairs, more than the {len(entries)} to be merged",
                "choose another output_dir or give --overwrite true",
            )
        merged = PairsFolder(output, common, start)
    run.open()
    for one in taken:
        for name in one.files:
            _copy(one.part / name, output / name)
        if one.reason is not None:
            merged.rejected[one.reason] += 1
    merged.entries = entries
    merged.next_index = taken[-1].index + 1
    merged.save(len(entries))
    merged.remove_unrecorded()
    _copy(strip, output / strip.name)
    draw_contact_sheet(output, entries)
    return merged


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as scratch:
        shutil.copyfile(source, scratch)


if __name__ == "__main__":
    run_command(merge_pairs)
