"""Turn a folder of images and masks into a dataset folder; `--help` lists the options."""

from __future__ import annotations

from pig_monai.cli import run_command
from pig_monai.data.commands import images_to_slices

if __name__ == "__main__":
    run_command(images_to_slices)
