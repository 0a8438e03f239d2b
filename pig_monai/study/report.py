"""The study's page: which pairs help a segmenter, what each method's slices are like, and how it was done."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pig_monai.checkpoint import versions
from pig_monai.data.folder import fingerprint, read_datalist, read_label, read_slice
from pig_monai.features.shape import STATISTICS
from pig_monai.features.space import MASK
from pig_monai.files import sha256
from pig_monai.html import facts, figures, page, paragraph, picture, table, unfolding
from pig_monai.pairs_evaluation.figures import GENERATED, HELDOUT
from pig_monai.pictures import lay_out, magnification, tile
from pig_monai.study.arms import Kind
from pig_monai.study.charts import dice_by_pairs, quality_by_seconds
from pig_monai.study.methods import Masks
from pig_monai.study.results import MethodResult, Results
from pig_monai.study.settings import CONFIGS
from pig_monai.study.tables import Row, between, probability, table1_text, table2_text

SHOWN = 16
"""Slices of a method's contact sheet."""

NEAREST = 3
"""Slices of a method's memorisation gallery."""

SIGNIFICANT = 0.05
"""Of a p-value after Holm's correction: below it a difference is called one."""

TILE = 128
"""Pixels a side of a slice, about."""

ABOUT_SEGMENTERS = (
    "Every segmenter sees the same real slices of the training folds, and is evaluated on the held-out fold, "
    "which no generator has seen either. All are trained for equally many passes over their slices with the "
    "same augmentation; “trained as long as with pairs” gives real slices alone exactly as many steps as the "
    "arm with the most pairs takes. ± is the standard deviation over runs (folds and seeds). Intervals are "
    "bootstraps over patients of the slices' means over the seeds, each for itself. “Against real” and "
    "“against longer” are paired differences in Dice from “real” and from “real, trained as long as with "
    "pairs”: the second is what the pairs themselves are worth. p is of Wilcoxon's signed-rank test of the "
    "patients' means; Holm's correction is for all arms that are compared with the same one."
)

ABOUT_QUALITY = (
    "Distances are 0 for equal distributions, and depend on the number of slices: they, precision, recall and "
    "coverage are of as many generated slices as there are held-out real ones, the others of all that were "
    "measured. The last row shows what real slices of patients that no generator saw reach. Precision: share "
    "of plausible slices; coverage: share of the real variety that is there. Pair consistency: Dice between "
    "the masks and what a segmenter trained on real slices finds. Training minutes are of all networks that a "
    "method needs, shared ones included; seconds are for a slice that was accepted."
)


def report_page(results: Results, table1: Sequence[Row], table2: Sequence[Row]) -> str:
    """Return the page.

    Args:
        results: of the finished study.
        table1: its rows.
        table2: its rows.
    """
    notes = list(_notes(results))
    parts = [
        *(paragraph(f"Note: {note}.", "notice") for note in notes),
        "<h2>In short</h2>",
        *(paragraph(sentence) for sentence in in_short(table2)),
        "<h2>Which pairs help a segmenter</h2>",
        table(*table2_text(table2), "number"),
        dice_by_pairs(table2),
        paragraph(ABOUT_SEGMENTERS),
        "<h2>What the slices are like</h2>",
        table(*table1_text(table1), "number"),
        figures(
            [
                quality_by_seconds(table1, "frechet_texture", "Fréchet distance, texture of slices"),
                quality_by_seconds(table1, "frechet_texture_lesion", "Fréchet distance, texture of lesions"),
            ],
            "wide",
        ),
        paragraph(ABOUT_QUALITY),
        "<h2>Pictures</h2>",
        *(part for one in results.methods for part in _pictures(one)),
        "<h2>Masks</h2>",
        _masks(results),
        "<h2>Nearest training slices</h2>",
        paragraph(
            "Of each method the slices that are nearest to a training slice by their pixels (left: generated, "
            "right: the training slice). Look for the same vessels and edges."
        ),
        *(_gallery(one) for one in results.methods),
        "<h2>How it was done</h2>",
        *_provenance(results),
    ]
    return page("Paired image generation: the study", parts)


def in_short(rows: Sequence[Row]) -> Iterator[str]:
    """Say what table 2 shows, in sentences that any outcome fits.

    Pairs are judged by what they add to real slices trained as long, by the test that is corrected for all arms
    with pairs; every number of pairs is told, not the one that came out best.

    Args:
        rows: of table 2.
    """
    real = next(row for row in rows if row["kind"] == Kind.BASELINE.value)
    yield (
        f"Real slices alone: Dice {100 * real['dice']:.1f} % on {real['slices']} held-out slices of "
        f"{real['patients']} patients."
    )
    for longer in (row for row in rows if row["kind"] == Kind.LONGER.value):
        yield (
            f"The same slices for as many training steps as with the most pairs: {100 * longer['dice']:.1f} %, "
            f"{100 * longer['difference']:+.1f} points. What pairs give beyond that is theirs."
        )
    with_pairs = [row for row in rows if row["kind"] == Kind.PAIRS.value]
    for row in with_pairs:
        gain, p = row["longer_difference"], row["longer_difference_p_holm"]
        verdict = "no difference was shown"
        if p < SIGNIFICANT:
            verdict = "more than the steps alone" if gain > 0 else "less than the steps alone"
        interval = (
            "no interval, of a single patient"
            if row["longer_difference_low"] is None
            else f"95 % CI {between(row['longer_difference_low'], row['longer_difference_high'], '+')}"
        )
        yield (
            f"{row['method']}, with {row['pairs']} pairs: {100 * row['dice']:.1f} %, {100 * gain:+.1f} points "
            f"against real slices trained as long ({interval}; p {probability(p)}, corrected for the number of "
            f"arms, {len(with_pairs)}): {verdict}."
        )


