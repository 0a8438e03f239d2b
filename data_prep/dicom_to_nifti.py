"""Write DICOM volumes as NIfTI for whole-volume inference; `--help` lists the options."""

from __future__ import annotations

from pig_monai.cli import run_command
from pig_monai.data.nifti_command import dicom_to_nifti

if __name__ == "__main__":
    run_command(dicom_to_nifti)
