"""The series that a segmentation is made for: its headers, put in order where hospitals leave things out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, DSfloat

from pig_monai.data.dicom.files import EXPORT_AGAIN, open_file, read_tags, reading
from pig_monai.data.dicom.geometry import group
from pig_monai.data.dicom.headers import MAMMOGRAMS
from pig_monai.data.dicom.placement import PLACEMENT_TAGS, Placement, place_object, place_slices
from pig_monai.data.volume import Grid, UnusableError

_TYPE_1 = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"]
_TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
]
# who was imaged, in which study, and by what: highdicom copies it
# fmt: off
_MORE = [
    "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence",
    "OtherPatientNames", "PatientBirthTime", "EthnicGroupCodeSequence", "PatientComments",
    "QualityControlSubject", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "IssuerOfAccessionNumberSequence", "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName",
    "StudyDescription", "ProcedureCodeSequence", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "ReferencedStudySequence", "RequestingService", "ReasonForPerformedProcedureCodeSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize",
    "PatientWeight", "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus", "AdditionalPatientHistory",
    "PregnancyStatus", "LastMenstrualDate", "ReasonForVisit", "AdmissionID", "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID", "ServiceEpisodeDescription", "PatientState", "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription", "SpecificCharacterSet", "Modality",
    "SeriesNumber", "NumberOfFrames", "PositionReferenceIndicator", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", "Manufacturer", "ManufacturerModelName",
    "DeviceSerialNumber", "SoftwareVersions", "InstitutionName", "StationName",
]
# fmt: on
_TAGS = [*_TYPE_1, *_TYPE_2, *_MORE, *PLACEMENT_TAGS]
_STAND_IN = "2.25.1"  # where there is no frame of reference: highdicom wants one
_SEXES = ("M", "F", "O")


@dataclass(frozen=True)
class SegSource:
    """The series of one volume, as a segmentation refers to it.

    Args:
        headers: as highdicom wants them: of the multi-frame object, or of each slice in geometric order. A missing
            frame of reference has a stand-in, which a segmentation must not keep.
        grid: of the volume; its ``frame_of_reference`` is the header's own.
        order: the stored index of each frame; of one file per slice, its place among ``headers``.
        placed: whether frames have positions; the one frame of a mammogram is placed by reference to it.
    """

    headers: list[Dataset]
    grid: Grid
    order: tuple[int, ...]
    placed: bool

    def position(self, frame: int) -> Sequence[float]:
        """Return Image Position (Patient) of a frame, in geometric order."""
        if len(self.headers) > 1:
            return self.headers[self.order[frame]].ImagePositionPatient
        return group(self.headers[0], "PlanePositionSequence", self.order[frame]).ImagePositionPatient


def read_source(paths: Sequence[Path]) -> SegSource:
    """Read the headers of a volume; its pixels are not touched.

    What the standard lets be empty (Type 2) and the header lacks, or gives as no valid date, time or sex, becomes
    empty. The measures of the pixels become those of the grid, which a header may give elsewhere or in several
    ways.

    Args:
        paths: the object's file, or one file per slice in geometric order.

    Raises:
        UnusableError: a header cannot be read, or does not say what a segmentation has to refer to.
    """
    with reading("its headers cannot be read"):
        headers = [_read(path) for path in paths]
        first = headers[0]
        frames = int(first.get("NumberOfFrames") or 1)
        if len(headers) > 1:
            placement = place_slices(headers)
        else:
            described = len(first.get("PerFrameFunctionalGroupsSequence") or [])
            if frames != max(described, 1):  # before anything is made for each of the claimed frames
                raise UnusableError(f"it claims {frames} frames and describes {described}", EXPORT_AGAIN)
            placement = place_object(first, frames)
        mammogram = len(headers) == 1 and first.SOPClassUID in MAMMOGRAMS
        if mammogram and frames == 1:
            _leave_out_geometry(first)
        elif placement.grid.affine is not None and not mammogram:
            for ds in headers:
                _set_geometry(ds, placement)
        else:
            raise UnusableError(
                "the series does not say where its frames lie, so that no viewer could place the segmentation",
                f"{EXPORT_AGAIN}, with positions, orientation and pixel spacing",
            )
        return SegSource(headers, placement.grid, placement.order, not mammogram)


def _read(path: Path) -> Dataset:
    with open_file(path) as file:
        ds = read_tags(file, _TAGS)
    for name in _TYPE_1:
        if not ds.get(name):
            raise UnusableError(f"its header lacks {name}", EXPORT_AGAIN)
    for name in _TYPE_2:
        if name not in ds or not _is_valid(ds[name]):
            setattr(ds, name, None)
    if not ds.get("FrameOfReferenceUID"):
        ds.pop("FrameOfReferenceUID", None)
    return ds


def _is_valid(element: DataElement) -> bool:
    """Whether highdicom takes a value; anonymised headers hold dates such as 00000000."""
    if element.keyword == "PatientSex":
        return element.value in _SEXES
    try:
        parse = {"DA": DA, "TM": TM}.get(element.VR, str)
        parse(element.value)
        return True
    except ValueError:
        return False


def _set_geometry(ds: Dataset, placement: Placement) -> None:
    """State the grid's measures where highdicom looks for them; positions and orientation stay the header's."""
    affine, spacing = placement.grid.affine, placement.spacing.mm
    assert affine is not None
    assert spacing is not None
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    between = abs(float(affine[:3, 2] @ normal)) / float(np.linalg.norm(normal))
    of_frames = ds.SOPClassUID == uid.BreastTomosynthesisImageStorage
    given = group(ds, "PixelMeasuresSequence", 0) if of_frames else ds
    thickness = given.get("SliceThickness") or DSfloat(between, auto_format=True)
    measures = Dataset() if of_frames else ds
    measures.PixelSpacing = [DSfloat(value, auto_format=True) for value in reversed(spacing)]
    measures.SliceThickness = thickness
    measures.SpacingBetweenSlices = DSfloat(between, auto_format=True)
    if "FrameOfReferenceUID" not in ds:
        ds.FrameOfReferenceUID = _STAND_IN
    if not of_frames:
        return
    frames = []
    for stored in range(len(placement.order)):
        item = Dataset()
        item.PlanePositionSequence = [group(ds, "PlanePositionSequence", stored)]
        frames.append(item)
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [group(ds, "PlaneOrientationSequence", 0)]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames


def _leave_out_geometry(ds: Dataset) -> None:
    """Keep highdicom from half a geometry: the frame of a mammogram is placed by reference to it."""
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        ds.pop(name, None)
