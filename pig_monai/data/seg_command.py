"""The command that writes masks as DICOM segmentations."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from pig_monai.cli import as_bool
from pig_monai.data.dicom.files import open_file, read_tags, reading
from pig_monai.data.find_series import MaskedSeries, Refused, find_series
from pig_monai.data.masks import open_masks
from pig_monai.data.options import choice
from pig_monai.data.outside import refuse_in_dataset
from pig_monai.data.seg import is_segmentation
from pig_monai.data.seg_source import SegSource, read_source
from pig_monai.data.volume import UnusableError
from pig_monai.data.write_seg import ALGORITHMS, build_segmentation, encode
from pig_monai.errors import PigError
from pig_monai.files import atomic_path

_REPLACE = "give --overwrite true to replace it, or another --output"


def masks_to_dicom_seg(
    *,
    series: str,
    mask: str,
    output: str,
    series_uid: str | None = None,
    algorithm: str = "automatic",
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Write masks of DICOM series as DICOM segmentations (SEG), which open beside their series in a viewer.

    A segmentation carries the PATIENT'S IDENTITY: name, ID and study are copied from the series on purpose, so the
    archive files it there. It belongs to the PACS, never into a dataset folder.

    It holds the frames with a mask, as BINARY; an empty mask gives no file. The same mask gives the same UIDs, and
    a file that is there already stays as it is.

    Examples:
        python data_prep/masks_to_dicom_seg.py --series volume.dcm --mask volume.nii.gz --output volume_seg.dcm
        python data_prep/masks_to_dicom_seg.py --series DICOM --mask MASKS --output SEGS

    Args:
        series: a DICOM file (Breast Tomosynthesis or mammogram), or a folder of such files and of slices.
        mask: a mask on the series' own grid: NIfTI or NRRD, for a mammogram also a picture; or a folder of masks,
            named as for dicom_to_slices.py; "_seg" and the like may follow the name.
        output: a file that ends in .dcm, or for any number of masks a folder, which gets <series>_seg.dcm.
        series_uid: SeriesInstanceUID of the series to take, where the folder holds several.
        algorithm: who drew the mask: automatic (a network), semiautomatic (a person corrected it) or manual.
        overwrite: true replaces segmentations in the output that differ.
        dry_run: true checks everything, and writes nothing.
    """
    kind = choice(algorithm, "algorithm", tuple(ALGORITHMS))
    replace, dry = as_bool(overwrite, "--overwrite"), as_bool(dry_run, "--dry_run")
    source, masks, target = Path(str(series)), Path(str(mask)), Path(str(output))
    if not source.exists():
        raise PigError(f"--series {source} does not exist", "give a DICOM file, or a folder of them")
    refuse_in_dataset("--output", target, "segmentations carry the patient's identity")
    pairs, refused = find_series(source, masks, None if series_uid is None else str(series_uid))
    targets = _targets(pairs, target)
    done: Counter[str] = Counter()
    bar = tqdm(zip(pairs, targets, strict=True), "segmentations", len(pairs), unit="mask", disable=len(pairs) < 2)
    for pair, file in bar:
        at_fault = pair.files[0]
        try:
            headers = read_source(pair.files)
            at_fault = pair.masks[0]
            done[_write(headers, pair.masks, file, kind, replace, dry)] += 1
        except UnusableError as why:
            refused.append(Refused(at_fault, why))
    told = [f"{count} {outcome}" for outcome, count in sorted(done.items(), reverse=True)]
    if told:
        print(f"{', '.join(told)}, in {target}")
    _report(refused)


def _targets(pairs: Sequence[MaskedSeries], target: Path) -> list[Path]:
    """Return the file of each segmentation."""
    if target.suffix.lower() == ".dcm" and not target.is_dir():
        if len(pairs) > 1:
            raise PigError(f"--output {target} is one file for {len(pairs)} series", "give a folder")
        return [target] * len(pairs)
    if target.is_file():
        raise PigError(f"--output {target} is a file", "give a folder, or a file that ends in .dcm")
    targets = [target / pair.name.with_name(f"{pair.name.name}_seg.dcm") for pair in pairs]
    file, count = Counter(targets).most_common(1)[0] if targets else (target, 1)
    if count > 1:
        raise PigError(f"{count} series would become {file}", "write them one by one, with --series_uid")
    return targets


def _write(
    source: SegSource, mask_files: Sequence[Path], file: Path, algorithm: str, replace: bool, dry: bool
) -> str:
    """Write one segmentation.

    Returns:
        what became of it.

    Raises:
        UnusableError: there is something else in its place, or see `open_masks` and `build_segmentation`.
    """
    if file.exists() and not is_segmentation(file):
        raise UnusableError(f"{file} is there and is no segmentation", "give another --output")
    masks = open_masks(mask_files, source.grid, volumetric=True)
    made = datetime.fromtimestamp(int(max(path.stat().st_mtime for path in mask_files)))
    seg = build_segmentation(source, masks, algorithm, made)
    if file.exists():
        if seg is not None and _instance(file) == seg.SOPInstanceUID:
            return "there already"
        if not replace:
            raise UnusableError(f"{file} is there, and holds another segmentation", _REPLACE)
    if seg is None:
        if not dry:
            file.unlink(missing_ok=True)  # an archive would go on showing what the mask no longer does
        return "empty, without a file"
    if not dry:
        with atomic_path(file) as scratch:
            scratch.write_bytes(encode(seg))
    return "to write" if dry else "written"


def _instance(file: Path) -> str:
    with reading("the segmentation cannot be read"), open_file(file) as stream:
        return str(read_tags(stream, ["SOPInstanceUID"]).get("SOPInstanceUID", ""))


def _report(refused: Sequence[Refused]) -> None:
    """End with an error where a mask has become no segmentation.

    Raises:
        PigError: the reason of the only one, or how many there are, after a line for each.
    """
    if not refused:
        return
    if len(refused) == 1:
        raise PigError(f"{refused[0].path}: {refused[0].why.reason}", refused[0].why.remedy)
    for row in refused:
        detail = f" ({row.why.detail})" if row.why.detail else ""
        line = f"not written: {row.path}: {row.why.reason}; {row.why.remedy}{detail}"
        print(" ".join(line.split()), file=sys.stderr)
    raise PigError(
        f"{len(refused)} masks were not written, as told above", "mend them and run the same command again"
    )
