"""Turn DICOM volumes and their masks into a dataset folder; `--help` lists the options."""

from __future__ import annotations

from pig_monai.cli import run_command
from pig_monai.data.commands import dicom_to_slices

if __name__ == "__main__":
    run_command(dicom_to_slices)
