"""What an autoencoder is trained for: the slice, plain latents, and details that a discriminator believes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn
from torch.nn import functional as F

PARTS = ("reconstruction", "kl", "feature", "adversarial")
"""Of the autoencoder's loss, in the order of metrics.csv."""


def kl_divergence(mu: Tensor, sigma: Tensor) -> Tensor:
    """Return KL(N(μ, σ²) ‖ N(0, 1)): summed over the channels, mean over positions and slices, in nats.

    ½ Σ (μ² + σ² − ln σ² − 1), Kingma & Welling 2014, appendix B. A mean over positions does not depend on the
    slices' size, so neither does its weight.

    Args:
        mu: (B, c, W, H).
        sigma: (B, c, W, H), above 0.
    """
    return 0.5 * (mu.square() + sigma.square() - 2 * sigma.log() - 1).sum(dim=1).mean()


def feature_distance(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the mean over layers of the mean absolute difference of a discriminator's features.

    Feature matching of pix2pixHD (Wang et al., CVPR 2018, eq. 3): a perceptual loss whose network is the
    discriminator at hand, so no weights trained on photographs are needed.

    Args:
        features: of the reconstructions, one (B, C, W, H) a layer.
        wanted: of the slices; no gradient flows into them.
    """
    return torch.stack([F.l1_loss(ours, w.detach()) for ours, w in zip(features, wanted, strict=True)]).mean()


class AutoencoderLoss(nn.Module):
    """The weighted sum of L1 reconstruction, KL divergence, feature distance and least-squares adversary.

    Args:
        kl_weight: of `kl_divergence`.
        feature_weight: of `feature_distance`.
        adversarial_weight: of MONAI's `PatchAdversarialLoss` (least squares, LSGAN).
    """

    def __init__(self, kl_weight: float, feature_weight: float, adversarial_weight: float) -> None:
        super().__init__()
        self.weights = {
            "reconstruction": 1.0,
            "kl": kl_weight,
            "feature": feature_weight,
            "adversarial": adversarial_weight,
        }
        self.adversary = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def parts(self, slices: Tensor, reconstruction: Tensor, mu: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        """Return the parts that need no discriminator."""
        return {"reconstruction": F.l1_loss(reconstruction, slices), "kl": kl_divergence(mu, sigma)}

    def adversarial_parts(self, of_slices: Sequence[Tensor], of_fakes: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the parts that the discriminator's layers, the last of which judges, say of slices and fakes."""
        return {
            "feature": feature_distance(of_fakes[:-1], of_slices[:-1]),
            "adversarial": self.adversary(of_fakes[-1], target_is_real=True, for_discriminator=False),
        }

    def of_discriminator(self, of_slices: Sequence[Tensor], of_fakes: Sequence[Tensor]) -> Tensor:
        """Return the discriminator's own loss: slices shall be judged 1, fakes 0."""
        real = self.adversary(of_slices[-1], target_is_real=True, for_discriminator=True)
        fake = self.adversary(of_fakes[-1], target_is_real=False, for_discriminator=True)
        return (real + fake) / 2

    def forward(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the parts."""
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
