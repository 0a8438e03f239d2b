"""What a DICOM object's header says about it: whose it is, what it shows, and whether it can be prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom import uid
from pydicom.dataset import Dataset

from pig_monai.data.cases import VIEWS, parse_laterality
from pig_monai.data.dicom.files import EXPORT_AGAIN, open_file, read_tags, reading
from pig_monai.data.dicom.geometry import PLACE_TAGS, Plane, group, read_plane
from pig_monai.data.volume import UnusableError

_TAGS = [
    "SOPInstanceUID",
    "StudyInstanceUID",
    "StudyID",
    "SeriesInstanceUID",
    "PatientID",
    "Manufacturer",
    "ViewPosition",
    "ViewCodeSequence",
    "ImageLaterality",
    "Laterality",
    "NumberOfFrames",
    *PLACE_TAGS,
]
_VIEW_CODES = {  # DICOM CID 4014: SNOMED CT, and the former SNOMED RT
    "399162004": "cc",
    "R-10242": "cc",
    "399368009": "mlo",
    "R-10226": "mlo",
    "399260004": "ml",
    "R-10224": "ml",
    "399352003": "lm",
    "R-10228": "lm",
    "399099002": "lmo",
    "R-10230": "lmo",
    "399192008": "xccl",
    "399101009": "xccm",
    "399196006": "fb",
    "399188001": "sio",
    "441555000": "iso",
}
MAMMOGRAMS = (
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
)
_PROJECTIONS = (
    uid.BreastProjectionXRayImageStorageForPresentation,
    uid.BreastProjectionXRayImageStorageForProcessing,
)
_CAPTURES = (
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
)
SEGMENTATIONS = (uid.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")  # the second: Label Map Segmentation
ASK_FOR_BTO = "ask the site for a Breast Tomosynthesis (BTO) export"
_VENDORS = {"1.2.840.113619.": "GE", "1.2.840.113681.": "Hologic", "1.3.12.2.1107.5.": "Siemens"}
"""The roots of private SOP classes."""


@dataclass(frozen=True)
class Header:
    """What tells one volume from another.

    Args:
        patient: the raw id without padding; the study's UID where it is blank, or the object's own.
        instance: SOPInstanceUID.
        study: StudyInstanceUID.
        studies: the ids of its study: StudyInstanceUID and StudyID, as available.
        series: SeriesInstanceUID.
        frames: how many it claims; of a volume with one file per slice, how many files.
        view: such as ``mlo``; None where the header does not say.
        laterality: ``"L"``, ``"R"`` or None.
        origin: ``"phantom"`` for the phantom's objects, else ``"real"``.
        sop_class: its UID.
        plane: where the slice of a single-frame object lies; None for volumes and for what does not say.
        unsupported: why this kind of object cannot be prepared, or None.
        nameless: whether the patient's id is blank.
    """

    patient: str
    instance: str
    study: str
    studies: tuple[str, ...]
    series: str
    frames: int
    view: str | None
    laterality: str | None
    origin: str
    sop_class: str
    plane: Plane | None
    unsupported: UnusableError | None
    nameless: bool = False


def read_header(path: Path) -> Header:
    """Read what identifies a volume.

    Raises:
        UnusableError: it is no DICOM file or cannot be read.
    """
    with reading("the file cannot be read as DICOM"), open_file(path) as file:
        ds = read_tags(file, _TAGS)
        instance = _text(ds, "SOPInstanceUID")
        phantom = _text(ds, "Manufacturer").startswith("pig-monai phantom")
        sop_class = _text(ds, "SOPClassUID") or _text(ds.file_meta, "MediaStorageSOPClassUID")
        plane, unsupported = None, _unsupported(ds, sop_class)
        if unsupported is None and sop_class != uid.BreastTomosynthesisImageStorage:
            plane = read_plane(ds)
            if plane is None and sop_class not in MAMMOGRAMS:
                unsupported = _no_slice(ds)
        if unsupported is None and not instance:
            unsupported = UnusableError("its header lacks SOPInstanceUID", EXPORT_AGAIN)
        return Header(
            patient=_text(ds, "PatientID") or f"study {_text(ds, 'StudyInstanceUID') or instance}",
            instance=instance,
            study=_text(ds, "StudyInstanceUID"),
            studies=tuple(filter(None, (_text(ds, name) for name in ("StudyInstanceUID", "StudyID")))),
            series=_text(ds, "SeriesInstanceUID"),
            frames=int(ds.get("NumberOfFrames", 1) or 1),
            view=_view(ds),
            laterality=_laterality(ds),
            origin="phantom" if phantom else "real",
            sop_class=sop_class,
            plane=plane,
            unsupported=unsupported,
            nameless=not _text(ds, "PatientID"),
        )


def _text(ds: Dataset, name: str) -> str:
    return str(ds.get(name, "") or "").strip(" \0")


def _unsupported(ds: Dataset, sop_class: str) -> UnusableError | None:
    """Return why objects of a class cannot be prepared."""
    if sop_class in (uid.BreastTomosynthesisImageStorage, uid.CTImageStorage, *MAMMOGRAMS):
        return None
    if sop_class in SEGMENTATIONS:
        return UnusableError("a segmentation, not a volume", "name its folder with --masks")
    vendor = next((name for root, name in _VENDORS.items() if sop_class.startswith(root)), None)
    if sop_class in _CAPTURES:
        hologic = _text(ds, "Manufacturer").lower().startswith(("hologic", "lorad"))
        hides = "has its slices in private elements" if hologic else "may hide the slices in private elements"
        what = f"{ASK_FOR_BTO} instead of SCO" if hologic else f"{ASK_FOR_BTO}; leave it out if it is a screenshot"
        return UnusableError(f"a secondary capture, which {hides} (Hologic SCO)", what)
    if sop_class in _PROJECTIONS:
        reason = "projections, from which the slices were reconstructed, not the slices"
        return UnusableError(reason, f"{ASK_FOR_BTO} of the reconstruction")
    if vendor:
        return UnusableError(f"a private object of {vendor}, which others cannot read", f"{ASK_FOR_BTO} instead")
    if not sop_class:
        return UnusableError("the object has no SOP class", ASK_FOR_BTO)
    name = uid.UID(sop_class).name  # the UID itself where the standard does not know it: keep that out
    reason = f"the SOP class {'' if name == sop_class else name + ' '}is not supported"
    return UnusableError(reason, f"leave it out; where it stands for a volume, {ASK_FOR_BTO}")


def _no_slice(ds: Dataset) -> UnusableError:
    """Return why a CT object cannot be prepared: slices of a volume say where they lie."""
    reason = "a CT object that is not a slice with a place in a stack"
    if _text(ds, "Manufacturer").lower().startswith("siemens"):
        return UnusableError(f"{reason} (Siemens CTO)", f"{ASK_FOR_BTO} instead of CTO")
    return UnusableError(reason, f"{ASK_FOR_BTO}, or for the whole series of slices")


def _view(ds: Dataset) -> str | None:
    position = _text(ds, "ViewPosition").lower()
    if position in VIEWS:
        return position
    codes = ds.get("ViewCodeSequence") or []
    return _VIEW_CODES.get(_text(codes[0], "CodeValue")) if codes else None


def _laterality(ds: Dataset) -> str | None:
    anatomy = group(ds, "FrameAnatomySequence", 0)
    for text in (_text(anatomy, "FrameLaterality"), _text(ds, "ImageLaterality"), _text(ds, "Laterality")):
        side = parse_laterality(text)
        if side:
            return side
    return None