def _notes(results: Results) -> Iterator[str]:
    entries = read_datalist(results.study.dataset_dir)["training"]
    phantoms = sum(entry.get("origin") == "phantom" for entry in entries)
    if phantoms:
        yield f"{phantoms} slices are of a phantom, drawn anatomy: they say nothing about real breasts"
    if len(results.study.folds) < len({entry["fold"] for entry in entries} - {-1}):
        held = ", ".join(map(str, results.study.folds))
        yield f"only fold {held} was held out: other patients may give other figures"
    if len(results.study.seeds) < 3:
        yield "fewer than three seeds a segmenter: chance of the training is hardly seen"
    yield "one generator training a method and fold: what another seed of it would change is in no interval"
    if results.of(Kind.BASELINE)[0].estimate("dice").patients < 20:
        yield "fewer than 20 held-out patients: intervals are wide, and tests find little"


def _pictures(one: MethodResult) -> list[str]:
    folder = one.pairs_folder(one.study.folds[0])
    entries = read_datalist(folder)["training"][:SHOWN]
    tiles = [_tile(folder, entry) for entry in entries]
    outlined = "slices" if one.method.masks == Masks.NONE else f"slices, masks ({one.method.masks.value}) outlined"
    strip = Image.open(folder / "film_strip.png").convert("RGB")
    return [
        f"<h3>{one.method.name}</h3>",
        picture(lay_out(tiles, columns=8), f"{one.method.name}: {outlined}."),
        picture(strip, f"{one.method.name}: one slice from noise to the end."),
    ]


def _tile(folder: Path, entry: dict[str, Any]) -> Image.Image:
    image = read_slice(folder / entry["image"])
    mask = read_label(folder / entry["label"]) if "label" in entry else None
    return tile(image, mask, magnification(TILE, len(image)))


def _masks(results: Results) -> str:
    """Compare the statistics of generated masks with those of real ones."""
    made = [one for one in results.methods if one.method.masks == Masks.MADE]
    if not made:
        return paragraph("No method of this study makes masks.")
    head = ["median (largest difference from the training masks' distribution, 0 to 1)"]
    head += [*(one.method.name for one in made), "real, held out"]
    rows = []
    for name, statistic in STATISTICS.items():
        cells = [_mask_cell(one, name, statistic.factor, GENERATED) for one in made]
        rows.append([statistic.title, *cells, _mask_cell(made[0], name, statistic.factor, HELDOUT)])
    return table(head, rows)


def _mask_cell(one: MethodResult, name: str, factor: float, sample: str) -> str:
    median, gap = (one.figure((metric, name, MASK), (sample,)).mean for metric in ("median", "ks"))
    return "–" if median is None or gap is None else f"{factor * median:.3g} ({gap:.2f})"


def _gallery(one: MethodResult) -> str:
    folder, dataset = one.pairs_folder(one.study.folds[0]), one.study.dataset_dir
    real = {Path(entry["image"]).name: entry for entry in read_datalist(dataset)["training"]}
    made = {Path(entry["image"]).name: entry for entry in read_datalist(folder)["training"]}
    shown = []
    for found in one.quality[0]["nearest"].get("pixels", [])[:NEAREST]:
        generated = _tile(folder, made[found["pair"]])
        training = _tile(dataset, real[found["slice"]]).resize(generated.size)
        caption = f"{one.method.name}: relative distance {found['relative_distance']:.2f}"
        shown.append(picture(lay_out([generated, training], columns=2), caption))
    return (
        figures(shown, "wide") if shown else paragraph(f"{one.method.name}: too few patients to look for copies.")
    )


def _provenance(results: Results) -> list[str]:
    study = results.study
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(study).items()
        if name not in ("output", "dataset_dir", "inception_weights", "dinov2_weights")
    }
    weights = [[one.method.name, str(one.quality[0]["settings"]["pairs"])[:12]] for one in results.methods]
    configs = [
        [path.relative_to(CONFIGS).as_posix(), sha256(path)[:12]] for path in sorted(CONFIGS.rglob("*.yaml"))
    ]
    return [
        facts(
            {
                "dataset": str(read_datalist(study.dataset_dir).get("name")),
                "its list (SHA-256)": fingerprint(study.dataset_dir),
                **versions(),
            }
        ),
        unfolding(
            "The study file",
            "without its paths",
            [f"<pre>{html.escape(yaml.safe_dump(settings, sort_keys=False))}</pre>"],
        ),
        unfolding(
            "Pairs", "beginning of the SHA-256 of each list, first fold", [table(["method", "list"], weights)]
        ),
        unfolding("Configs", "beginning of the SHA-256 of each file", [table(["file", "SHA-256"], configs)]),
    ]
