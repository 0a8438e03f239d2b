"""The graph of a study: what is there, what comes before what, and what the commands say."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pig_monai.errors import PigError
from pig_monai.study.arms import arms
from pig_monai.study.methods import METHODS
from pig_monai.study.nodes import Node, nodes
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
    assert trained == {"real-plain", "real", "real-longer"} | {f"{m}-{n}" for m in with_masks for n in (4, 8)}
    assert trained == {arm.name for arm in arms(given, 0)}


def test_real_slices_alone_are_trained_for_as_many_steps_as_with_the_most_pairs(phantom_dataset, tmp_path):
    given = study(
        phantom_dataset,
        tmp_path,
        num_pairs=[4, 100],
        segmentation={"max_epochs": 3, "batch_size": 8, "image_size": 32},
    )
    by_name = {node.name: options(node) for node in nodes(given)}
    from pig_monai.data.folder import read_datalist

    others = sum(entry["fold"] != 0 for entry in read_datalist(phantom_dataset)["training"])
    steps = 3 * -(-(others + 100) // 8)
    longer = by_name["fold_0/segmenters/real-longer/seed_0"]
    assert (longer["max_iterations"], longer["max_epochs"]) == (str(steps), str(steps))
    assert by_name["fold_0/segmenters/joint-100/seed_0"]["max_epochs"] == "3"


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
        ({"methods": ["PIG", "PIG"]}, "each thing once"),
        ({"training": {"condition": "none"}}, "training#condition is for the study or a method to say"),
        ({"training": {"lerning_rate": 1}}, "training#lerning_rate is no id"),
        ({"presets": {"pixels": "no", "latents": "maisi_demo"}}, "presets#pixels is 'no'"),
        ({"budget": 1}, "budget is no setting of a study"),
        ({"num_pairs": ["many"]}, "num_pairs is 'many'"),
    ],
)
def test_a_study_that_cannot_run_is_refused(settings, said, phantom_dataset, tmp_path):
    with pytest.raises(PigError, match=said):
        study(phantom_dataset, tmp_path, **settings)
