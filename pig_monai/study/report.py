"""The study's page: which pairs help a segmenter, what each method's slices are like, and how it was done."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from PIL import Image

from pig_monai.checkpoint import measuring_versions
from pig_monai.choosing import spread_evenly
from pig_monai.data.folder import fingerprint, has_lesion, heldout_entries, located, read_datalist
from pig_monai.features.shape import STATISTICS
from pig_monai.features.space import MASK, SLICE
from pig_monai.files import sha256
from pig_monai.html import between, facts, figures, page, paragraph, picture, probability, table, unfolding
from pig_monai.metrics.two_samples import SIGNIFICANT
from pig_monai.pairs_evaluation.figures import GENERATED, HELDOUT
from pig_monai.pairs_evaluation.report import slice_tiles
from pig_monai.pictures import lay_out
from pig_monai.study.arms import Kind
from pig_monai.study.charts import dice_by_pairs, gains, quality_by_seconds
from pig_monai.study.methods import Masks
from pig_monai.study.results import MethodResult, Results
from pig_monai.study.settings import CONFIGS
from pig_monai.study.tables import (
    Row,
    costs_table,
    differences_table,
    likeness_tables,
    overlaps_table,
    pairing_table,
)

SHOWN = 16
"""Slices of a method's contact sheet."""

NEAREST = 3
"""Slices of a method's memorisation gallery."""

TILE = 128
"""Pixels a side of a slice, about."""

ABOUT_SEGMENTERS = (
    "Every segmenter sees the same real slices of the training folds, except those of the validation patients, by "
    "whom the best weights are chosen, and is evaluated on the held-out fold, which no generator has seen either. "
    "Arms with pairs take equally many passes over all of their slices; “trained as long” gives real slices alone "
    "exactly as many steps as an arm with so many pairs takes. All but “no augmentation” have the same classical "
    "augmentation. Dice, IoU, precision and recall (of pixels) are means over the slices with a lesion; ± is the "
    "standard deviation of the runs' means (folds and seeds); intervals are bootstraps over patients and seeds, "
    "and not corrected for the number of arms; how much seeds differ is only roughly known from few."
)

ABOUT_DIFFERENCES = (
    "Differences are paired: of each patient's mean Dice, in which every patient counts once, so that they differ "
    "a little from the differences of the table below. In brackets the 95 % interval over patients and seeds. "
    "“Against real” is from “real”, “against longer” from the real slices trained as long: what the pairs "
    "themselves are worth; “against PIG” from as many pairs of that method. p is of Wilcoxon's signed-rank test "
    "of the patients, for these trainings: it does not know that others would differ. Holm's correction is for "
    "all comparisons of a column. The generators have also learnt from the segmenters' validation patients; pairs "
    "may bring in what these showed."
)

ABOUT_LIKENESS = (
    "Fréchet and kernel distances are 0 for equal distributions: of texture (scikit-image), or of what the mass "
    "U-Net sees (segmenter), which has learnt from these very slices: real ones that it never saw may look "
    "farther away to it than generated ones. Plausible: share of the slices that lie among the real ones "
    "(precision of features); coverage: share of the real slices that have a generated one near; recall is its "
    "older relative. The columns of lesions are the same of the crops round the largest lesion. All depend on the "
    "number of slices, and are of as many generated ones as there are held-out ones. The last rows show what real "
    "slices reach: of the patients held out, and between what 95 % of random choices of patients lie."
)

ABOUT_PAIRING = (
    "Consistency: Dice between the masks and what a segmenter trained on real slices finds, and the share of "
    "lesions that it finds; in brackets, of a single fold, 95 % intervals over the pairs. Suspected copies are "
    "much nearer to one training patient than to all others. Nearer to training, p: whether slices, or masks that "
    "were made, are nearer to those of the patients trained on than chance explains, by pixels, in any fold; "
    "corrected for the number of methods. Below 0.05 they remember them, as slices for masks of these patients "
    "well may."
)

ABOUT_COSTS = (
    "Parameters are of the networks that make a slice; networks trained and minutes count all that a method "
    "needs, shared ones included. Minutes and seconds are times by the clock of a machine that may have done "
    "other work; seconds are for a slice that was accepted."
)

ABOUT_GALLERY = (
    "Of each method the slices that are nearest to a training patient by their pixels. From left to right: "
    "generated, the training slice, and the nearest slice of a patient who was held out. The relative distance is "
    "that to the nearest training patient, divided by the mean of those to the next ones. Look for the same "
    "vessels and edges. Where masks are those of the training set, outlines and breasts of the two resemble each "
    "other for that reason."
)


