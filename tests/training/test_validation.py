import copy
import math

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator

from pig_monai.data.folder import write_datalist
from pig_monai.diffusion.noise import Purpose, seeded_generator
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.diffusion.training import DiffusionLoss, GeneratorBatch, GuiderBatch, antithetic_timesteps
from pig_monai.training.interrupt import StopOnSignal
from pig_monai.training.validation import Best, Validation, mean_loss, validation_entries
from tests.diffusion.test_sampling import Linear
from tests.diffusion.toy import rng
from tests.training.toy import run

SCHEDULE = NoiseSchedule()
SEED = 3
SIZES = (4, 4, 1)  # nine held-out slices at batch 4: the last batch must not weigh as much as the others


def heldout():
    generator = rng(9)
    images = torch.rand(9, 1, 6, 6, generator=generator, dtype=torch.float64) * 2 - 1
    labels = (torch.rand(9, 1, 6, 6, generator=generator) > 0.7).double()
    parts = zip(images.split(4), labels.split(4), strict=True)
    return [{"image": image, "label": label} for image, label in parts]


def validation(network, prepare, best=None, interval=2):
    noise = prepare.for_validation()
    evaluator = SupervisedEvaluator(
        device="cpu", val_data_loader=heldout(), prepare_batch=noise, network=network, decollate=False,
        key_val_metric={"validation_loss": mean_loss(DiffusionLoss())},
    )  # fmt: skip
    return Validation(evaluator, noise, best or Best(), interval)


def validated(network, prepare):
    best = Best()
    run(lambda n: None, [validation(network, prepare, best)], 2)
    return best.loss


def squared_errors(batch, number, network_of_mask):
    """The paper's loss, image by image in NumPy: ε₁ and ε₂ against a network's mix a, b, c of both channels."""
    generator = seeded_generator(Purpose.VALIDATION, SEED, number)
    t = antithetic_timesteps(len(batch["image"]), 1024, generator)
    shape = batch["image"].shape
    eps_1, eps_2 = (torch.randn(shape, generator=generator, dtype=torch.float64).numpy() for _ in range(2))
    betas = 1e-4 + (0.02 - 1e-4) * np.arange(1024) / 1023
    for b, level in enumerate(t.tolist()):
        alpha_bar = np.prod(1 - betas[: level + 1])
        x0, y0 = 2 * batch["label"][b].numpy() - 1, batch["image"][b].numpy()
        x_t = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps_1[b]
        y_t = np.sqrt(alpha_bar) * y0 + np.sqrt(1 - alpha_bar) * eps_2[b]
        if network_of_mask:
            yield np.mean((eps_1[b] - (0.7 * x_t - 0.1 * y_t + 0.3 * level / 1024)) ** 2)
        else:
            yield np.mean((eps_2[b] - (0.7 * y_t - 0.1 * x0 + 0.3 * level / 1024)) ** 2)


@pytest.mark.parametrize("kind", [GuiderBatch, GeneratorBatch])
def test_the_loss_is_the_papers_over_all_heldout_images(kind):
    found = validated(Linear(0.7, -0.1, 0.3), kind(SCHEDULE, "epsilon", SEED))
    errors = [e for n, batch in enumerate(heldout()) for e in squared_errors(batch, n, kind is GuiderBatch)]
    assert len(errors) == sum(SIZES)
    assert found == pytest.approx(np.mean(errors), rel=1e-7)  # ignite adds up in float32


def test_two_values_differ_by_the_weights_alone():
    network, losses = Linear(0.7, -0.1, 0.3), []

    def change(iteration):
        network.c = 0.5 if iteration == 4 else 0.3  # other weights at the second of three validations

    check = validation(network, GuiderBatch(SCHEDULE, "v", SEED))
    run(change, [check, lambda engine: losses.append(check.evaluator.state.metrics.get("validation_loss"))], 6)
    assert losses[1] == losses[5] != losses[3]


