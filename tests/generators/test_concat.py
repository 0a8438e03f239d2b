import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from tests.generators.known import TIMES, UNET, images, masks, network, randomise


@pytest.mark.parametrize(("slice_channels", "mask_channels"), [(1, 1), (3, 4), (3, 0)])
def test_it_is_monais_network_on_image_and_condition_side_by_side(slice_channels, mask_channels):
    ours = network("concat", image_channels=slice_channels, condition_channels=mask_channels)
    randomise(ours)
    theirs = DiffusionModelUNet(
        spatial_dims=2, in_channels=slice_channels + mask_channels, out_channels=slice_channels, **UNET
    ).double()
    theirs.load_state_dict({name.removeprefix("unet."): value for name, value in ours.state_dict().items()})
    noisy, condition = images(1, slice_channels), masks(2, max(1, mask_channels))
    inputs = torch.cat([noisy, condition], dim=1)[:, : slice_channels + mask_channels]
    found = ours(noisy, TIMES, condition)
    torch.testing.assert_close(found, theirs(inputs, TIMES), rtol=0, atol=1e-10)
    assert float(found.detach().std()) > 0.05


@pytest.mark.parametrize("kind", ["concat", "controlnet", "maisi"])
def test_on_patches_it_is_the_network_of_their_pixels_as_channels(kind):
    """Block (i, j) of 2 × 2 pixels is position (i, j); its four pixels are channels, row by row."""
    patched = network(kind, patch_size=2)
    plain = network(kind, image_channels=4, condition_channels=4)
    randomise(patched)
    plain.load_state_dict(patched.state_dict())

    def blocks(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels[:, :, a::2, b::2] for a in (0, 1) for b in (0, 1)], dim=1)

    noisy, condition = images(1), masks(2)
    found = patched(noisy, TIMES, condition)
    wanted = plain(blocks(noisy), TIMES, blocks(condition))
    torch.testing.assert_close(blocks(found), wanted, rtol=0, atol=1e-10)