_STRIP = {
    Masks.NONE: "its estimates of the clean slice",
    Masks.GIVEN: "the given mask (above) and its estimates of the clean slice (below)",
    Masks.MADE: "its estimates of the clean mask (above) and slice (below)",
}
"""What a film strip shows."""


def report_page(results: Results, table1: Sequence[Row], table2: Sequence[Row]) -> str:
    """Return the page.

    Args:
        results: of the finished study.
        table1: its rows.
        table2: its rows.
    """
    parts = [
        paragraph(_data(results)),
        *(paragraph(f"Note: {note}.", "notice") for note in notes(results)),
        "<h2>In short</h2>",
        *(paragraph(sentence) for sentence in in_short(table2)),
        "<h2>Which pairs help a segmenter</h2>",
        gains(table2),
        table(*differences_table(table2), "number"),
        paragraph(ABOUT_DIFFERENCES),
        table(*overlaps_table(table2), "number"),
        paragraph(ABOUT_SEGMENTERS),
        dice_by_pairs(table2),
        "<h2>The methods</h2>",
        table(["method", "what it is"], [[one.method.name, one.method.about] for one in results.methods]),
        "<h2>What the slices are like</h2>",
        *(table(*part, "number") for part in likeness_tables(table1)),
        paragraph(ABOUT_LIKENESS),
        table(*pairing_table(table1), "number"),
        paragraph(ABOUT_PAIRING),
        "<h2>What they cost</h2>",
        table(*costs_table(table1), "number"),
        figures(
            [
                quality_by_seconds(table1, "frechet_texture", "Fréchet distance, texture of slices"),
                quality_by_seconds(table1, "frechet_texture_lesion", "Fréchet distance, texture of lesions"),
            ],
            "wide",
        ),
        paragraph(ABOUT_COSTS),
        "<h2>Pictures</h2>",
        *_real_pictures(results),
        *(part for one in results.methods for part in _pictures(one)),
        "<h2>Masks</h2>",
        masks_table(results),
        "<h2>Nearest training slices</h2>",
        paragraph(ABOUT_GALLERY),
        *(part for one in results.methods for part in _gallery(one)),
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
            f"The same slices for as many training steps as with {longer['as_long_as']} pairs: "
            f"{100 * longer['dice']:.1f} %. What pairs give beyond that is theirs."
        )
    with_pairs = [row for row in rows if row["kind"] == Kind.PAIRS.value]
    for row in with_pairs:
        yield (
            f"{row['method']}, with {row['pairs']} pairs: {100 * row['dice']:.1f} %, "
            f"{_verdict(row, 'longer_difference', len(with_pairs), 'real slices trained as long')}."
        )
    against_pig = [row for row in with_pairs if row["pig_difference"] is not None]
    shown = [row for row in against_pig if _is_shown(row, "pig_difference")]
    for row in shown:
        said = _verdict(row, "pig_difference", len(against_pig), f"{row['pairs']} pairs of PIG")
        yield f"{row['method']}: {said}."
    if against_pig and not shown:
        yield f"No method was shown to differ from PIG ({_comparisons(len(against_pig))})."


def _is_shown(row: Row, name: str) -> bool:
    """Return whether it is one for the patients, by the corrected test, and for the seeds, by the interval."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    without_zero = low is not None and high is not None and not low <= 0 <= high
    return without_zero and row[f"{name}_p_holm"] < SIGNIFICANT


def _verdict(row: Row, name: str, comparisons: int, other: str) -> str:
    gain, p = row[name], row[f"{name}_p_holm"]
    interval = between(row[f"{name}_low"], row[f"{name}_high"], percent=True, sign="+")
    said = "no interval, of a single patient" if interval == "–" else f"95 % CI {interval}"
    verdict = ("more" if gain > 0 else "less") if _is_shown(row, name) else "no difference was shown"
    return (
        f"{100 * gain:+.1f} points against {other} ({said}; p {probability(p)}, corrected for "
        f"{_comparisons(comparisons)}): {verdict}"
    )


def _comparisons(number: int) -> str:
    return "1 comparison" if number == 1 else f"{number} comparisons"


def _data(results: Results) -> str:
    """Say what was learnt from, and what was held out."""
    study = results.study
    entries = [entry for entry in read_datalist(study.dataset_dir)["training"] if has_lesion(entry)]
    patients = len({entry["patient"] for entry in entries})
    size = results.methods[0].image_size
    held = [f"{sum(entry['fold'] == fold for entry in entries)} of fold {fold}" for fold in study.folds]
    return (
        f"{len(entries)} real slices with a lesion, of {patients} patients; held out one after the other: "
        f"{', '.join(held)}. Generated slices have {size} × {size} pixels."
    )


def notes(results: Results) -> Iterator[str]:
    """Yield what limits the study's figures, a sentence each."""
    entries = read_datalist(results.study.dataset_dir)["training"]
    phantoms = sum(entry.get("origin") == "phantom" for entry in entries)
    if phantoms:
        yield f"{phantoms} slices are of a phantom, drawn anatomy: they say nothing about real breasts"
    if len(results.study.folds) < len({entry["fold"] for entry in entries} - {-1}):
        held = ", ".join(map(str, results.study.folds))
        yield f"only fold {held} was held out: other patients may give other figures"
    if len(results.study.seeds) < 3:
        yield "fewer than three seeds a segmenter: chance of the training is hardly seen"
    if any(len(versions) > 1 for versions in _made_with(results).values()):
        yield "not all was trained and measured with the same versions of packages (see How it was done)"
    yield "one generator training a method and fold: what another seed of it would change is in no interval"
    if results.of(Kind.BASELINE)[0].estimate("dice").patients < 20:
        yield "fewer than 20 held-out patients: intervals are wide, and tests find little"


