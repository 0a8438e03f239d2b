"""The autoencoder's training: single steps, and the command."""

import csv
import signal

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer
from monai.networks.nets import PatchDiscriminator
from PIL import Image

from pig_monai.autoencoder.latents import load_autoencoder
from pig_monai.autoencoder.losses import AutoencoderLoss
from pig_monai.autoencoder.training import AutoencoderMeter, AutoencoderStep
from pig_monai.checkpoint import load_weights
from pig_monai.data.folder import heldout_entries, read_datalist, training_entries, write_datalist
from pig_monai.data.transforms import load_slices
from pig_monai.diffusion.noise import Purpose, seeded_generator
from pig_monai.errors import PigError, find_user_error
from pig_monai.pictures import contact_sheet
from pig_monai.training.optimisation import exponential_moving_average
from pig_monai.training.session import TIMED, WARM_UP
from tests.autoencoder.known import network
from tests.conftest import ROOT, run_bundle
from tests.test_trainings import assert_same, latest_state, start, wait

CONFIG = "configs/train_autoencoder.yaml"
QUICK = {
    "image_size": 32, "batch_size": 3, "autoencoder_channels": [8, 16], "latent_channels": 3,
    "autoencoder_res_blocks": 1, "autoencoder_norm_groups": 4, "discriminator_channels": 4,
    "discriminator_layers": 2, "adversary_start": 4, "learning_rate": 2.0e-3, "amp": False, "device": "cpu",
    "preview_interval": 0,
}  # fmt: skip
"""Factor 4 by two levels on 2 × 2 patches."""


def trainer(net, judge, loss, slices, adversary_start, iterations):
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.5)
    step = AutoencoderStep(judge, optimizer, loss, adversary_start, seed=5, amp=False)
    return SupervisedTrainer(
        device="cpu", max_epochs=1, train_data_loader=[{"image": slices}] * iterations, network=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.5), loss_function=loss, iteration_update=step,
        decollate=False,
    )  # fmt: skip


def judge_of(seed):
    torch.manual_seed(seed)
    return PatchDiscriminator(2, 4, 1, num_layers_d=2, norm="INSTANCE")


