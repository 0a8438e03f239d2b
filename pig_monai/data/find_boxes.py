"""Which volume the boxes of a view belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pig_monai.data.boxes import ViewBoxes, ViewKey, read_boxes, read_file_paths
from pig_monai.data.cases import Found, Skipped, ends_in, parse_view
from pig_monai.data.dicom import Header, VolumeFiles
from pig_monai.data.keys import CaseKey
from pig_monai.data.volume import UnusableError
from pig_monai.errors import PigError

_WITH_PATHS = "give --file_paths, the csv file that says which file each view is"


@dataclass(frozen=True)
class BoxFiles:
    """What the user gave.

    Args:
        boxes: CSV file of boxes.
        file_paths: CSV file that says which file a view is, or None.
    """

    boxes: Path
    file_paths: Path | None = None


@dataclass(frozen=True)
class OwnBoxes:
    """The boxes of one volume, and the view that they say it is (with its side: unlike the header's, reliable)."""

    view: str
    boxes: ViewBoxes


def find_boxes(
    files: BoxFiles, folder: Path, volumes: Mapping[PurePosixPath, VolumeFiles], key: CaseKey, found: Found
) -> dict[PurePosixPath, OwnBoxes]:
    """Find the volume of each view that has boxes.

    With the csv of file paths a view is the volume with a file whose path ends like one of the view's paths (or
    the other way round, where the user keeps only a part of the folders), or the one whose SeriesInstanceUID is
    the name of the path's folder. Without it, the volume with the view's patient, study, number of slices and
    projection; of several, the one whose header has its laterality, with a warning.

    Args:
        files: the CSV files.
        folder: what the paths of the volumes' files are relative to.
        volumes: each by its name.
        key: hashes patients.
        found: gets a row for each view whose volume cannot be told, and warnings.

    Returns:
        the volume → its boxes.

    Raises:
        PigError: a CSV file cannot be used.
    """
    views = read_boxes(files.boxes)
    for view in views:
        if parse_view(view.view, None)[1] is None:
            raise PigError(f"--boxes {files.boxes}: View is {view.view!r}", "give one such as lcc or rmlo1")
    resolver = _ByHeader(volumes) if files.file_paths is None else _ByPath(files.file_paths, folder, volumes)
    claims: dict[PurePosixPath, list[ViewKey]] = defaultdict(list)
    absent = 0
    for view, boxes in sorted(views.items(), key=lambda item: item[0]):
        try:
            volume = resolver(view, boxes)
        except UnusableError as why:
            found.skipped.append(_row(view, files.boxes, key, why))
            continue
        absent += volume is None
        if volume is not None:
            claims[volume].append(view)
    if absent:
        found.warnings.append(f"{absent} of {len(views)} views with boxes are not among the volumes")
    if resolver.by_laterality:
        found.warnings.append(
            f"{resolver.by_laterality} views were told from the other breast's by the header's laterality, which "
            f"BCS-DBT's authors call unreliable: {_WITH_PATHS}"
        )
    return {name: own for name, claim in claims.items() if (own := _own(claim, views, files.boxes, key, found))}


def _own(
    claim: list[ViewKey], views: Mapping[ViewKey, ViewBoxes], source: Path, key: CaseKey, found: Found
) -> OwnBoxes | None:
    """Return the boxes of a volume; None, and rows, where several views claim it."""
    if len(claim) == 1:
        return OwnBoxes(claim[0].view, views[claim[0]])
    for view in claim:
        found.skipped.append(_row(view, source, key, UnusableError("several views fit one volume", _WITH_PATHS)))
    return None


def _row(view: ViewKey, source: Path, key: CaseKey, why: UnusableError) -> Skipped:
    boxes = UnusableError(f"boxes: {why.reason}", why.remedy, str(view))
    return Skipped(key.hash("patient", view.patient), source, boxes, parse_view(view.view, None)[0], view.patient)


class _ByHeader:
    """Finds a view's volume by patient, study, number of slices and projection."""

    def __init__(self, volumes: Mapping[PurePosixPath, VolumeFiles]) -> None:
        self.by_laterality = 0
        self.headers: dict[tuple[str, str, int], list[tuple[PurePosixPath, Header]]] = defaultdict(list)
        for name, volume in volumes.items():
            for study in volume.header.studies:
                key = volume.header.patient, study, volume.header.frames
                self.headers[key].append((name, volume.header))

    def __call__(self, view: ViewKey, boxes: ViewBoxes) -> PurePosixPath | None:
        """Return the volume's name; None where it is not among them.

        Raises:
            UnusableError: several fit.
        """
        name, side = parse_view(view.view, None)
        projection = (name or "")[1:]
        same = self.headers[view.patient, view.study, boxes.slices]
        fitting = [(volume, header) for volume, header in same if header.view in (projection, None)]
        if len(fitting) > 1:
            fitting = [(volume, header) for volume, header in fitting if header.laterality == side]
            if len(fitting) != 1:
                raise UnusableError("several volumes have their view's patient, study and slices", _WITH_PATHS)
            self.by_laterality += 1
        return fitting[0][0] if fitting else None


class _ByPath:
    """Finds a view's volume by the csv of file paths."""

    by_laterality = 0

    def __init__(self, file_paths: Path, folder: Path, volumes: Mapping[PurePosixPath, VolumeFiles]) -> None:
        self.root = PurePosixPath(folder.resolve().as_posix())
        self.paths = read_file_paths(file_paths)
        self.volumes = volumes
        self.by_end: dict[tuple[str, ...], list[tuple[PurePosixPath, PurePosixPath]]] = defaultdict(list)
        self.by_series: dict[str, list[PurePosixPath]] = defaultdict(list)
        for name, volume in volumes.items():
            for file in volume.files:
                self.by_end[(self.root / file).parts[-2:]].append((file, name))
            self.by_series[volume.header.series].append(name)

    def __call__(self, view: ViewKey, boxes: ViewBoxes) -> PurePosixPath | None:
        """As `_ByHeader`; also raises where the csv does not know the view, or the number of slices differs."""
        if view not in self.paths:
            raise UnusableError(
                "the csv of --file_paths has no row for their view", "give the csv of the same set"
            )
        fitting = {volume for path in self.paths[view] for volume in self._volumes(path)}
        if len(fitting) > 1:
            raise UnusableError("several volumes have their view's path", "give --input a folder further up")
        for volume in fitting:
            frames = self.volumes[volume].header.frames
            if frames != boxes.slices:
                raise UnusableError(
                    f"their volume has {frames} slices, not {boxes.slices}",
                    "check that the csv files belong to these volumes",
                )
            return volume
        return None

    def _volumes(self, path: PurePosixPath) -> list[PurePosixPath]:
        alike = self.by_end.get(path.parts[-2:], [])
        fitting = [volume for file, volume in alike if ends_in(self.root / file, path) or ends_in(path, file)]
        return fitting or self.by_series.get(path.parent.name, [])
