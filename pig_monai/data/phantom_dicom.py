"""Writing the phantom: multi-frame Breast Tomosynthesis objects, NIfTI masks and a record of what was drawn."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from tqdm import tqdm

from pig_monai.data.phantom import VIEWS, Grid, PhantomVolume, draw_patient, nipple_y, render_volume
from pig_monai.errors import PigError
from pig_monai.files import atomic_path, write_json

ORIGIN = "phantom"
COMPRESSIONS = {
    "none": uid.ExplicitVRLittleEndian,
    "j2k": uid.JPEG2000Lossless,
    "jpegls": uid.JPEGLSLossless,
    "rle": uid.RLELossless,
}
SMALLEST = {"patients": 1, "seed": 0, "slices": 4, "rows": 48, "columns": 32}

_IMAGE_TYPE = ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE"]
_PIXEL_CONTENT = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
}
_WINDOW_CENTER, _WINDOW_WIDTH = 1600, 1800
_BREAST_TO_MIDLINE_MM = 80.0
_EPOCH = "20000101"  # a fixed day: today's date would make two runs differ
_VIEW_CODES = {"cc": ("399162004", "cranio-caudal"), "mlo": ("399368009", "medio-lateral oblique")}
_OWN_FILES = re.compile(rf"(\.writing-.*|PHANTOM-\d{{4,}}_({'|'.join(VIEWS)}))\.(dcm|nii\.gz)")


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a displayed volume lie in the patient (DICOM's LPS axes, mm).

    Args:
        origin: (3,) centre of the first pixel of the first frame.
        along_row: (3,) unit vector of growing column index.
        down_column: (3,) unit vector of growing row index.
        spacing: mm between columns, rows and frames.
    """

    origin: np.ndarray
    along_row: np.ndarray
    down_column: np.ndarray
    spacing: tuple[float, float, float]

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector of growing frame index."""
        return np.cross(self.along_row, self.down_column)

    def affine_ras(self) -> np.ndarray:
        """Return NIfTI's (4, 4) affine from (column, row, frame) to RAS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.stack([self.along_row, self.down_column, self.normal], axis=1) * self.spacing
        affine[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _view_axes(view: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the LPS directions of a view's canonical x, y and z (see `pig_monai.data.phantom`).

    x is anterior. In CC, y is medial (the axilla is up in the display) and z inferior; in MLO, y and z are turned
    by 45° about the anterior axis, so that y is medial and inferior, z lateral and inferior.
    """
    lateral = np.array([1.0 if view.startswith("l") else -1.0, 0.0, 0.0])
    anterior, inferior = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, -1.0])
    if view.endswith("cc"):
        return anterior, -lateral, inferior
    return anterior, (inferior - lateral) / math.sqrt(2), (inferior + lateral) / math.sqrt(2)


def place(view: str, point: Sequence[float]) -> np.ndarray:
    """Return the LPS position in mm of a canonical point (x, y, z) of a view."""
    x, y, z = _view_axes(view)
    lateral = -_BREAST_TO_MIDLINE_MM if view.startswith("r") else _BREAST_TO_MIDLINE_MM
    return np.array([lateral, 0.0, 0.0]) + point[0] * x + (point[1] - nipple_y(view)) * y + point[2] * z


def view_geometry(view: str, grid: Grid) -> Geometry:
    """Return the geometry of a view as displayed: left breasts with the chest wall left, right ones right."""
    x, y, _ = _view_axes(view)
    mirrored = view.startswith("r")
    first_column = grid.columns - 0.5 if mirrored else 0.5
    corner = (
        first_column * grid.pixel_mm,
        (0.5 - grid.rows / 2) * grid.pixel_mm,
        (0.5 - grid.frames / 2) * grid.frame_mm,
    )
    return Geometry(
        origin=np.round(place(view, corner), 6),
        along_row=-x if mirrored else x,
        down_column=y,
        spacing=(grid.pixel_mm, grid.pixel_mm, grid.frame_mm),
    )


def as_displayed(view: str, canonical: np.ndarray) -> np.ndarray:
    """Mirror a canonical (frames, rows, columns) array where the view shows a right breast."""
    return np.ascontiguousarray(canonical[..., ::-1]) if view.startswith("r") else canonical


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _decimals(values: Sequence[float] | np.ndarray) -> list[str]:
    """Format as DICOM decimal strings, at most 16 characters each."""
    return [f"{round(float(value), 9) + 0.0:.10g}" for value in values]  # + 0.0 turns −0 into 0


def build_dataset(pixels: np.ndarray, geometry: Geometry, patient_id: str, view: str, set_name: str) -> Dataset:
    """Build an uncompressed Breast Tomosynthesis Image object.

    Args:
        pixels: (frames, rows, columns) uint16 of 12 bits, as displayed.
        geometry: where they lie.
        patient_id: such as ``PHANTOM-0001``.
        view: one of `pig_monai.data.phantom.VIEWS`.
        set_name: whatever tells one set of volumes from another; the UIDs come from it, the patient and the view.
    """

    def new_uid(*names: str) -> str:
        return uid.generate_uid(entropy_srcs=["pig-monai phantom", set_name, *names])

    frames, rows, columns = pixels.shape
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    for group in (
        _patient_and_study(patient_id, view, new_uid),
        _image_attributes(view, new_uid(patient_id, view, "instance")),
        _dimensions(new_uid(patient_id, view, "dimension")),
    ):
        dataset.update(group)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames, rows, columns
    dataset.SharedFunctionalGroupsSequence = Items([_shared_groups(geometry, view)])
    dataset.PerFrameFunctionalGroupsSequence = Items([_frame_groups(geometry, frame) for frame in range(frames)])
    dataset.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _patient_and_study(patient_id: str, view: str, new_uid: Callable[..., str]) -> Dataset:
    return _item(
        PatientName=patient_id.replace("PHANTOM-", "Phantom^"),
        PatientID=patient_id,
        PatientBirthDate="",
        PatientSex="F",
        PatientIdentityRemoved="YES",
        DeidentificationMethod="No patient: procedural phantom",
        StudyInstanceUID=new_uid(patient_id, "study"),
        StudyDate=_EPOCH,
        StudyTime="000000",
        StudyID="1",
        AccessionNumber="",
        ReferringPhysicianName="",
        SeriesInstanceUID=new_uid(patient_id, view, "series"),
        SeriesNumber=VIEWS.index(view) + 1,
        SeriesDescription=f"{view[0]} {view[1:]} tomosynthesis phantom".upper(),
        Modality="MG",
        FrameOfReferenceUID=new_uid(patient_id, view, "frame of reference"),
        PositionReferenceIndicator="",
        Manufacturer="pig-monai phantom",
        ManufacturerModelName="phantom",
        DeviceSerialNumber="0",
        SoftwareVersions="1",
    )


def _image_attributes(view: str, instance_uid: str) -> Dataset:
    view_code = _code(*_VIEW_CODES[view[1:]])
    view_code.ViewModifierCodeSequence = Items()
    return _item(
        SOPClassUID=uid.BreastTomosynthesisImageStorage,
        SOPInstanceUID=instance_uid,
        InstanceNumber=1,
        ImageType=_IMAGE_TYPE,
        ContentDate=_EPOCH,
        ContentTime="000000",
        ImageComments=f"origin: {ORIGIN}",
        ContentQualification="RESEARCH",
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        PresentationLUTShape="IDENTITY",
        **_PIXEL_CONTENT,
        AcquisitionContextSequence=Items(),
        ViewCodeSequence=Items([view_code]),
        BreastImplantPresent="NO",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
    )


def _dimensions(organization_uid: str) -> Dataset:
    """One dimension: the position of a frame in the stack."""
    frame_content, position_in_stack = 0x00209111, 0x00209057
    return _item(
        DimensionOrganizationType="3D",
        DimensionOrganizationSequence=Items([_item(DimensionOrganizationUID=organization_uid)]),
        DimensionIndexSequence=Items(
            [
                _item(
                    DimensionOrganizationUID=organization_uid,
                    DimensionIndexPointer=position_in_stack,
                    FunctionalGroupPointer=frame_content,
                    DimensionDescriptionLabel="In-Stack Position Number",
                )
            ]
        ),
    )


def _shared_groups(geometry: Geometry, view: str) -> Dataset:
    column_mm, row_mm, frame_mm = _decimals(geometry.spacing)
    directions = _decimals([*geometry.along_row, *geometry.down_column])
    window = _item(
        WindowCenter=_WINDOW_CENTER, WindowWidth=_WINDOW_WIDTH, WindowCenterWidthExplanation="Breast tissue"
    )
    anatomy = _item(AnatomicRegionSequence=Items([_code("76752008", "Breast")]), FrameLaterality=view[0].upper())
    pixel_measures = _item(
        PixelSpacing=[row_mm, column_mm], SliceThickness=frame_mm, SpacingBetweenSlices=frame_mm
    )
    derivation = _item(
        DerivationDescription="Procedural phantom, no source images",
        DerivationCodeSequence=Items([_code("PHANTOM", "Drawn by formula", "99PIGMONAI")]),
        SourceImageSequence=Items(),
    )
    return _item(
        PixelMeasuresSequence=Items([pixel_measures]),
        PlaneOrientationSequence=Items([_item(ImageOrientationPatient=directions)]),
        FrameAnatomySequence=Items([anatomy]),
        FrameVOILUTSequence=Items([window]),
        PixelValueTransformationSequence=Items([_item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")]),
        DerivationImageSequence=Items([derivation]),
    )


def _frame_groups(geometry: Geometry, frame: int) -> Dataset:
    position = geometry.origin + frame * geometry.spacing[2] * geometry.normal
    content = _item(
        FrameAcquisitionNumber=1, StackID="1", InStackPositionNumber=frame + 1, DimensionIndexValues=[frame + 1]
    )
    return _item(
        FrameContentSequence=Items([content]),
        XRay3DFrameTypeSequence=Items([_item(FrameType=_IMAGE_TYPE, **_PIXEL_CONTENT)]),
        PlanePositionSequence=Items([_item(ImagePositionPatient=_decimals(position))]),
    )


def write_dicom(path: str | Path, dataset: Dataset, compression: str = "none") -> None:
    """Write an object from `build_dataset`, after compressing it in place by one of `COMPRESSIONS`."""
    if compression != "none":
        dataset.compress(COMPRESSIONS[compression], generate_instance_uid=False)
    with atomic_path(path) as scratch:
        dataset.save_as(scratch, enforce_file_format=True)


def write_mask(path: str | Path, mask: np.ndarray, geometry: Geometry) -> None:
    """Write a (frames, rows, columns) mask as NIfTI in (column, row, frame) order on the volume's grid."""
    image = nib.Nifti1Image(mask.transpose(2, 1, 0), geometry.affine_ras())
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header["descrip"] = f"origin: {ORIGIN}".encode()
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as scratch:
        scratch.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def write_phantom(
    output: str | Path,
    patients: int,
    seed: int,
    *,
    contrast: float | None = None,
    slices: int = 16,
    rows: int = 384,
    columns: int = 256,
    views: Sequence[str] | None = None,
    compression: str = "none",
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write a phantom data set: ``dicom/*.dcm``, ``masks/*.nii.gz`` and, last, ``phantom.json``.

    The same arguments give the same bytes; patient i does not depend on how many there are.

    Args:
        output: folder to fill; new or empty unless ``overwrite``.
        patients: how many.
        seed: 0 or more.
        contrast: of every mass (see `pig_monai.data.phantom.Lesion`); by default drawn from 0.9 to 1.3.
        slices: frames of a volume, through the whole breast.
        rows: pixels down a frame.
        columns: pixels across a frame.
        views: views of every patient, some of `VIEWS`; by default CC and MLO of one breast, of both for every
            fourth patient.
        compression: one of `COMPRESSIONS`, all lossless.
        overwrite: replace an earlier phantom in ``output``; files of others stay.
        progress: show a bar on stderr.

    Returns:
        what ``phantom.json`` holds; a lesion's ``centre_mm`` is in the patient's LPS axes.

    Raises:
        PigError: an argument is out of range, or ``output`` is not empty.
    """
    sizes = {"patients": patients, "seed": seed, "slices": slices, "rows": rows, "columns": columns}
    _check_settings(sizes, contrast, views, compression)
    output = Path(output)
    _make_room(output, overwrite)
    chosen = None if views is None else tuple(sorted(views, key=VIEWS.index))
    set_name = json.dumps([seed, slices, rows, columns, contrast, chosen])
    drawn = [draw_patient(seed, index, chosen, contrast) for index in range(patients)]
    jobs = [(patient, view) for patient in drawn for view in patient.views]
    volumes = []
    for patient, view in tqdm(jobs, desc="phantom volumes", unit="volume", disable=not progress):
        volume = render_volume(patient, view, slices, rows, columns)
        patient_id = f"PHANTOM-{patient.index + 1:04d}"
        volumes.append(_write_volume(output, volume, patient_id, view, set_name, compression))
    settings = {**sizes, "contrast": contrast, "views": chosen, "compression": compression}
    record = {"origin": ORIGIN, "settings": settings, "volumes": volumes}
    write_json(output / "phantom.json", record)
    return record


def _write_volume(
    output: Path, volume: PhantomVolume, patient_id: str, view: str, set_name: str, compression: str
) -> dict[str, Any]:
    dicom, mask = f"dicom/{patient_id}_{view}.dcm", f"masks/{patient_id}_{view}.nii.gz"
    geometry = view_geometry(view, volume.grid)
    dataset = build_dataset(as_displayed(view, volume.pixels), geometry, patient_id, view, set_name)
    write_dicom(output / dicom, dataset, compression)
    write_mask(output / mask, as_displayed(view, volume.mask), geometry)
    lesions = [
        {
            "centre_mm": [round(float(value), 3) for value in place(view, centre)],
            "radius_mm": round(lesion.radius_mm, 3),
            "margin": lesion.margin,
            "contrast": round(lesion.contrast, 3),
        }
        for lesion, centre in volume.lesions
    ]
    return {"dicom": dicom, "mask": mask, "patient": patient_id, "view": view, "lesions": lesions}


def _check_settings(
    sizes: dict[str, int], contrast: float | None, views: Sequence[str] | None, compression: str
) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < SMALLEST[name]:
            raise PigError(f"{name} is {value!r}", f"give a whole number, {SMALLEST[name]} or more")
    if contrast is not None and (type(contrast) not in (int, float) or not 0 <= contrast <= 3):
        raise PigError(f"contrast is {contrast!r}", "give a number from 0 (invisible) over 1 (clear) to 3")
    if compression not in COMPRESSIONS:
        raise PigError(f"compression is {compression!r}", f"give one of {', '.join(COMPRESSIONS)}")
    if views is not None and (not views or len(set(views)) < len(views) or not set(views) <= set(VIEWS)):
        raise PigError(f"views is {','.join(map(str, views))!r}", f"give some of {','.join(VIEWS)}, each once")


def _make_room(output: Path, overwrite: bool) -> None:
    """Refuse a folder with something in it; with ``overwrite`` remove what an earlier run left, and only that."""
    if output.exists() and not output.is_dir():
        raise PigError(f"{output} is a file", "give a folder as output")
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise PigError(f"{output} is not empty", "give another output folder, or overwrite true")
    (output / "phantom.json").unlink(missing_ok=True)
    for folder in (output / "dicom", output / "masks"):
        for path in folder.glob("*"):
            if _OWN_FILES.fullmatch(path.name):
                path.unlink()
