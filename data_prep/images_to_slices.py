"""Turn a folder of images and masks into a dataset folder; `--help` lists the options."""

from __future__ import annotations

import sys

from pig_monai.data.early import start_early

if __name__ == "__main__":
    start_early(sys.argv)

    from pig_monai.cli import run_command
    from pig_monai.data.commands import images_to_slices

    run_command(images_to_slices)