def _real_pictures(results: Results) -> list[str]:
    """Draw held-out slices as the methods' are drawn."""
    study = results.study
    size = results.methods[0].image_size
    entries = [entry for entry in heldout_entries(study.dataset_dir, study.folds[0]) if has_lesion(entry)]
    tiles = slice_tiles(spread_evenly(entries, SHOWN), size, TILE)
    return ["<h3>Real, held out</h3>", picture(lay_out(tiles, columns=8), "Real slices, masks outlined.")]


def _pictures(one: MethodResult) -> list[str]:
    folder = one.pairs_folder(one.study.folds[0])
    entries = [located(entry, folder) for entry in read_datalist(folder)["training"][:SHOWN]]
    tiles = slice_tiles(entries, one.image_size, TILE)
    outlined = "slices" if one.method.masks == Masks.NONE else f"slices, masks ({one.method.masks.value}) outlined"
    strip = Image.open(folder / "film_strip.png").convert("RGB")
    return [
        f"<h3>{one.method.name}</h3>",
        picture(lay_out(tiles, columns=8), f"{one.method.name}: {outlined}."),
        picture(strip, f"{one.method.name}: {_STRIP[one.method.masks]}, from the first step to the last."),
    ]


def masks_table(results: Results) -> str:
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
    median, gap = (one.figure_of((metric, name, MASK), sample).mean for metric in ("median", "ks"))
    return "–" if median is None or gap is None else f"{factor * median:.3g} ({gap:.2f})"


def _gallery(one: MethodResult) -> list[str]:
    real, made = (
        {Path(entry["image"]).name: located(entry, folder) for entry in read_datalist(folder)["training"]}
        for folder in (one.study.dataset_dir, one.pairs_folder(one.study.folds[0]))
    )
    nearest = one.quality[0]["nearest"].get("pixels", [])[:NEAREST]
    head = f"<h3>{one.method.name}</h3>"
    if not nearest:
        return [head, paragraph("Too few patients to look for copies.")]
    columns = [[made[found["pair"]] for found in nearest], [real[found["slice"]] for found in nearest]]
    if nearest[0]["heldout"] is not None:
        columns.append([real[found["heldout"]] for found in nearest])
    if one.method.masks == Masks.NONE:  # outlines would tell the real ones, and hide what is to be compared
        columns = [[{"image": entry["image"]} for entry in column] for column in columns]
    tiles = zip(*(slice_tiles(column, one.image_size, TILE) for column in columns), strict=True)
    shown = [
        picture(lay_out(row, columns=len(row)), f"relative distance {found['relative_distance']:.2f}")
        for row, found in zip(tiles, nearest, strict=True)
    ]
    copies = one.note(("suspected_copies", "pixels", SLICE))
    said = paragraph(f"Suspected copies, in the first fold: {copies}.")
    return [head, said, figures(shown, "wide")]


def _made_with(results: Results) -> dict[str, list[str]]:
    """Return which versions of packages the study was trained and measured with, each once."""
    used = {
        "generators trained with": [found for one in results.methods for found in one.versions],
        "slices measured with": [found for one in results.methods for found in one.measured_with],
        "segmenters trained with": [found for one in results.arms for found in one.versions],
        "segmenters evaluated with": [found for one in results.arms for found in one.measured_with],
    }
    return {what: list(dict.fromkeys(map(_named, found))) for what, found in used.items()}


def _named(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


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
                "the dataset (SHA-256)": fingerprint(study.dataset_dir),
                **{what: "; or ".join(found) for what, found in _made_with(results).items()},
                "reported with": _named(measuring_versions()),
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
