"""The graph of a study: what is there, what comes before what, and what the commands say."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from pig_monai.data.folder import read_datalist
from pig_monai.errors import PigError
from pig_monai.pairs.given_masks import GivenMasks
from pig_monai.pairs.rejection import NO_LIMITS
from pig_monai.pairs.ways import slice_sampler
from pig_monai.study.arms import Kind, arms
from pig_monai.study.methods import METHODS
from pig_monai.study.nodes import Node, nodes
from pig_monai.study.settings import Study
from tests.conftest import ROOT
from tests.pairs.known import generate
from tests.pairs.test_ways import SETTINGS
from tests.pairs.toy import Mix, loaded
from tests.study.known import study


def options(node: Node) -> dict[str, str]:
    """Return the ids that a node's command gives."""
    return {name[2:]: value for name, value in pairwise(node.command) if name.startswith("--")}


@pytest.fixture
def whole(phantom_dataset, tmp_path):
    """The graph of all methods in two folds."""
    given = study(phantom_dataset, tmp_path, methods=list(METHODS), folds=[0, 3], num_pairs=[4, 8], seeds=[0, 1])
    return given, nodes(given)


def test_each_node_is_there_once_and_comes_after_what_it_needs(whole):
    _, graph = whole
    done: set[str] = set()
    for node in graph:
        assert node.name not in done
        assert {*node.needs, *node.grown} <= done
        done.add(node.name)


def test_every_network_and_segmenter_holds_out_its_folders_fold(whole):
    _, graph = whole
    for node in graph:
        fold = node.name.split("/")[0].removeprefix("fold_")
        assert {name.split("/")[0] for name in (*node.needs, *node.grown)} <= {f"fold_{fold}"}
        if "/networks/" in node.name or "/segmenters/" in node.name:
            assert options(node)["fold"] == fold


def test_networks_that_methods_share_are_trained_once(whole):
    _, graph = whole
    networks = [node for node in graph if node.name.startswith("fold_0/networks/")]
    assert len(networks) == 12
    sampled = {node.name: node for node in graph if node.name.startswith("fold_0/pairs/")}
    assert sampled["fold_0/pairs/DDPM"].needs == sampled["fold_0/pairs/DDIM"].needs


def test_slices_without_masks_train_no_segmenter(whole):
    given, graph = whole
    trained = {node.name.split("/")[2] for node in graph if "/segmenters/" in node.name}
    with_masks = [name for name in METHODS if name not in ("DDPM", "DDIM")]
    longer = {name for name in trained if name.startswith("real-longer-")}
    assert trained - longer == {"real-plain", "real"} | {f"{m}-{n}" for m in with_masks for n in (4, 8)}
    assert trained == {arm.name for fold in (0, 3) for arm in arms(given, fold)}


