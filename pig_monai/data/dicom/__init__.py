"""Digital breast tomosynthesis in DICOM: headers, volumes and their frames, decoded one at a time."""

from pig_monai.data.dicom.headers import Header, read_header
from pig_monai.data.dicom.series import VolumeFiles, group_files
from pig_monai.data.dicom.volumes import open_dicom, open_volume

__all__ = ["Header", "VolumeFiles", "group_files", "open_dicom", "open_volume", "read_header"]
