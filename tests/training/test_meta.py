import hashlib
from pathlib import Path

import pytest

from pig_monai.data import folder
from pig_monai.data.patients import digest
from pig_monai.diffusion.schedule import RectifiedFlow
from pig_monai.errors import PigError
from pig_monai.spaces import LatentSpace, PixelSpace
from pig_monai.training.meta import TrainingMeta
from pig_monai.training.validation import validation_entries
from tests.autoencoder.known import autoencoder
from tests.data.test_folder import entry, make
from tests.generators.known import network


def meta(
    dataset: Path, space=None, image_size: int = 16, net=None, learn_from: str = "lesion", **settings: object
) -> TrainingMeta:
    return TrainingMeta(
        "generator", net or network("maisi"), RectifiedFlow(64), "flow", image_size, dataset, 0,
        folder.generator_entries(dataset, 0, learn_from), space or PixelSpace(), {"data": "d" * 64, **settings},
    )  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    entries = [entry(number, fold=number % 2) for number in range(10)]  # of odd numbers are those trained on
    for number in (0, 3, 5):
        del entries[number]["label"]
    return make(tmp_path, entries)


def test_slices_that_were_learnt_from_without_a_label_are_counted(dataset):
    assert meta(dataset, learn_from="all")(4)["unlabelled"] == 2  # number 0 is held out
    assert meta(dataset, learn_from="lesion")(4)["unlabelled"] == 0


def test_a_meta_says_whom_the_training_saw_but_does_not_name_them(dataset):
    """Odd numbers are trained on; 3 and 5 have no label."""
    patients = {number: entry(number, fold=0)["patient"] for number in range(10)}
    assert meta(dataset)(4)["patients"] == sorted(digest(patients[number]) for number in (1, 7, 9))
    everyone = meta(dataset, learn_from="all")(4)["patients"]
    assert everyone == sorted(digest(patients[number]) for number in (1, 3, 5, 7, 9))
    assert everyone == sorted(hashlib.sha256(patients[n].encode()).hexdigest()[:16] for n in (1, 3, 5, 7, 9))


def test_slices_that_nobody_labelled_are_enough_for_an_unconditional_net(tmp_path):
    entries = [entry(number, fold=number % 2) for number in range(6)]
    for one in entries:
        del one["label"]
    said = meta(make(tmp_path, entries), net=network("maisi", condition_channels=0), learn_from="all")(4)
    assert said["unlabelled"] == 3
    assert said["masks"] == {"count": 0}
    assert said["spacing"] == pytest.approx([0.1 * 2 / 16] * 2, abs=1e-5)
    heldout = validation_entries(tmp_path, 0, labelled_only=False)
    assert {Path(one["image"]).name for one in heldout} == {Path(entries[n]["image"]).name for n in (0, 2, 4)}
    with pytest.raises(PigError, match="has no entry with a label"):
        validation_entries(tmp_path, 0)


def test_a_meta_says_what_sampling_and_the_pairs_other_network_need(dataset):
    space = LatentSpace(autoencoder())
    net = network("maisi", image_channels=3, condition_channels=16)
    made = meta(dataset, space, 16, net, condition="mask")
    said = made(7)
    assert said["schedule"] == {"kind": "rectified_flow", "num_train_timesteps": 64}
    assert (said["prediction"], said["iteration"], said["image_size"]) == ("flow", 7, 16)
    assert said["space"] == {"factor": 4, "channels": 3, "autoencoder_sha256": "e" * 64}
    assert said["network"] == net.spec
    assert said["spacing"] == pytest.approx([0.1 * 2 / 16] * 2, abs=1e-5)  # stored at 2 pixels a side
    assert said["masks"]["count"] == 3
    pair = {key: said[key] for key in ("schedule", "image_size", "preprocessing", "fold", "data", "space")}
    assert made.pair == pair


@pytest.mark.parametrize(("space", "image_size", "multiple"), [(None, 15, 2), (LatentSpace(autoencoder()), 20, 8)])
def test_an_image_size_that_the_network_cannot_halve_is_refused(dataset, space, image_size, multiple):
    with pytest.raises(
        PigError, match=f"image_size is {image_size}; give a multiple of {multiple} for this network"
    ):
        meta(dataset, space, image_size)


def test_the_dataset_must_say_how_large_its_slices_are(dataset):
    path = dataset / folder.DATALIST
    path.write_text(path.read_text().replace('"size"', '"side"'))
    with pytest.raises(PigError, match="preprocessing#size is missing"):
        meta(dataset)