def test_the_trainings_noise_is_the_same_with_and_without_validations():
    prepare, alone = GuiderBatch(SCHEDULE, "v", SEED), GuiderBatch(SCHEDULE, "v", SEED)
    check, inputs = validation(Linear(0.7, -0.1, 0.3), prepare), []
    run(lambda n: inputs.append(prepare(heldout()[0])[0]), [check], 5)
    assert check.best.last == 5
    for seen in inputs:
        torch.testing.assert_close(seen, alone(heldout()[0])[0], rtol=0, atol=0)
    # and the validation sees noise of its own, not that of the first iterations
    assert not torch.equal(prepare.for_validation()(heldout()[0])[0], inputs[0])


def test_it_is_measured_when_due_and_at_the_end_and_the_lowest_is_known():
    network, best, seen = Linear(0, 0, 0), Best(), []
    errors = {2: 1.0, 4: 0.0, 6: 0.5, 7: math.nan}  # |prediction| at high noise: 0 is nearest to ε's mean

    def step(iteration):
        network.c = errors.get(iteration, 100.0)

    check = validation(network, GuiderBatch(SCHEDULE, "epsilon", SEED), best)
    check.best.tell = lambda n, loss: (seen.append(n), Best.tell(best, n, loss))
    run(step, [check], 7)
    assert seen == [2, 4, 6, 7]
    assert (best.iteration, best.last) == (4, 7)
    check.best.last, seen[:] = None, []
    run(step, [check], 4)
    assert seen == [2, 4]  # the end is no second validation of iteration 4


def test_a_training_that_is_asked_to_stop_measures_what_is_due_and_no_more():
    for iterations, wanted in ((4, [2, 4]), (5, [2, 4])):
        best, seen = Best(), []
        check = validation(Linear(0, 0, 0), GuiderBatch(SCHEDULE, "epsilon", SEED), best)
        best.tell = lambda n, loss, seen=seen, best=best: (seen.append(n), Best.tell(best, n, loss))

        def ask(engine, last=iterations):
            if engine.state.iteration == last:
                engine.state.stop_signals.asked = 15

        run(lambda n: None, [StopOnSignal(), ask, check], iterations)
        assert seen == wanted


def test_nothing_is_measured_without_heldout_slices():
    check = validation(Linear(0, 0, 0), GuiderBatch(SCHEDULE))
    check.evaluator.state.epoch_length = 0  # of an empty loader
    run(lambda n: None, [check], 4)
    assert check.evaluator.state.metrics == {}
    assert check.best.last is None


def test_the_best_is_the_first_of_the_lowest_and_never_no_number():
    best = Best()
    best.tell(10, math.nan)
    assert best.iteration is None
    for iteration, loss in ((20, 0.5), (30, 0.25), (40, 0.25), (50, math.nan), (60, math.inf), (70, 0.3)):
        best.tell(iteration, loss)
    assert (best.iteration, best.loss, best.last) == (30, 0.25, 70)
    state = copy.deepcopy(best.state_dict())
    best.tell(80, 0.1)
    again = Best()
    again.load_state_dict(state)
    assert (again.iteration, again.loss, again.last) == (30, 0.25, 70)  # and not what came later
    again.tell(80, 0.3)
    assert again.iteration == 30


def dataset(folder, heldout_slices):
    entries = []
    for number in range(heldout_slices + 2):
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{number}.nii.gz").touch()
        fold = 0 if number < heldout_slices else 1
        entries.append({"image": f"images/{number}.nii.gz", "label": f"labels/{number}.nii.gz",
                        "patient": f"p{number}", "fold": fold})  # fmt: skip
    write_datalist(folder, name="toy", command="test", seed=0, preprocessing={"size": 6}, entries=entries)
    return folder


def numbers(entries):
    return [int(entry["image"].split("/")[-1].split(".")[0]) for entry in entries]


def test_entries_are_spread_evenly_over_the_heldout_fold(tmp_path):
    many = numbers(validation_entries(dataset(tmp_path / "many", 200), 0))
    assert len(many) == len(set(many)) == 64
    assert many[0] == 0
    assert {b - a for a, b in zip([*many, 200], many[1:], strict=False)} == {3, 4}
    few = numbers(validation_entries(dataset(tmp_path / "few", 5), 0))
    assert len(few) == 64
    assert sorted(few.count(n) for n in range(5)) == [12, 13, 13, 13, 13]
    assert validation_entries(tmp_path / "few", -1) == []
