"""Which trainings a method takes, and that its preset says nothing that no config reads."""

from __future__ import annotations

import pytest
import yaml

from pig_monai.checkpoint import FRESH_PREDICTION
from pig_monai.diffusion.schedule import NoiseSchedule, RectifiedFlow
from pig_monai.diffusion.training import GeneratorBatch, JointBatch, generator_batch
from pig_monai.errors import PigError
from pig_monai.study.methods import METHODS, Masks, Training, find_method
from pig_monai.study.settings import CONFIGS, SPACES
from tests.study.known import study

TABLE = {
    "DDPM": ["generator-condition-none-controlnet"],
    "DDIM": ["generator-condition-none-controlnet"],
    "LDM": ["autoencoder", "latent-generator-concat"],
    "SegGuidedDif": ["generator"],
    "ControlNet": ["generator-condition-none-controlnet", "generator-controlnet-on-base"],
    "MAISI": [
        "autoencoder",
        "latent-generator-condition-none-prediction-flow_sample",
        "latent-generator-prediction-flow_sample-on-base",
    ],
    "PIG": ["guider", "generator-condition-guider"],
    "PIG-MAISI": [
        "autoencoder",
        "latent-guider-prediction-flow_sample",
        "latent-generator-condition-none-prediction-flow_sample",
        "latent-generator-prediction-flow_sample-on-base",
    ],
    "joint": ["generator-condition-joint"],
    "two-step": ["guider-sees_slice-false", "generator"],
}
"""Written by hand from the papers; what two methods have in common is trained once."""


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_these_trainings(name, phantom_dataset, tmp_path):
    given = study(phantom_dataset, tmp_path, methods=[name])
    trainings = given.trainings(find_method(name)).all()
    assert [training.name for training in trainings] == TABLE[name]


@pytest.mark.parametrize("presets", [("demo", "maisi_demo"), ("fast", "maisi"), ("paper", "maisi")])
@pytest.mark.parametrize("name", METHODS)
def test_every_generator_can_be_trained_with_any_preset(name, presets, phantom_dataset, tmp_path):
    """The paper's preset has the lesion weight, which has no meaning where no mask is shown."""
    method = find_method(name)
    given = study(phantom_dataset, tmp_path, methods=[name], presets=dict(zip(SPACES, presets, strict=True)))
    preset = presets[SPACES.index("latents" if method.latent else "pixels")]
    ids = yaml.safe_load((CONFIGS / "train_generator.yaml").read_text())
    ids |= yaml.safe_load((CONFIGS / f"presets/{preset}.yaml").read_text())
    for training in given.trainings(method).all():
        if training.role == "generator":
            said = ids | dict(training.ids)
            prediction = said["prediction"] or FRESH_PREDICTION
            flow = prediction.startswith("flow")
            batch = generator_batch(
                **{id_: said[id_] for id_ in ("condition", "learn_from", "loss_weight", "mask_dropout")},
                schedule=RectifiedFlow() if flow else NoiseSchedule(),
                prediction=prediction,
                seed=0,
                guider=object() if "guider_ckpt" in dict(training.needs) else None,
            )
            assert isinstance(batch, JointBatch if name == "joint" else GeneratorBatch)
            lesion = isinstance(batch, GeneratorBatch) and batch.loss_weight == "lesion"
            assert lesion == (name == "PIG" and preset == "paper")  # the authors' own


def test_the_base_is_inside_the_branch_and_not_counted_twice(phantom_dataset, tmp_path):
    given = study(phantom_dataset, tmp_path, methods=["PIG-MAISI"])
    networks = given.trainings(find_method("PIG-MAISI")).networks()
    assert [network.name for network in networks] == [TABLE["PIG-MAISI"][i] for i in (0, 1, 3)]


@pytest.mark.parametrize("name", METHODS)
def test_every_id_of_a_preset_is_read_by_a_config(name):
    preset = yaml.safe_load((CONFIGS / f"presets/methods/{name}.yaml").read_text())
    files = [f"train_{role}.yaml" for role in ("guider", "generator")] + ["infer_pairs.yaml", "infer_slices.yaml"]
    known = {id_ for file in files for id_ in yaml.safe_load((CONFIGS / file).read_text())}
    assert set(preset) <= known
    unconditional = preset["condition"] == "none"
    assert (find_method(name).masks == Masks.NONE) == unconditional


def test_no_preset_is_left_without_a_method():
    assert {path.stem for path in (CONFIGS / "presets/methods").glob("*.yaml")} == set(METHODS)


def test_a_method_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(PigError, match="'GAN' is no method; known are DDPM, DDIM"):
        find_method("GAN")


def test_what_a_training_needs_comes_before_it():
    first = Training("autoencoder")
    second = Training("guider", latent=True, needs=(("autoencoder_ckpt", first),))
    assert list(second.with_needed()) == [first, second]