def steps_taken(command: list[str]) -> int:
    """Run a segmenter's training, and return how many steps its last state has seen."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    folder = Path(command[command.index("--output_dir") + 1])
    (last,) = (folder / "checkpoints").glob("checkpoint_final_iteration=*.pt")
    return int(last.stem.split("=")[1])


@pytest.mark.parametrize("more", [{}, {"max_iterations": 7}])
def test_real_slices_alone_are_trained_for_exactly_as_many_steps_as_with_pairs(more, phantom_dataset, tmp_path):
    segmentation = {"max_epochs": 2, "batch_size": 8, "image_size": 32, **more}
    given = study(phantom_dataset, tmp_path, num_pairs=[4, 21], segmentation=segmentation)
    sampler = slice_sampler(
        loaded("generator", Mix(0.8, -0.2), image_size=32, fold=0),
        GivenMasks(phantom_dataset, 0, 32, 0),
        **SETTINGS,
    )
    generate(sampler, tmp_path / "fold_0/pairs/joint", NO_LIMITS, num_pairs=21)
    commands = {node.name: list(node.command) for node in nodes(given)}
    longer = {arm.as_long_as: arm.name for arm in arms(given, 0) if arm.kind == Kind.LONGER}
    taken = {pairs: steps_taken(commands[f"fold_0/segmenters/joint-{pairs}/seed_0"]) for pairs in (4, 21)}
    assert longer == {pairs: f"real-longer-{steps}" for pairs, steps in taken.items()}
    for pairs, name in longer.items():
        assert steps_taken(commands[f"fold_0/segmenters/{name}/seed_0"]) == taken[pairs]
    assert (taken[4] == taken[21]) == bool(more)  # 7 steps are no whole number of epochs, and all that there are
    if more:  # the same command again has nothing left to do
        assert steps_taken(commands["fold_0/segmenters/real-longer-7/seed_0"]) == 7


def test_more_pairs_take_a_longer_arm_of_their_own_and_leave_the_others_as_they_were(phantom_dataset, tmp_path):
    """A schedule that has ended is not trained on."""
    few, many = (nodes(study(phantom_dataset, tmp_path, num_pairs=n)) for n in ([4], [4, 100]))
    before, after = (
        {node.name: node.command for node in graph if "segmenters" in node.name} for graph in (few, many)
    )
    added = {name.split("/")[2] for name in set(after) - set(before)}
    (longer,) = added - {"joint-100"}
    assert longer.startswith("real-longer-")
    assert all(before[name] == after[name] for name in before)


def test_a_segmentation_of_few_iterations_is_as_short_in_all_arms(phantom_dataset, tmp_path):
    given = study(phantom_dataset, tmp_path, segmentation={"max_iterations": 5})
    longer = [
        options(node) for node in nodes(given) if "real-longer" in node.name and "evaluation" not in node.name
    ]
    assert [one["max_iterations"] for one in longer] == ["5"]


def test_feature_weights_go_to_the_measuring_alone(phantom_dataset, tmp_path):
    weights = tmp_path / "inception.pth"
    weights.touch()
    found = nodes(study(phantom_dataset, tmp_path, inception_weights=str(weights)))
    named = {node.name for node in found if "--inception_weights" in node.command}
    assert named == {"fold_0/quality/joint"}
    assert not any("--dinov2_weights" in node.command for node in found)


def test_methods_on_pixels_and_on_latents_are_trained_on_equal_terms(phantom_dataset, tmp_path):
    both = {"methods": ["PIG", "LDM"], "presets": {"pixels": "fast", "latents": "maisi"}}
    said = r"presets/fast.yaml and presets/maisi.yaml differ in batch_size \(8 and 16\); give it under training"
    with pytest.raises(PigError, match=said):
        study(phantom_dataset, tmp_path, **both)
    given = study(phantom_dataset, tmp_path, **both, training={"batch_size": 8})
    with pytest.raises(PigError, match=r"image_size \(64 and 512\); max_iterations"):
        study(phantom_dataset, tmp_path, methods=["PIG", "LDM"], presets={"pixels": "demo", "latents": "maisi"})
    study(phantom_dataset, tmp_path, methods=["PIG"], presets={"pixels": "demo", "latents": "maisi"})
    # whatever the preset says, latent diffusion is no rectified flow
    (net,) = (n for n in nodes(given) if n.name.startswith("fold_0/networks/latent-generator"))
    assert options(net)["prediction"] == "sample"


def test_the_examples_are_studies(phantom_dataset, tmp_path):
    docs = (ROOT / "docs/study.md").read_text().split("```yaml")[1].split("```")[0]
    folds = sorted({entry["fold"] for entry in read_datalist(phantom_dataset)["training"]} - {-1})
    here = {"output": str(tmp_path), "dataset_dir": str(phantom_dataset), "folds": folds}
    for text in (docs, (ROOT / "workflows/study-smoke.yaml").read_text()):
        assert Study.read({**yaml.safe_load(text), **here}).methods == list(METHODS)


def test_pairs_are_as_many_as_the_largest_arm_or_the_evaluation_needs(phantom_dataset, tmp_path):
    given = study(phantom_dataset, tmp_path, methods=["DDIM", "PIG"], num_pairs=[4, 16], num_evaluated=12)
    by_name = {node.name: options(node) for node in nodes(given)}
    assert by_name["fold_0/pairs/PIG"]["num_pairs"] == "16"
    assert by_name["fold_0/pairs/DDIM"]["num_pairs"] == "12"
    assert by_name["fold_0/quality/PIG"]["max_pairs"] == "12"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"folds": [7]}, "has no fold 7"),
        ({"methods": ["PIG", "PIG"]}, "give a list of at least one thing, each once"),
        ({"training": {"condition": "none"}}, "training#condition is for the study or a method to say"),
        ({"training": {"lerning_rate": 1}}, "training#lerning_rate is no id"),
        ({"presets": {"pixels": "no", "latents": "maisi_demo"}}, "presets#pixels is 'no'"),
        ({"budget": 1}, "budget is no setting of a study"),
        ({"num_pairs": ["many"]}, "num_pairs is 'many'"),
        ({"sampling": {"guidance": 2.0}}, "sampling#guidance would give only some methods other terms"),
        ({"sampling": {"replace_rejected": False}}, "sampling#replace_rejected would give only some"),
        ({"sampling": None}, "sampling is None; give ids with values, or leave sampling out"),
        ({"training": None}, "training is None"),
        ({"presets": None}, "presets is None"),
        ({"presets": {"pixels": "demo"}}, "presets has pixels; give pixels and latents"),
        ({"segmentation": {"batch_size": 0}}, "segmentation#batch_size is 0; give a whole number from 1 on"),
        ({"segmentation": {"max_epochs": "12"}}, "segmentation#max_epochs is '12'"),
        ({"inception_weights": "no.pth"}, "inception_weights no.pth is no file"),
    ],
)
def test_a_study_that_cannot_run_is_refused(settings, said, phantom_dataset, tmp_path):
    with pytest.raises(PigError, match=said):
        study(phantom_dataset, tmp_path, **settings)
