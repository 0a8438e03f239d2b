"""The demo's report: what was done, in pictures, with the figures (``python -m pig_monai.report --run DIR``)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from pig_monai.choosing import spread_evenly
from pig_monai.cli import run_command
from pig_monai.data.folder import has_lesion, read_datalist, read_label, read_slice
from pig_monai.data.transforms import load_slices
from pig_monai.errors import PigError
from pig_monai.files import read_json, write_text
from pig_monai.html import curve, facts, page, paragraph, picture, table
from pig_monai.pictures import contact_sheet, magnification

SHOWN = 24

Pair = tuple[np.ndarray, np.ndarray]
"""Slice float (W, H) in [−1, 1] and mask bool (W, H)."""

Point = tuple[float, float]
"""Iteration and value."""


def lesion_contrast(image: np.ndarray, mask: np.ndarray, ring: int = 3) -> float:
    """Return the mean of the slice inside the mask minus that in a ring around it.

    Masses are denser than what surrounds them: where slice and mask belong together, this is positive.

    Args:
        image: (W, H) in [−1, 1].
        mask: bool (W, H), not empty.
        ring: width of the ring in pixels.
    """
    around = ndimage.binary_dilation(mask, iterations=ring) & ~ndimage.binary_dilation(mask)
    return float(image[mask].mean() - image[around].mean()) if around.any() else 0.0


def write_report(run: Path) -> None:
    """Write ``report.html`` into a demo's folder (phantom/, dataset/, guider/, generator/, pairs/)."""
    size = _meta(run / "generator/model_generator.pt")["image_size"]
    real, pairs = _training_slices(run / "dataset", size), _generated_pairs(run / "pairs")
    scale = magnification(128, size)
    parts = [
        paragraph(
            "Everything here is made from a phantom: drawn anatomy, not patients. It shows that the program works "
            "from DICOM to pairs; it says nothing about real breasts.",
            "notice",
        ),
        "<h2>1. Phantom volumes become slices</h2>",
        _dataset_facts(run),
        picture(_sheet(real, scale), f"Phantom slices at {size} × {size} pixels, masks outlined."),
        "<h2>2. The networks are trained</h2>",
        _autoencoder(run),
        _training(run, "guider", "The guider makes the mass mask x from (x_t, y_t): Algorithm 1."),
        _training(run, "generator", "The conditional generator makes the slice y from (y_t, mask)."),
        "<h2>3. They generate pairs in lockstep</h2>",
        _pair_facts(run),
        picture(_sheet(pairs, scale), "Generated pairs: the slices are synthetic, and so are the outlined masks."),
        picture(
            Image.open(run / "pairs/film_strip.png").convert("RGB"),
            "One pair from noise to the end: the mask estimate x̂₀ above, the slice estimate ŷ₀ below.",
        ),
        "<h2>4. Do slice and mask belong together?</h2>",
        _consistency(real, pairs),
    ]
    write_text(run / "report.html", page("Paired image generation: the demo", parts))


def _meta(path: Path) -> dict[str, Any]:
    meta: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["meta"]
    return meta


def _training_slices(folder: Path, size: int) -> list[Pair]:
    load = load_slices(size)
    entries = [e for e in read_datalist(folder)["training"] if has_lesion(e)]
    items: list[Any] = [load({key: str(folder / e[key]) for key in ("image", "label")}) for e in entries]
    return [(item["image"][0].numpy(), item["label"][0].numpy() > 0.5) for item in items]


def _generated_pairs(folder: Path) -> list[Pair]:
    entries = read_datalist(folder)["training"]
    return [(read_slice(folder / e["image"]), read_label(folder / e["label"])) for e in entries]


def _sheet(pairs: Sequence[Pair], scale: float) -> Image.Image:
    shown = spread_evenly(pairs, SHOWN)
    return contact_sheet([s for s, _ in shown], [m for _, m in shown], columns=8, scale=scale)


