"""Write masks of DICOM series as DICOM segmentations for the PACS; `--help` lists the options."""

from __future__ import annotations

from pig_monai.cli import run_command
from pig_monai.data.seg_command import masks_to_dicom_seg

if __name__ == "__main__":
    run_command(masks_to_dicom_seg)
