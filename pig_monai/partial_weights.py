"""Weights of one network as the start of another: what fits is taken, and what is not is told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

MOST_GROUPS = 4
"""Modules that a report names before it counts the rest."""

_MODULE = re.compile(
    r"(?:unet\.)?[^.]+(?:\.\d+)?"
)  # unet.down_blocks.2 of unet.down_blocks.2.resnets.0.conv1.weight


@dataclass(frozen=True)
class PartialWeights:
    """What a network has taken over.

    Args:
        tensors: how many fitted in name and shape.
        of_tensors: how many the network has.
        share: of the network's numbers that were taken, 0 to 1.
        left_out: why each of the others was not, by name; those that the weights alone have, too.
    """

    tensors: int
    of_tensors: int
    share: float
    left_out: Mapping[str, str]

    def lines(self) -> list[str]:
        """Say it in one line, or in two where something was left out."""
        lines = [f"loaded {self.tensors} of {self.of_tensors} tensors, {100 * self.share:.1f} % of the parameters"]
        groups = Counter((_module_of(name), why) for name, why in self.left_out.items())
        if groups:
            told = [f"{module} ({_tensors(n)}, {why})" for (module, why), n in groups.items()][:MOST_GROUPS]
            more = [f"and {len(groups) - MOST_GROUPS} more"] if len(groups) > MOST_GROUPS else []
            lines.append(f"not loaded: {', '.join(told + more)}")
        return lines


def take_what_fits(network: nn.Module, state_dict: Mapping[str, Tensor]) -> PartialWeights:
    """Load the tensors of ``state_dict`` whose name and shape ``network`` has; the others keep their values."""
    own = network.state_dict()
    fits = {n: value for n, value in state_dict.items() if n in own and own[n].shape == value.shape}
    network.load_state_dict(fits, strict=False)
    left_out = {n: "other shape" if n in state_dict else "not in the weights" for n in own if n not in fits}
    left_out |= dict.fromkeys((n for n in state_dict if n not in own), "not in this network")
    numbers = sum(value.numel() for value in own.values())
    return PartialWeights(len(fits), len(own), sum(v.numel() for v in fits.values()) / numbers, left_out)


def _module_of(name: str) -> str:
    found = _MODULE.match(name)
    return name if found is None or found[0] == name else f"{found[0]}.*"


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"
