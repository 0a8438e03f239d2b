import torch
from torch import nn

from pig_monai.partial_weights import take_what_fits


def levels(*sizes: int) -> nn.Module:
    net = nn.Module()
    net.blocks = nn.ModuleList([nn.Linear(n, 2) for n in sizes])
    return net


def test_what_fits_in_name_and_shape_is_taken_and_the_rest_stays_fresh():
    source, target = levels(3, 4), levels(3, 5, 6)
    fresh = {name: value.clone() for name, value in target.state_dict().items()}
    found = take_what_fits(target, {**source.state_dict(), "head.weight": torch.ones(1)})
    same = ("blocks.0.weight", "blocks.0.bias", "blocks.1.bias")
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name] if name in same else fresh[name])
    assert (found.tensors, found.of_tensors) == (3, 6)
    assert found.share == (6 + 2 + 2) / (6 + 2 + 10 + 2 + 12 + 2)
    assert found.lines() == [
        "loaded 3 of 6 tensors, 29.4 % of the parameters",
        "not loaded: blocks.1.* (1 tensor, other shape), blocks.2.* (2 tensors, not in the weights), "
        "head.* (1 tensor, not in this network)",
    ]


def test_a_whole_network_is_one_line_and_many_modules_are_counted():
    target = levels(3, 3)
    assert take_what_fits(target, levels(3, 3).state_dict()).lines() == [
        "loaded 4 of 4 tensors, 100.0 % of the parameters"
    ]
    wide = levels(*range(3, 13))
    said = take_what_fits(wide, {}).lines()[1]
    assert said.count("blocks.") == 4
    assert said.endswith(", and 6 more")


def test_an_inner_network_is_named_by_its_levels():
    target = nn.Module()
    target.unet = levels(3)
    assert take_what_fits(target, {}).lines()[1] == "not loaded: unet.blocks.0.* (2 tensors, not in the weights)"