def test_a_step_is_that_of_the_formulas():
    """Both networks after two iterations, the second with the adversary, against the same written out plainly."""
    slices = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    net, judge = network(seed=2), judge_of(3)
    engine = trainer(net, judge, AutoencoderLoss(0.01, 0.5, 0.2), slices, adversary_start=1, iterations=2)
    engine.run()

    wanted, critic = network(seed=2), judge_of(3)
    for iteration in (1, 2):
        mu, sigma = wanted.encode(slices)
        eps = torch.randn(mu.shape, generator=seeded_generator(Purpose.TRAINING, 5, iteration))
        made = wanted.decode(mu + sigma * eps)
        kl = (mu**2 + sigma**2 - torch.log(sigma**2) - 1).sum(1).mean() / 2
        loss = (made - slices).abs().mean() + 0.01 * kl
        if iteration == 2:
            real, fake = critic(slices), critic(made)
            features = [(a - b.detach()).abs().mean() for a, b in zip(fake[:-1], real[:-1], strict=True)]
            loss = loss + 0.5 * sum(features) / len(features) + 0.2 * ((fake[-1] - 1) ** 2).mean()
        gradients = torch.autograd.grad(loss, list(wanted.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(wanted.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
        if iteration == 2:
            verdict = ((critic(slices)[-1] - 1) ** 2).mean() + (critic(made.detach())[-1] ** 2).mean()
            gradients = torch.autograd.grad(verdict / 2, list(critic.parameters()), allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(critic.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
            assert float(engine.state.output["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
            assert float(engine.state.output["parts"]["discriminator"]) == pytest.approx(
                float(verdict.detach()) / 2, rel=1e-4
            )
    for ours, theirs in ((net, wanted), (judge, critic)):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_discriminator_waits_for_its_start():
    slices = torch.zeros(2, 1, 32, 32)
    net, judge = network(), judge_of(3)
    engine = trainer(net, judge, AutoencoderLoss(0.01, 0.5, 0.2), slices, adversary_start=2, iterations=2)
    engine.run()
    assert set(engine.state.output["parts"]) == {"reconstruction", "kl"}
    for one, other in zip(judge.parameters(), judge_of(3).parameters(), strict=True):
        assert torch.equal(one, other)


def test_parts_are_means_over_the_iterations_that_had_them():
    net = network()
    meter = AutoencoderMeter(net, exponential_moving_average(net, 0.9), torch.optim.SGD(net.parameters(), lr=0.25))
    for loss, parts in ((1.0, {"kl": 2.0}), (4.0, {"kl": 4.0, "feature": 5.0})):
        meter.note({"loss": torch.tensor(loss), "parts": {name: torch.tensor(v) for name, v in parts.items()}})
    assert meter.losses() == {"loss": 2.5, "kl": 3.0, "feature": 5.0}
    assert meter.losses() == {}


@pytest.fixture(scope="module")
def dataset(phantom_dataset, tmp_path_factory):
    """The phantom's slices, of which all but every third lost their label."""
    folder = tmp_path_factory.mktemp("unannotated")
    (folder / "images").symlink_to(phantom_dataset / "images")
    (folder / "labels").symlink_to(phantom_dataset / "labels")
    found = read_datalist(phantom_dataset)
    entries = [
        e if n % 3 == 0 else {k: v for k, v in e.items() if k != "label"} for n, e in enumerate(found["training"])
    ]
    write_datalist(
        folder, name="phantom", command="test", seed=0, preprocessing=found["preprocessing"], entries=entries
    )
    return folder


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """An autoencoder's training of 60 iterations, and what it said."""
    folder = tmp_path_factory.mktemp("training") / "autoencoder"
    ids = {"max_iterations": 60, "checkpoint_interval": 25, "preview_interval": 30}
    result = run_bundle("training", CONFIG, output_dir=folder, dataset_dir=dataset, **{**QUICK, **ids})
    assert result.returncode == 0, result.stderr
    return folder, result


def table(folder):
    with open(folder / "metrics.csv", newline="") as stream:
        return {int(row["iteration"]): row for row in csv.DictReader(stream)}


def reconstructions(folder, entries, best=False):
    known = load_autoencoder(folder / f"model_autoencoder{'_best' if best else ''}.pt", "cpu")
    slices = torch.stack([load_slices(32, keys=["image"])({"image": e["image"]})["image"] for e in entries])
    return slices, known.decode(known.encode(slices))


def test_it_learns_and_says_how_well(trained, dataset):
    folder, _ = trained
    rows = table(folder)
    assert list(rows) == [25, 50, 60]
    assert float(rows[60]["validation_loss"]) < 0.8 * float(rows[25]["validation_loss"])
    for name in ("loss", "reconstruction", "kl", "feature", "adversarial", "discriminator", "images_per_second"):
        assert float(rows[50][name]) > 0
    weights = {"reconstruction": 1, "kl": 1e-5}
    assert float(rows[50]["loss"]) > sum(weight * float(rows[50][name]) for name, weight in weights.items())
    heldout = heldout_entries(dataset, 0, labelled_only=False)
    slices, made = reconstructions(folder, heldout)
    errors = (slices - made).abs().mean(dim=(1, 2, 3)).numpy()
    squares = ((slices - made) / 2).square().mean(dim=(1, 2, 3)).numpy()
    assert float(rows[60]["validation_loss"]) == pytest.approx(errors.mean(), rel=1e-3)
    assert float(rows[60]["psnr"]) == pytest.approx((-10 * np.log10(squares)).mean(), rel=1e-3)
    assert 0 < float(rows[60]["ssim"]) < 1


def test_the_latents_are_measured_over_every_training_slice_with_the_averaged_weights(trained, dataset):
    folder, _ = trained
    everyone = training_entries(dataset, 0, labelled_only=False)
    assert len(everyone) > len(training_entries(dataset, 0))  # most have no label
    for best in (False, True):
        known = load_autoencoder(folder / f"model_autoencoder{'_best' if best else ''}.pt", "cpu")
        slices = torch.stack([load_slices(32, keys=["image"])({"image": e["image"]})["image"] for e in everyone])
        with torch.no_grad():
            latents = known.network.encode(slices)[0].double().numpy()
        measured = known.meta["latent"]
        assert (measured["factor"], measured["channels"]) == (4, 3)
        np.testing.assert_allclose(measured["mean"], latents.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(measured["std"], latents.std(axis=(0, 2, 3)), rtol=1e-4)


def test_the_checkpoint_describes_itself(trained, dataset):
    _, meta = load_weights(trained[0], "autoencoder")
    assert meta["iteration"] == 60
    assert meta["network"]["name"] == "autoencoder_kl"
    assert (meta["image_size"], meta["fold"], meta["origin"]) == (32, 0, ["phantom"])
    assert meta["preprocessing"] == read_datalist(dataset)["preprocessing"]
    assert meta["settings"]["adversary_start"] == 4
    assert not {"schedule", "prediction", "masks"} & set(meta)
    assert len(meta["data"]) == 64
    best = load_weights(trained[0] / "model_autoencoder_best.pt", "autoencoder")[1]
    losses = {n: float(row["validation_loss"]) for n, row in table(trained[0]).items() if row["validation_loss"]}
    assert best["iteration"] == min(losses, key=losses.__getitem__)


def test_previews_show_slices_reconstructions_and_differences(trained, dataset):
    pictures = sorted(path.name for path in (trained[0] / "previews").iterdir())
    assert pictures == ["00000030.png", "00000060.png"]
    heldout = heldout_entries(dataset, 0, labelled_only=False)
    count = min(len(heldout), 64)
    shown = [heldout[n * count // 6 * len(heldout) // count] for n in range(6)]
    slices, made = reconstructions(trained[0], shown)
    preview = np.asarray(Image.open(trained[0] / "previews/00000060.png")).astype(int)
    rows = [image[0].numpy() for image in (*slices, *made, *(4 * (made - slices)))]
    wanted = np.asarray(contact_sheet(rows, [None] * 18, columns=6, scale=6)).astype(int)
    np.testing.assert_allclose(preview, wanted, atol=1)


def stop(number, ids, log):
    """Start a training, stop it by a signal after its first state, and return its exit status."""
    process = start(CONFIG, log, **ids)
    wait(lambda: latest_state(ids["output_dir"]) > 0 or process.poll() is not None, 300)
    process.send_signal(number)
    return process.wait(timeout=120)


def test_a_stopped_training_ends_where_the_uninterrupted_one_does(dataset, trained, tmp_path):
    whole = trained[0]
    ids = {**QUICK, "max_iterations": 60, "checkpoint_interval": 3, "dataset_dir": dataset}
    assert stop(signal.SIGTERM, {**ids, "output_dir": tmp_path / "run"}, tmp_path / "log") == 143
    stopped = latest_state(tmp_path / "run")
    assert 3 <= stopped < 60, (tmp_path / "log").read_text()
    result = run_bundle("training", CONFIG, **ids, output_dir=tmp_path / "run")
    assert result.returncode == 0, result.stderr
    ours, theirs = (
        torch.load(folder / "checkpoints/state_00000060.pt", weights_only=True)
        for folder in (tmp_path / "run", whole)
    )
    for name in (
        "network", "ema", "optimizer", "lr_scheduler", "discriminator", "discriminator_optimizer",
        "discriminator_lr_scheduler", "iteration",
    ):  # fmt: skip
        assert_same(ours[name], theirs[name])
    (one, meta), (other, described) = (load_weights(f, "autoencoder") for f in (tmp_path / "run", whole))
    assert_same(one, other)
    assert meta["latent"]["mean"] == pytest.approx(described["latent"]["mean"], abs=1e-6)


def here(dataset, folder, **ids):
    """The command in this process: starting Python and torch takes longer than all the rest."""
    given = {**QUICK, "dataset_dir": str(dataset), "output_dir": str(folder), **ids}
    return ConfigWorkflow(config_file=str(ROOT / "bundles/pig_dbt" / CONFIG), workflow_type="train", **given)


def test_a_dry_run_times_both_networks_and_touches_nothing(dataset, tmp_path, capsys, monkeypatch):
    judged = []
    of_discriminator = AutoencoderLoss.of_discriminator
    monkeypatch.setattr(
        AutoencoderLoss, "of_discriminator", lambda *given: judged.append(1) or of_discriminator(*given)
    )
    workflow = here(dataset, tmp_path / "run", max_iterations=50, dry_run=True)
    workflow.initialize()
    workflow.run()
    assert len(judged) == WARM_UP + TIMED  # the dearer steps, although the adversary starts at the fifth
    assert not (tmp_path / "run").exists()
    slices = len(training_entries(dataset, 0, labelled_only=False))
    heldout = len(heldout_entries(dataset, 0, labelled_only=False))
    assert f"{slices} to train on, {min(heldout, 64)} of fold 0 validate" in capsys.readouterr().out


def test_both_rates_follow_the_reconstruction_and_the_discriminators_waits_for_it(dataset, tmp_path, monkeypatch):
    """A loss that grows when the discriminator joins, here by thousands, is no sign that nothing is learnt."""
    reconstruction = []
    parts = AutoencoderLoss.parts

    def noted(*given):
        found = parts(*given)
        reconstruction.append(float(found["reconstruction"].detach()))
        return found

    monkeypatch.setattr(AutoencoderLoss, "parts", noted)
    ids = {"lr_schedule": "plateau", "max_iterations": 5, "adversary_start": 2, "adversarial_weight": 1.0e4}
    workflow = here(dataset, tmp_path / "run", **ids)
    workflow.initialize()
    both = [workflow.parser.get_parsed_content(name) for name in ("lr_scheduler", "discriminator_lr_scheduler")]
    workflow.run()
    assert len(reconstruction) == 5 < both[0].epoch_length
    assert [schedule.losses for schedule in both] == [reconstruction, reconstruction[2:]]


def test_weights_start_a_training_at_another_size(trained, dataset, tmp_path, capsys):
    ids = {"image_size": 64, "learning_rate": 0, "init_ckpt": str(trained[0]), "max_iterations": 1}
    workflow = here(dataset, tmp_path / "run", **ids)
    workflow.initialize()
    workflow.run()
    told = capsys.readouterr().err
    assert f"autoencoder: starting from {trained[0] / 'model_autoencoder.pt'} (iteration 60, 32 pixels)" in told
    assert "100.0 % of the parameters" in told
    assert_same(load_weights(tmp_path / "run", "autoencoder")[0], load_weights(trained[0], "autoencoder")[0])


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ({"image_size": 30}, "image_size is 30; give a multiple of 4 for this network"),
        ({"autoencoder_channels": [8, 18]}, "network_def: "),
        ({"kl_weight": "1e-5"}, "kl_weight is '1e-5'; give a number from 0 on; YAML needs 1.0e-4 rather"),
        ({"latent_channels": 0}, "latent_channels is 0; give a whole number from 1 on"),
        ({"adversary_start": -1}, "adversary_start is -1; give a whole number from 0 on"),
    ],
)
def test_a_users_mistake_is_told_before_anything_is_written(ids, error, dataset, tmp_path):
    with pytest.raises((RuntimeError, PigError)) as caught:  # MONAI wraps what happens while a config is read
        here(dataset, tmp_path / "run", **ids).initialize()
    assert str(find_user_error(caught.value)).startswith(error)
    assert not (tmp_path / "run").exists()


def test_other_settings_are_refused_in_a_runs_folder(trained, dataset):
    with pytest.raises((RuntimeError, PigError)) as caught:
        here(dataset, trained[0], max_iterations=60, kl_weight=0.5).initialize()
    assert "holds a run with kl_weight = 1e-05, not 0.5" in str(find_user_error(caught.value))


def test_monai_finds_every_property_of_the_training(dataset, tmp_path):
    workflow = here(dataset, tmp_path / "run")
    workflow.initialize()
    assert workflow.check_properties() == []
