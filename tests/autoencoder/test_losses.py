import numpy as np
import pytest
import torch
from monai.networks.nets import PatchDiscriminator

from pig_monai.autoencoder.losses import AutoencoderLoss, feature_distance, kl_divergence


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_that_of_two_gaussians_by_integration():
    """∫ p ln(p / q) on a fine grid, for each number of the latents on its own."""
    mu, sigma = normal(2, 3, 2, 2, seed=0), 0.2 + normal(2, 3, 2, 2, seed=1).abs()
    z = np.linspace(-30, 30, 60_001)
    q = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    def integral(m, s):
        p = np.exp(-(((z - m) / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi))
        kept = (p > 1e-200) & (q > 1e-200)
        return np.trapezoid(p[kept] * np.log(p[kept] / q[kept]), z[kept])

    each = np.vectorize(integral)(mu.numpy(), sigma.numpy())
    assert float(kl_divergence(mu, sigma)) == pytest.approx(each.sum(axis=1).mean(), rel=1e-6)


def test_kl_does_not_depend_on_the_size():
    mu, sigma = normal(1, 3, 4, 4, seed=0), normal(1, 3, 4, 4, seed=1).exp()
    larger = kl_divergence(mu.repeat(5, 1, 3, 3), sigma.repeat(5, 1, 3, 3))
    torch.testing.assert_close(larger, kl_divergence(mu, sigma))


def test_feature_distance_weighs_layers_alike_and_leaves_the_truth_alone():
    ours = [normal(2, 4, 8, 8, seed=0).requires_grad_(), normal(2, 8, 4, 4, seed=1).requires_grad_()]
    wanted = [normal(2, 4, 8, 8, seed=2).requires_grad_(), normal(2, 8, 4, 4, seed=3).requires_grad_()]
    distance = feature_distance(ours, wanted)
    layers = [np.abs((a - b).detach().numpy()).mean() for a, b in zip(ours, wanted, strict=True)]
    assert float(distance.detach()) == pytest.approx(np.mean(layers), rel=1e-12)
    distance.backward()
    assert all(layer.grad is None for layer in wanted)
    assert all(layer.grad.abs().sum() > 0 for layer in ours)


def test_the_whole_loss_is_the_weighted_sum_of_its_formulas():
    loss = AutoencoderLoss(kl_weight=0.5, feature_weight=3.0, adversarial_weight=0.25)
    torch.manual_seed(0)
    judge = PatchDiscriminator(2, 4, 1, num_layers_d=2, norm="INSTANCE").double()
    x, y = normal(2, 1, 32, 32, seed=0), normal(2, 1, 32, 32, seed=1)
    mu, sigma = normal(2, 3, 8, 8, seed=2), normal(2, 3, 8, 8, seed=3).exp()
    parts = loss.parts(x, y, mu, sigma) | loss.adversarial_parts(judge(x), judge(y))
    of_x, of_y = ([layer.detach().numpy() for layer in judge(z)] for z in (x, y))
    m, s = mu.numpy(), sigma.numpy()
    wanted = {
        "reconstruction": np.abs(x.numpy() - y.numpy()).mean(),
        "kl": ((m**2 + s**2 - np.log(s**2) - 1) / 2).sum(axis=1).mean(),
        "feature": np.mean([np.abs(a - b).mean() for a, b in zip(of_x[:-1], of_y[:-1], strict=True)]),
        "adversarial": ((of_y[-1] - 1) ** 2).mean(),
    }
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(wanted, rel=1e-10)
    weighted = wanted["reconstruction"] + 0.5 * wanted["kl"] + 3 * wanted["feature"] + 0.25 * wanted["adversarial"]
    assert float(loss(parts).detach()) == pytest.approx(weighted, rel=1e-10)
    judged = float(loss.of_discriminator(judge(x), judge(y)).detach())
    assert judged == pytest.approx((((of_x[-1] - 1) ** 2).mean() + (of_y[-1] ** 2).mean()) / 2, rel=1e-10)
