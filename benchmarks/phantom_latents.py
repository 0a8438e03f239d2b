"""Whether mask and slice belong together on latents as they do on pixels, at equal training time, on the phantom.

    python benchmarks/phantom_latents.py --dataset_dir DATASET --output_dir OUT [--pixel_iterations 800 …]

DATASET is `make demo`'s (runs/demo/dataset). All learn from the patients of its folds 1 to 4: the paper's nets on
pixels (presets/demo.yaml), and on latents (presets/maisi_demo.yaml) the three kinds of generator, with one guider.
Choose iterations that take equal CPU time; the table says what they took, the autoencoder included. The segmenter
is trained on the same patients' real slices and judges all pairs. The same command again continues where it was
stopped; CPU seconds are kept in OUT/cpu.csv. OUT/pairs.png shows them in the table's order; those of which too few
are accepted have neither Dice nor picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common import consistency, load_dataset, print_table, run_bundle

from pig_monai.choosing import spread_evenly
from pig_monai.cli import run_command
from pig_monai.files import read_json, read_rows
from pig_monai.pictures import contact_sheet

FOLD = 0
SIZE = 64  # of both presets
SHOWN = 8
FEWEST = 20  # pairs that are evaluated


class Timed:
    """Runs trainings, and keeps the CPU seconds that each took, those of a stopped one included.

    A call that finds the training finished, and leaves its weights as they are, does not count.

    Args:
        table: the CSV file, a row for each start of a training.
    """

    def __init__(self, table: Path) -> None:
        self.table = table

    def train(self, configs: Sequence[str], output_dir: Path, **ids: object) -> Path:
        """Train with the bundle's command, and return the run's folder."""
        before, weights = sum(os.times()[2:4]), _written(output_dir)
        new = not self.table.exists()
        try:
            return run_bundle("training", configs, output_dir, **ids)
        finally:
            if _written(output_dir) != weights:
                with self.table.open("a", encoding="utf-8") as stream:
                    stream.write("run,cpu_seconds\n" * new + f"{output_dir},{sum(os.times()[2:4]) - before:.0f}\n")

    def minutes(self, runs: Sequence[Path]) -> float:
        """Return the CPU minutes of some runs."""
        names = {str(run) for run in runs}
        rows = read_rows(self.table, "run the benchmark in a new folder")
        return sum(float(row["cpu_seconds"]) for row in rows if row["run"] in names) / 60


def _written(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.glob("model*.pt")}


def compare(
    *,
    dataset_dir: str,
    output_dir: str,
    pixel_iterations: int = 800,
    autoencoder_iterations: int = 800,
    latent_iterations: int = 1300,
    segmenter_epochs: int = 12,
    candidates: int = 160,
) -> None:
    """Train all, and print the table.

    Args:
        dataset_dir: the phantom's slices.
        output_dir: receives runs, pairs and evaluations.
        pixel_iterations: of guider and generator each, on pixels.
        autoencoder_iterations: of the autoencoder.
        latent_iterations: of guider and generators each, on latents.
        segmenter_epochs: of the segmenter.
        candidates: to draw each way; those with impossible masks are rejected.
    """
    dataset, output = Path(dataset_dir).resolve(), Path(output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    timed = Timed(output / "cpu.csv")
    common = {"dataset_dir": dataset, "fold": FOLD}
    segmenter = output / "segmenter"
    if not (segmenter / "model.json").exists():
        timed.train(["train.yaml"], segmenter, **common, image_size=SIZE, max_epochs=segmenter_epochs, resume=True)
    latents = "presets/maisi_demo.yaml"
    autoencoder, iterations = output / "autoencoder", {"max_iterations": autoencoder_iterations}
    timed.train(["train_autoencoder.yaml", latents], autoencoder, **common, **iterations)
    on_pixels = {**common, "max_iterations": pixel_iterations}
    on_latents = {**common, "max_iterations": latent_iterations, "autoencoder_ckpt": autoencoder}
    rows: list[list[object]] = []
    folders, dice = [dataset], {"heldout": "–"}
    for where, preset, ids, kinds in (
        ("pixels", "presets/demo.yaml", on_pixels, ("concat",)),
        ("latents", latents, on_latents, ("maisi", "controlnet", "concat")),
    ):
        guider = timed.train(["train_guider.yaml", preset], output / f"{where}_guider", **ids)
        for kind in kinds:
            folder = output / f"{where}_{kind}"
            generator = timed.train(
                ["train_generator.yaml", preset], folder / "generator", **ids, generator=kind, guider_ckpt=guider
            )
            minutes = timed.minutes([guider, generator, *([autoencoder] if where == "latents" else [])])
            made, accepted = sample(folder / "pairs", guider, generator, candidates)
            if accepted >= FEWEST:
                dice = consistency(dataset, made, segmenter, folder / "evaluation")
                folders.append(made)
            else:
                dice = {**dice, "generated": "–"}
            rows.append([f"{kind}, {where}", ids["max_iterations"], f"{minutes:.0f}", accepted, dice["generated"]])
    draw(folders, output / "pairs.png")
    head = [
        "pairs",
        "iterations a network",
        "training, CPU minutes",
        f"accepted of {candidates}",
        "Dice, % (95 % CI)",
    ]
    print_table(head, [["the phantom's own slices, held out", "", "", "", dice["heldout"]], *rows])


def sample(folder: Path, guider: Path, generator: Path, candidates: int) -> tuple[Path, int]:
    """Draw candidates, and return the folder and how many were accepted."""
    run_bundle(
        "infer_pairs", ["infer_pairs.yaml"], folder, guider_ckpt=guider, generator_ckpt=generator,
        num_pairs=candidates, replace_rejected=False, min_accepted=0, seed=0, batch_size=16,
    )  # fmt: skip
    return folder, read_json(folder / "report.json", "draw the pairs anew")["accepted"]


def draw(folders: Sequence[Path], path: Path) -> None:
    """Draw a row of pairs from each folder, spread evenly over it."""
    shown = []
    for folder in folders:
        data = load_dataset(str(folder), SIZE)
        chosen = spread_evenly(range(len(data["image"])), SHOWN)
        shown += [(data["image"][i, 0].numpy(), data["label"][i, 0].numpy() > 0.5) for i in chosen]
    contact_sheet([image for image, _ in shown], [mask for _, mask in shown], columns=SHOWN, scale=2).save(path)


if __name__ == "__main__":
    run_command(compare)
