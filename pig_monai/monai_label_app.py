"""Lays out what MONAI Label starts: ``python -m pig_monai.monai_label_app --app APP``."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from pig_monai.cli import run_command
from pig_monai.errors import PigError
from pig_monai.evaluation.segmenters import read_description

NAME = "pig_dbt"
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / NAME
CODE = ("monai_label/dicom_seg.py", "monai_label/main.py")
FILES = ("LICENSE", "configs/inference.yaml", "configs/train.yaml", "configs/metadata.json", "docs/README.md")


def monai_label_app(*, app: str, weights: str | None = None, bundle: str = str(BUNDLE)) -> None:
    """Lay out a folder that MONAI Label starts: main.py and a copy of the bundle's mass segmenter.

    It is a copy so that MONAI Label's trainings write their weights there and not into the bundle, and it has the
    segmenter's weights alone: MONAI Label would offer the others, which do not fit its network.

    Args:
        app: folder to make. To renew an app and keep what it was trained to, lay out another one and give
            --weights APP/model/pig_dbt/models/model.pt.
        weights: the segmenter's model.pt, from train.yaml, with model.json beside it; the bundle's own by default.
        bundle: the bundle's folder.
    """
    source, target = Path(str(bundle)), Path(str(app))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PigError(f"{target} is there already", "choose another --app; --weights takes over trained weights")
    model = source / "models/model.pt" if weights is None else Path(str(weights))
    read_description(model)  # refuses what is no segmenter
    missing = [file for file in (source / name for name in (*CODE, *FILES)) if not file.is_file()]
    if missing:
        raise PigError(f"{missing[0]} does not exist", "give the bundle's folder as --bundle")

    copy = target / "model" / NAME
    for name in FILES:
        _copy(source / name, copy / name)
    _copy(model, copy / "models/model.pt")
    _copy(model.with_suffix(".json"), copy / "models/model.json")
    for name in CODE:  # last: a folder without it is no app
        _copy(source / name, target / Path(name).name)
    print(_how_to_start(target))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _how_to_start(app: Path) -> str:
    start = f"monailabel start_server --app {shlex.quote(str(app))} --host 127.0.0.1 --studies"
    return "\n".join(
        (
            f"laid out {app}; start it in MONAI Label's environment (docs/monai_label.md)",
            "on a folder of NIfTI volumes:",
            f"  {start} STUDIES",
            "on a PACS:",
            f"""  MONAI_LABEL_DICOMWEB_SEARCH_FILTER='{{"Modality":"MG"}}' {start} http://PACS:8042/dicom-web""",
        )
    )


if __name__ == "__main__":
    run_command(monai_label_app)
