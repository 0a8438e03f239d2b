import pickle

import numpy as np
import pytest
import torch

from pig_monai.checkpoint import (
    REQUIRED_META,
    REQUIRED_OF_ROLE,
    initial_network,
    load_weights,
    save_weights,
    training_prediction,
)
from pig_monai.denoisers import check_pair, load_denoiser
from pig_monai.diffusion.schedule import NoiseSchedule
from pig_monai.errors import PigError
from pig_monai.files import write_json
from pig_monai.heldout import HeldOut
from pig_monai.networks import diffusion_network
from pig_monai.training.meta import mask_statistics, median_spacing


class Mischief:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint was run')",))


def test_a_checkpoint_cannot_run_code(tmp_path):
    with pytest.raises(SystemExit):
        pickle.loads(pickle.dumps(Mischief()))  # it would, if it were unpickled without care
    torch.save({"model": {}, "meta": {"role": "guider", "x": Mischief()}}, tmp_path / "model_guider.pt")
    with pytest.raises(PigError, match=r"cannot be read as weights"):
        load_weights(tmp_path, "guider")


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_torn_and_foreign_files_are_named(tmp_path, content):
    path = tmp_path / "model_guider.pt"
    save_weights(path, {"w": torch.ones(1000)}, {"role": "guider"})
    path.write_bytes(path.read_bytes()[:600] if content is None else content)
    with pytest.raises(PigError, match=str(path)):
        load_weights(path, "guider")


def test_a_training_state_is_not_taken_for_weights(tmp_path):
    torch.save({"network": {}, "iteration": 3}, tmp_path / "state_00000003.pt")
    with pytest.raises(PigError, match="does not describe itself"):
        load_weights(tmp_path / "state_00000003.pt", "guider")


def meta(role: str, **more: object) -> dict:
    return {**dict.fromkeys((*REQUIRED_META, *REQUIRED_OF_ROLE[role])), "role": role, **more}


@pytest.mark.parametrize("key", ["network", "prediction", "fold"])
def test_a_meta_that_lacks_something_is_named(tmp_path, key):
    incomplete = {name: value for name, value in meta("guider").items() if name != key}
    save_weights(tmp_path / "a.pt", {}, incomplete)
    with pytest.raises(PigError, match=f"lacks {key}"):
        load_weights(tmp_path / "a.pt", "guider")


def test_equal_weights_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_weights(tmp_path / name / "model_guider.pt", {"w": torch.ones(5)}, meta("guider"))
    one, two = (tmp_path / name / "model_guider.pt" for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()


def test_roles_are_not_exchanged(tmp_path):
    save_weights(tmp_path / "a.pt", {"w": torch.ones(1)}, meta("generator"))
    with pytest.raises(PigError, match="guider_ckpt .* holds a generator"):
        load_weights(tmp_path / "a.pt", "guider")


def test_weights_come_back_as_they_were(tmp_path):
    state = {"w": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last)}
    save_weights(tmp_path / "model_guider.pt", state, meta("guider", spacing=[0.1, 0.2]))
    found, described = load_weights(tmp_path, "guider")  # a run folder is as good as the file
    assert torch.equal(found["w"], state["w"])
    assert described["spacing"] == [0.1, 0.2]


def test_a_schedule_of_another_version_is_named(tmp_path):
    network = unet([8, 16])
    described = {"network": network.spec, "schedule": {"kind": "other"}, "prediction": "v"}
    save_weights(tmp_path / "a.pt", network.state_dict(), meta("guider", **described))
    with pytest.raises(PigError, match=r"guider_ckpt .*a.pt: schedule \{'kind': 'other'\} is unknown"):
        load_denoiser(tmp_path / "a.pt", "guider", "cpu")


def test_a_pair_must_fit():
    one = {"schedule": {"T": 1}, "image_size": 64, "preprocessing": {}, "fold": 0, "data": "a", "prediction": "v"}
    check_pair(one, {**one, "prediction": "epsilon"})  # each converts its own prediction
    with pytest.raises(PigError, match="image_size is 64 and the generator's is 32"):
        check_pair(one, {**one, "image_size": 32})