def _dataset_facts(run: Path) -> str:
    report = read_json(run / "dataset/report.json", "run make demo again")
    volumes = sum(1 for _ in (run / "phantom/dicom").glob("*.dcm"))
    values = {"DICOM volumes (Breast Tomosynthesis)": volumes, "slices with a mass": report["slices"]}
    return facts({**values, "patients with a mass": report["patients"]})


def _autoencoder(run: Path) -> str:
    """Return what the autoencoder of a demo on latents makes of its slices; nothing for one on pixels."""
    previews = sorted((run / "autoencoder/previews").glob("*.png"))
    if not previews:
        return ""
    return _training(run, "autoencoder", "The autoencoder turns slices into latents, and latents into slices.") + (
        picture(
            Image.open(previews[-1]).convert("RGB"), "Slices, what the autoencoder makes of them, differences."
        )
    )


def _training(run: Path, role: str, text: str) -> str:
    meta = _meta(run / role / f"model_{role}.pt")
    points = _measured(run / role, "loss")
    validation = _measured(run / role, "validation_loss")
    started = meta["settings"]["init_sha256"]
    values = {
        "started from": "the bundle's phantom weights" if started else "fresh weights",
        "iterations": meta["iteration"],
        "batch size": meta["settings"]["batch_size"],
        **({"predicts": meta["prediction"]} if "prediction" in meta else {}),  # an autoencoder does not
        "last loss": f"{points[-1][1]:.4f}" if points else None,
    }
    if validation:
        values["last validation loss"] = f"{validation[-1][1]:.4f}"
    chart = curve(points, f"Training loss of the {role} by iteration.") if len(points) > 1 else ""
    return paragraph(text) + facts(values) + chart


def _measured(run: Path, column: str) -> list[Point]:
    """Return the iterations at which a training measured something; none where it ended before the first time."""
    path = run / "metrics.csv"
    if not path.exists():
        return []
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [(float(row["iteration"]), float(row[column])) for row in rows if row[column]]


def _pair_facts(run: Path) -> str:
    report = read_json(run / "pairs/report.json", "run make demo again")
    provenance = report["provenance"]
    rejected = ", ".join(f"{count} {reason}" for reason, count in report["rejected"].items())
    return facts(
        {
            "accepted pairs": report["accepted"],
            "rejected": rejected,
            "solver": f"{provenance['solver']}, {provenance['steps']} steps",
            "seed": provenance["seed"],
        }
    )


def _consistency(real: Sequence[Pair], pairs: Sequence[Pair]) -> str:
    rows = []
    for name, group in (("phantom slices", real), ("generated pairs", pairs)):
        contrasts = np.array([lesion_contrast(image, mask) for image, mask in group])
        areas = 100 * np.array([mask.mean() for _, mask in group])
        rows.append(
            [
                name,
                len(group),
                f"{100 * (contrasts > 0).mean():.0f} %",
                f"{np.median(contrasts):.2f}",
                f"{np.median(areas):.2f} % ({areas.min():.2f} to {areas.max():.2f})",
            ]
        )
    text = (
        "A mass is brighter than its surroundings. Contrast is the mean inside the mask minus that in a ring "
        "around it, in units of the slice's range [−1, 1]."
    )
    head = ["", "count", "brighter inside the mask", "median contrast", "mask area, share of the slice"]
    return paragraph(text) + table(head, rows)


def report(*, run: str) -> None:
    """Write RUN/report.html from a demo's folder: what was done, in pictures, with the figures.

    Args:
        run: the folder that holds phantom/, dataset/, guider/, generator/ and pairs/, and perhaps autoencoder/.
    """
    if not (Path(str(run)) / "pairs/datalist.json").is_file():
        raise PigError(f"{run} holds no demo", "run make demo")
    real = [e for e in read_datalist(Path(run) / "dataset")["training"] if e.get("origin", "real") != "phantom"]
    if real:
        raise PigError(f"{run} holds slices that are no phantom's", "this report is for make demo alone")
    write_report(Path(run))
    print(f"report: {Path(run) / 'report.html'}")


if __name__ == "__main__":
    run_command(report)
