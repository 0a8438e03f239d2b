import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

from tests.generators.known import TIMES, UNET, images, masks, network, randomise

SPACING = torch.tensor([[0.1, 0.2], [0.4, 0.4], [0.0, 0.0]], dtype=torch.float64)


def test_it_is_monais_network_told_the_spacing_in_tenths_of_a_millimetre():
    ours = network("maisi", condition_channels=0)
    randomise(ours)
    renamed = {"num_channels" if name == "channels" else name: value for name, value in UNET.items()}
    theirs = DiffusionModelUNetMaisi(
        spatial_dims=2, in_channels=1, out_channels=1, include_spacing_input=True, **renamed
    ).double()
    theirs.load_state_dict({name.removeprefix("unet."): value for name, value in ours.state_dict().items()})
    told = torch.tensor([[1.0, 2.0, 1.0], [4.0, 4.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    found = ours(images(1), TIMES, masks(2), SPACING)
    torch.testing.assert_close(found, theirs(images(1), TIMES, spacing_tensor=told), rtol=0, atol=1e-10)


@pytest.mark.parametrize("condition", [masks(2), torch.zeros(3, 1, 8, 8, dtype=torch.float64)])
def test_another_spacing_makes_another_slice_with_and_without_a_mask(condition):
    net = network("maisi")
    randomise(net)
    one, other = (net(images(1), TIMES, condition, spacing) for spacing in (SPACING, 2 * SPACING))
    apart = (one - other).abs().amax(dim=(1, 2, 3))
    assert float(apart[:2].min()) > 1e-3
    assert float(apart[2]) <= 1e-12  # twice an unknown spacing is unknown
    unknown = net(images(1), TIMES, condition, torch.zeros_like(SPACING))
    assert torch.equal(net(images(1), TIMES, condition), unknown)


@pytest.mark.parametrize("kind", ["concat", "controlnet"])
def test_the_other_kinds_ignore_the_spacing(kind):
    net = network(kind)
    randomise(net)
    assert torch.equal(net(images(1), TIMES, masks(2), SPACING), net(images(1), TIMES, masks(2)))