def test_the_setting_in_which_a_pair_differs_is_named():
    def one(low: float) -> dict:
        return {"preprocessing": {"size": 64, "intensity": {"kind": "percentile", "low": low}}}

    with pytest.raises(PigError) as caught:
        check_pair(one(0.5), one(1.0))
    assert caught.value.what == ("the guider's preprocessing#intensity#low is 0.5 and the generator's is 1.0")
    with pytest.raises(PigError, match="preprocessing#crop is None and the generator's is True"):
        check_pair({"preprocessing": {}}, {"preprocessing": {"crop": True}})


def test_weights_that_are_no_numbers_are_named(tmp_path):
    state = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}
    save_weights(tmp_path / "a.pt", state, meta("guider"))
    with pytest.raises(PigError, match="guider_ckpt .*a.pt: b holds values that are no numbers"):
        load_weights(tmp_path / "a.pt", "guider")


@pytest.mark.parametrize(
    ("workflow", "what"),
    [
        ("guider", "holds no model_guider.pt yet; wait for"),
        ("generator", "is the folder of a generator run; name a guider's"),
        (None, "holds no model_guider.pt; name the output_dir of train_guider.yaml"),
    ],
)
def test_a_folder_without_weights_says_why(tmp_path, workflow, what):
    if workflow is not None:
        write_json(tmp_path / "run.json", {"workflow": workflow, "settings": {}})
    with pytest.raises(PigError, match=f"init_ckpt {tmp_path} {what}"):
        load_weights(tmp_path, "guider", "init_ckpt")


DATA = "d" * 64
HELD_OUT = HeldOut(DATA, 1)


def unet(channels: list[int]) -> torch.nn.Module:
    return diffusion_network("concat", channels, [False] * len(channels), 1, 8, norm_num_groups=8)


@pytest.fixture
def start(tmp_path):
    """A run folder with weights of a two-level guider, and those weights."""
    torch.manual_seed(0)
    network = unet([8, 16])
    described = {"network": network.spec, "prediction": "v", "schedule": NoiseSchedule().to_dict()}
    meta_of_run = meta("guider", **described, image_size=64, iteration=4000, data=DATA, fold=1)
    save_weights(tmp_path / "model_guider.pt", network.state_dict(), meta_of_run)
    return tmp_path, network.state_dict()


def test_a_training_starts_from_weights_of_another_size(start, capsys):
    folder, weights = start
    found = initial_network(unet([8, 16]), folder, "guider", "cpu", HELD_OUT, "v", NoiseSchedule()).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in weights.items())
    assert capsys.readouterr().err.splitlines() == [
        f"guider: starting from {folder / 'model_guider.pt'} (iteration 4000, 64 pixels, v)",
        f"guider: loaded {len(weights)} of {len(weights)} tensors, 100.0 % of the parameters",
    ]


def test_a_training_starts_from_weights_of_a_network_with_fewer_levels(start, capsys):
    folder, weights = start
    torch.manual_seed(1)
    network = unet([8, 16, 16])
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    found = initial_network(network, folder, "guider", "cpu", HELD_OUT).state_dict()
    taken = [name for name in fresh if name in weights and weights[name].shape == fresh[name].shape]
    assert 0.1 * len(fresh) < len(taken) < len(fresh)
    for name, value in found.items():
        assert torch.equal(value, weights[name] if name in taken else fresh[name])
    said = capsys.readouterr().err
    share = sum(fresh[name].numel() for name in taken) / sum(value.numel() for value in fresh.values())
    assert f"guider: loaded {len(taken)} of {len(fresh)} tensors, {100 * share:.1f} % of the parameters" in said
    assert "guider: not loaded: unet.down_blocks.1.* (2 tensors, not in the weights), " in said


def test_weights_that_hardly_fit_are_refused_with_both_networks(start):
    folder, _ = start
    with pytest.raises(PigError) as caught:
        initial_network(unet([24, 48]), folder, "guider", "cpu", HELD_OUT)
    assert caught.value.what == (
        f"init_ckpt {folder} holds a concat with {{'channels': [8, 16]}} and network_def is a concat "
        "with {'channels': [24, 48]}: 0.0 % of the parameters fit"
    )


