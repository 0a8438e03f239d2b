import numpy as np
import pytest
import torch
from monai.networks.nets import AutoencoderKL

from pig_monai.autoencoder.latents import Autoencoder, latent_statistics, load_autoencoder
from pig_monai.autoencoder.networks import autoencoder_kl
from pig_monai.checkpoint import load_weights, save_weights
from pig_monai.errors import PigError
from pig_monai.files import sha256
from tests.autoencoder.known import autoencoder, meta, network


def slices(count, size=32, seed=1):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_it_is_monais_autoencoder_without_attention():
    ours = network()
    theirs = AutoencoderKL(
        2,
        1,
        1,
        1,
        [8, 16, 16],
        [False] * 3,
        3,
        4,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
    theirs.load_state_dict(ours.state_dict())
    x = slices(2)
    for one, other in zip(ours.encode(x), theirs.encode(x), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(ours.decode(ours.encode(x)[0]), theirs.reconstruct(x))
    assert not any("attn" in name for name in ours.state_dict())


def test_a_patch_is_the_channels_of_one_position():
    """What the inner network is shown, pixel by pixel, and where its outputs go."""
    net = network(patch_size=2)
    net.encoder = net.quant_conv_mu = net.quant_conv_log_sigma = torch.nn.Identity()
    net.decoder = net.post_quant_conv = torch.nn.Identity()
    x = slices(1, 6)
    inner = net.encode(x)[0]
    assert inner.shape == (1, 4, 3, 3)
    for i in range(6):
        for j in range(6):
            assert inner[0, i % 2 * 2 + j % 2, i // 2, j // 2] == x[0, 0, i, j]
    assert torch.equal(net.decode(inner), x)


def test_latents_are_standardised_posterior_means():
    net, known = network(), autoencoder()
    x = slices(3)
    with torch.no_grad():
        mu, _ = net.encode(x)
        wanted = (mu - torch.tensor([0.5, -2, 100]).reshape(1, 3, 1, 1)) / torch.tensor([2, 0.25, 3]).reshape(
            1, 3, 1, 1
        )
        back = net.decode(mu).clamp(-1, 1)
    torch.testing.assert_close(known.encode(x), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(known.decode(wanted), back, rtol=1e-4, atol=1e-4)
    assert known.encode(x).shape == (3, known.channels, 32 // known.factor, 32 // known.factor)


def test_decoded_slices_stay_in_their_range():
    made = autoencoder().decode(50 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert made.min() == -1
    assert made.max() <= 1


@pytest.mark.parametrize("amp", [False, True])
def test_a_result_has_the_same_bits_in_any_batch(amp):
    known, x = autoencoder(amp), slices(5)
    latents = known.encode(x)
    made = known.decode(latents)
    assert latents.dtype == made.dtype == torch.float32
    for i in range(5):
        assert torch.equal(known.encode(x[i : i + 1])[0], latents[i])
        assert torch.equal(known.decode(latents[i : i + 1])[0], made[i])
    assert torch.equal(known.decode(latents.flip(0)).flip(0), made)


def test_amp_runs_the_network_in_bfloat16():
    seen = []
    for amp in (False, True):
        known = autoencoder(amp)
        known.network.decoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        known.decode(known.encode(slices(1)))
    assert seen == [torch.float32, torch.bfloat16]


def test_latents_can_be_trained_on():
    """Made under inference_mode they would be refused by autograd."""
    weight = torch.nn.Conv2d(3, 3, 1)
    weight(autoencoder().encode(slices(1))).sum().backward()
    assert weight.weight.grad.abs().sum() > 0


def test_it_comes_back_from_its_content_bit_by_bit(tmp_path):
    known, x = autoencoder(), slices(2)
    save_weights(
        tmp_path / "model_autoencoder.pt", **{"state_dict": known.content["model"], "meta": known.content["meta"]}
    )
    torch.save({"model": {}, "meta": {}, "autoencoder": known.content}, tmp_path / "generator.pt")
    embedded = torch.load(tmp_path / "generator.pt", weights_only=True)["autoencoder"]
    again = Autoencoder.from_content(embedded, "cpu", sha256=known.sha256)
    loaded = load_autoencoder(tmp_path, "cpu")
    assert again.sha256 == known.sha256
    assert loaded.sha256 == sha256(tmp_path / "model_autoencoder.pt")
    for other in (again, loaded):
        assert other.meta == known.meta
        assert (other.factor, other.channels) == (4, 3)
        assert torch.equal(other.encode(x), known.encode(x))
        assert torch.equal(other.decode(known.encode(x)), known.decode(known.encode(x)))
        for name, value in known.content["model"].items():
            assert torch.equal(other.content["model"][name], value)


def test_statistics_are_those_of_all_latents_at_once():
    noise = torch.Generator().manual_seed(3)
    scale, shift = torch.tensor([1.0, 0.01, 7.0]), torch.tensor([0.0, 5000.0, -3.0])
    parts = [
        torch.randn(n, 3, 4, 4, generator=noise) * scale.reshape(1, 3, 1, 1) * (1 + n) + shift.reshape(1, 3, 1, 1)
        for n in (1, 5, 2, 1)
    ]
    everything = torch.cat(parts).double().numpy()
    mean, std = latent_statistics(iter(parts))
    np.testing.assert_allclose(mean, everything.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, everything.std(axis=(0, 2, 3)), rtol=1e-10)
    for part in parts[:2]:  # and no part's own
        assert np.abs(part.double().numpy().std(axis=(0, 2, 3)) / std - 1).max() > 0.05


def test_latents_of_the_measured_slices_have_mean_0_and_variance_1():
    net, x = network(), slices(6)
    with torch.no_grad():
        mean, std = latent_statistics(net.encode(one)[0] for one in x.split(1))
    latents = Autoencoder(net, meta(net, mean, std), "cpu").encode(x)
    np.testing.assert_allclose(latents.mean(dim=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(latents.std(dim=(0, 2, 3), correction=0), 1, rtol=1e-4)


def test_weights_that_are_no_autoencoders_are_refused(tmp_path):
    known = autoencoder()
    model, described = known.content["model"], known.content["meta"]
    with pytest.raises(
        PigError, match=r"autoencoder_ckpt .*none\.pt does not exist; train one with train_autoencoder"
    ):
        load_autoencoder(tmp_path / "none.pt", "cpu")
    path = tmp_path / "model_autoencoder.pt"
    save_weights(path, model, {**described, "role": "generator"})
    with pytest.raises(PigError, match="holds a generator; name an autoencoder's weights"):
        load_autoencoder(path, "cpu")
    save_weights(path, model, {key: value for key, value in described.items() if key != "latent"})
    with pytest.raises(PigError, match="its meta lacks latent"):
        load_weights(path, "autoencoder")
    save_weights(path, dict(list(model.items())[1:]), described)
    with pytest.raises(PigError, match="do not fit their own meta"):
        load_autoencoder(path, "cpu")
    with pytest.raises(PigError, match="do not fit their own meta"):
        Autoencoder.from_content({"model": {}, "meta": described}, "cpu")


def test_arguments_that_do_not_fit_each_other_are_refused():
    with pytest.raises(PigError, match="network_def: .*norm_num_groups"):
        autoencoder_kl([8, 20], 3, 1, norm_num_groups=8)
