"""Slices for given masks: whose they are, in which order, and never those of the held-out fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pig_monai.data.folder import read_datalist, read_label, read_slice, training_entries
from pig_monai.data.transforms import load_slices
from pig_monai.errors import PigError
from pig_monai.merge_pairs import merge_pairs
from pig_monai.pairs import given_masks
from pig_monai.pairs.given_masks import GivenMasks
from pig_monai.pairs.rejection import NO_LIMITS
from pig_monai.pairs.ways import slice_sampler
from tests.pairs.known import contents, generate
from tests.pairs.test_ways import LATENTS, SETTINGS
from tests.pairs.toy import Mix, loaded


@pytest.fixture
def entries(phantom_dataset):
    return training_entries(phantom_dataset, fold=0)


def sampler(dataset: Path, network: Any = None, fold: int = 0, size: int = 16, **more: Any) -> Any:
    generator = loaded("generator", network or Mix(0.8, -0.2), image_size=size, fold=fold, **more)
    return slice_sampler(generator, given_masks.find(dataset, None, generator.meta, SETTINGS["seed"]), **SETTINGS)


def labels(given: GivenMasks, indices: Any) -> list[str]:
    return [given.source(index)["label"] for index in indices]


def by_label(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"labels/{Path(entry['label']).name}": entry for entry in entries}


def test_a_pair_has_the_mask_that_its_source_names(phantom_dataset, entries):
    network = Mix(0.8, -0.2)
    count = len(entries)
    indices = [0, 3, count - 1, count, 2 * count + 3]
    draw = sampler(phantom_dataset, network)
    drawn = draw.draw(indices)
    for place, (index, candidate) in enumerate(zip(indices, drawn, strict=True)):
        entry = by_label(entries)[candidate.source["label"]]
        wanted = load_slices(16)(entry)["label"]  # 64 pixels a side, brought to 16
        np.testing.assert_array_equal(candidate.mask, wanted[0].numpy() > 0)
        assert candidate.mask.any()
        assert candidate.source["patient"] == entry["patient"]
        assert candidate.source == sampler(phantom_dataset).draw([index])[0].source  # in any batch, in any process
        for shown in network.conditions:  # −1 and +1, at every step
            assert torch.equal(shown[place], 2 * wanted - 1)
    assert len(network.conditions) == 4
    again = labels(draw.given, range(2 * count)).index(drawn[0].source["label"], 1)
    same = draw.draw([again])[0]
    np.testing.assert_array_equal(drawn[0].mask, same.mask)  # the same mask, …
    assert np.abs(drawn[0].image - same.image).max() > 0.1  # … another slice


def test_the_order_is_drawn_and_every_mask_comes_before_any_comes_again(phantom_dataset, entries):
    given = GivenMasks(phantom_dataset, 0, 16, seed=5)
    count = len(entries)
    wanted = list(by_label(entries))
    passes = [labels(given, range(start, start + count)) for start in (0, count)]
    assert all(sorted(one) == sorted(wanted) for one in passes)
    assert len({tuple(one) for one in (wanted, *passes)}) == 3  # neither the datalist's order nor twice the same
    assert labels(given, reversed(range(count))) == passes[0][::-1]
    assert labels(GivenMasks(phantom_dataset, 0, 16, seed=6), range(count)) != passes[0]


def test_few_pairs_have_masks_of_all_parts_of_the_datalist(phantom_dataset, entries):
    """By chance alone half of the masks would be of the first half of the patients; in turn all of them were."""
    half = len(entries) // 2
    first = set(list(by_label(entries))[:half])
    shares = [
        np.mean([label in first for label in labels(GivenMasks(phantom_dataset, 0, 16, seed), range(half))])
        for seed in range(40)
    ]
    assert np.mean(shares) == pytest.approx(half / len(entries), abs=0.1)


def test_a_latent_generator_is_shown_the_mask_on_its_grid(phantom_dataset, entries):
    class Eight(Mix):
        def forward(self, noisy, timesteps, condition, spacing):
            self.conditions.append(condition)
            return self.a * noisy

    network = Eight(0.8, 0)
    drawn = sampler(phantom_dataset, network, space=LATENTS).draw([0, 1])
    for place, candidate in enumerate(drawn):
        wanted = load_slices(16)(by_label(entries)[candidate.source["label"]])["label"]
        np.testing.assert_array_equal(candidate.mask, wanted[0].numpy() > 0)
        assert torch.equal(network.conditions[0][place], LATENTS.encode_masks(2 * wanted - 1))


@pytest.mark.parametrize("fold", [0, 1, 4])
def test_the_masks_of_the_fold_that_the_generator_held_out_are_never_given(phantom_dataset, fold):
    everyone = read_datalist(phantom_dataset)["training"]
    heldout = {e["patient"] for e in everyone if e["fold"] == fold}
    assert heldout
    given = sampler(phantom_dataset, fold=fold).given
    sources = [given.source(index) for index in range(3 * len(given))]
    assert {source["patient"] for source in sources}.isdisjoint(heldout)
    wanted = {e["label"] for e in everyone if e["fold"] != fold and "label" in e}
    assert {source["label"] for source in sources} == wanted
    everything = sampler(phantom_dataset, fold=-1).given  # of a generator that held nothing out
    assert {everything.source(i)["patient"] for i in range(len(everything))} >= heldout


def test_a_user_may_name_the_fold_that_is_left_out(phantom_dataset):
    generator = loaded("generator", Mix(0.8, 0.0)).meta
    given = given_masks.find(phantom_dataset, 2, generator, 0)
    assert given.fingerprint["fold"] == 2
    assert given_masks.find(phantom_dataset, None, generator, 0).fingerprint["fold"] == 0
    assert given_masks.find(None, None, generator, 0) is None
    with pytest.raises(PigError, match="has no fold 9"):
        given_masks.find(phantom_dataset, 9, generator, 0)


def test_masks_of_a_pairs_folder_are_given_whole(phantom_dataset, tmp_path):
    pairs = tmp_path / "pairs"
    generate(sampler(phantom_dataset), pairs, NO_LIMITS, num_pairs=5)
    given = sampler(pairs).given  # generated masks have no fold
    assert len(given) == 5
    sources = [given.source(index) for index in range(5)]
    assert {source["patient"] for source in sources} == {f"synthetic-3-{i}" for i in range(5)}
    for index, source in enumerate(sources):
        assert source["label"] == f"labels/synthetic-3-{int(source['patient'][-1]):06d}.nii.gz"
        np.testing.assert_array_equal(given.label(index)[0].numpy() > 0, read_label(pairs / source["label"]))


def test_a_folder_of_slices_for_given_masks_says_whose_they_are(phantom_dataset, tmp_path):
    draw = sampler(phantom_dataset)
    generate(draw, tmp_path / "all", NO_LIMITS, num_pairs=5, batch_size=2)
    entries = read_datalist(tmp_path / "all")["training"]
    for index, (entry, candidate) in enumerate(zip(entries, draw.draw(range(5)), strict=True)):
        assert entry["index"] == index
        assert entry["mask_of"] == draw.given.source(index)
        assert (entry["patient"], entry["fold"]) == (f"synthetic-3-{index}", -1)
        np.testing.assert_array_equal(read_label(tmp_path / "all" / entry["label"]), candidate.mask)
        np.testing.assert_allclose(read_slice(tmp_path / "all" / entry["image"]), candidate.image, atol=2e-4)
        masks = {"data": draw.given.fingerprint["data"], "fold": 0, "order": "permuted by seed and pass"}
        assert entry["provenance"]["masks"] == masks
    for start, count in ((0, 2), (2, 3)):
        ids = {"start_index": start, "num_pairs": count}
        generate(sampler(phantom_dataset), tmp_path / f"part_{start}", NO_LIMITS, **ids)
    merge_pairs(parts=str(tmp_path / "part_*"), output_dir=str(tmp_path / "merged"), num_pairs=5)
    assert contents(tmp_path / "merged") == contents(tmp_path / "all")


def test_slices_without_masks_are_a_dataset_folder_without_labels(tmp_path, capsys):
    def draw() -> Any:
        return slice_sampler(loaded("generator", Mix(0.8, 0.0), condition="none"), None, **SETTINGS)

    generate(draw(), tmp_path / "all", NO_LIMITS, num_pairs=5, batch_size=2)
    assert f"5 slices of 5 candidates in {tmp_path / 'all'};" in capsys.readouterr().err
    entries = read_datalist(tmp_path / "all")["training"]
    assert [entry["index"] for entry in entries] == list(range(5))
    assert not any({"label", "mask_of"} & set(entry) for entry in entries)
    assert not (tmp_path / "all/labels").exists()
    assert len(training_entries(tmp_path / "all", -1, labelled_only=False)) == 5
    for picture in ("contact_sheet.png", "film_strip.png"):
        assert (tmp_path / "all" / picture).read_bytes().startswith(b"\x89PNG")
    strip = np.asarray(Image.open(tmp_path / "all/film_strip.png").convert("L"))
    assert strip.shape[1] > 3 * strip.shape[0]  # a row of slices, none of masks that nobody made
    generate(draw(), tmp_path / "part_0", NO_LIMITS, num_pairs=2)
    generate(draw(), tmp_path / "part_2", NO_LIMITS, num_pairs=3, start_index=2)
    merge_pairs(parts=str(tmp_path / "part_*"), output_dir=str(tmp_path / "merged"), num_pairs=5)
    assert contents(tmp_path / "merged") == contents(tmp_path / "all")
    generate(draw(), tmp_path / "part_0", NO_LIMITS, num_pairs=5)  # extended, it is the same again
    assert contents(tmp_path / "part_0") == contents(tmp_path / "all")


def test_a_generator_without_a_use_for_masks_is_refused(phantom_dataset):
    for condition in ("none", "joint"):
        with pytest.raises(PigError, match=f"trained with condition {condition}, which infer_slices with masks"):
            sampler(phantom_dataset, condition=condition)


def test_a_folder_without_a_lesion_is_refused(phantom_dataset, tmp_path):
    generate(
        slice_sampler(loaded("generator", Mix(0.8, 0.0), condition="none"), None, **SETTINGS),
        tmp_path / "slices", NO_LIMITS, num_pairs=1,
    )  # fmt: skip
    with pytest.raises(PigError, match="has no entry with a label"):
        GivenMasks(tmp_path / "slices", -1, 16, 0)