def test_weights_of_another_prediction_or_noise_are_refused(start):
    folder, _ = start
    with pytest.raises(PigError, match="trained with prediction = v, and this training has epsilon"):
        initial_network(unet([8, 16]), folder, "guider", "cpu", HELD_OUT, "epsilon", NoiseSchedule())
    with pytest.raises(PigError, match="trained with schedule#beta_end = 0.02, and this training has 0.03"):
        initial_network(unet([8, 16]), folder, "guider", "cpu", HELD_OUT, "v", NoiseSchedule(beta_end=0.03))
    with pytest.raises(PigError, match=r"init_ckpt .* is the folder of|init_ckpt .* holds a guider"):
        initial_network(unet([8, 16]), folder / "model_guider.pt", "generator", "cpu", HELD_OUT)


def test_a_training_predicts_what_the_weights_it_starts_from_did(start):
    """The bundle's weights and those of former versions go on as they were, whatever fresh ones would predict."""
    folder, _ = start  # of v
    fresh = training_prediction(None, "guider", init_ckpt=None)
    assert fresh == "sample"
    assert training_prediction(None, "guider", init_ckpt=folder) == "v"
    assert training_prediction(None, "guider", base_ckpt=None, init_ckpt=folder) == "v"
    assert training_prediction("epsilon", "guider", init_ckpt=folder) == "epsilon"
    with pytest.raises(PigError, match=r"base_ckpt nowhere does not exist"):
        training_prediction(None, "generator", init_ckpt=None, base_ckpt="nowhere")


def test_weights_that_have_learnt_from_the_heldout_fold_are_refused(start, capsys):
    folder, _ = start
    with pytest.raises(PigError) as caught:
        initial_network(unet([8, 16]), folder, "guider", "cpu", HeldOut(DATA, 0), "v", NoiseSchedule())
    assert str(caught.value) == (
        f"init_ckpt {folder} was trained with fold 1 held out, and this training holds out fold 0; "
        "name one that was trained with --fold 0: this one has learnt from the held-out slices"
    )
    assert capsys.readouterr().err == ""
    initial_network(unet([8, 16]), folder, "guider", "cpu", HeldOut(DATA, -1))  # nothing is held out
    initial_network(unet([8, 16]), folder, "guider", "cpu", HeldOut("e" * 64, 0))  # other data, let through
    told = f"init_ckpt {folder} was trained on other data: make sure that no patient of fold 0 is in it"
    assert capsys.readouterr().err.splitlines().count(told) == 1


def test_of_weights_from_another_space_the_user_is_told(start, capsys):
    folder, weights = start
    space = {"factor": 4, "channels": 3, "autoencoder_sha256": "e" * 64}
    network = initial_network(unet([8, 16]), folder, "guider", "cpu", HELD_OUT, "v", NoiseSchedule(), space)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "guider: these weights worked on pixels, this training works on latents of autoencoder eeeeeeeeeeee: "
        "they may be of little use"
    )
    content = torch.load(folder / "model_guider.pt", weights_only=True)
    for sha256, said in (("a" * 64, True), ("e" * 64, False)):
        theirs = {**content["meta"], "space": {**space, "autoencoder_sha256": sha256}}
        save_weights(folder / "model_guider.pt", weights, theirs)
        initial_network(network, folder, "guider", "cpu", HELD_OUT, space=space)
        assert ("worked on latents of autoencoder aaaaaaaaaaaa" in capsys.readouterr().err) == said


def test_mask_statistics_count_what_was_drawn():
    one, two = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    one[2:4, 2:4] = True  # 4 % in one piece
    two[0, 0] = two[1, 1] = two[5, 5] = True  # 3 %; (0, 0) and (1, 1) touch at a corner: two pieces
    image = np.ones((10, 10), np.float32)
    found = mask_statistics([(one, image), (two, image)])
    assert found["count"] == 2
    assert (found["area"]["0.0"], found["area"]["0.5"], found["area"]["1.0"]) == pytest.approx((0.03, 0.035, 0.04))
    assert (found["components"]["0.0"], found["components"]["1.0"]) == (1, 2)


def test_median_spacing_grows_as_slices_shrink():
    entries = [{"spacing": [0.1, 0.2]}, {"spacing": None}, {"spacing": [0.3, 0.4]}, {"spacing": [0.2, 0.3]}]
    assert median_spacing(entries, stored_size=512, image_size=128) == pytest.approx([0.8, 1.2])
    assert median_spacing([{"spacing": None}], 512, 128) is None
