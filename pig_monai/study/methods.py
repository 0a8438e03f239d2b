"""The methods that are compared, and which trainings each of them takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pig_monai.errors import PigError


class Masks(Enum):
    """Where a method's masks come from."""

    NONE = "none"
    """Slices alone."""
    GIVEN = "of the training set"
    """Those of the training slices, in an order drawn by the seed."""
    MADE = "generated"
    """With the slice, or before it."""


@dataclass(frozen=True)
class Method:
    """A way to make slices; ``configs/presets/methods/<name>.yaml`` has the ids that make it what it is.

    Args:
        name: as the tables have it.
        masks: where they come from.
        about: what it is, in a sentence.
        guided: a guider makes the masks; otherwise the generator does, or nobody.
        latent: works on an autoencoder's latents.
        branched: the generator is a branch on an unconditional net that is trained first.
    """

    name: str
    masks: Masks
    about: str
    guided: bool = False
    latent: bool = False
    branched: bool = False


_ALL = (
    Method("DDPM", Masks.NONE, "Slices alone, from noise in all steps of the training."),
    Method("DDIM", Masks.NONE, "DDPM's network, in 256 steps."),
    Method("LDM", Masks.GIVEN, "Mask and the slice's latents side by side.", latent=True),
    Method("SegGuidedDif", Masks.GIVEN, "Mask and slice side by side."),
    Method("ControlNet", Masks.GIVEN, "DDPM's network, and a branch that shows it the mask.", branched=True),
    Method(
        "MAISI",
        Masks.GIVEN,
        "A rectified flow on latents, and a branch that shows it the mask.",
        latent=True,
        branched=True,
    ),
    Method(
        "PIG",
        Masks.MADE,
        "The paper's: guider and generator make mask and slice in lockstep.",
        guided=True,
    ),
    Method(
        "PIG-MAISI",
        Masks.MADE,
        "PIG with MAISI's network as generator.",
        guided=True,
        latent=True,
        branched=True,
    ),
    Method("joint", Masks.MADE, "One network makes mask and slice as two channels of one image."),
    Method(
        "two-step", Masks.MADE, "A network makes the whole mask, and SegGuidedDif's then the slice.", guided=True
    ),
)
PIG = "PIG"
"""The paper's own, which the others are compared with."""

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
"""By name, in the order of the tables."""


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        PigError: there is none of that name.
    """
    if name not in METHODS:
        raise PigError(f"methods: {name!r} is no method", f"known are {', '.join(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True)
class Training:
    """A network to be trained; methods that need the same one share it.

    Args:
        role: ``autoencoder``, ``guider`` or ``generator``: of ``train_<role>.yaml`` and ``model_<role>.pt``.
        ids: by which it differs from the study's presets, by name.
        latent: works on the autoencoder's latents.
        needs: by id (``guider_ckpt``, …), the networks that it starts from.
    """

    role: str
    ids: tuple[tuple[str, Any], ...] = ()
    latent: bool = False
    needs: tuple[tuple[str, Training], ...] = ()

    @property
    def name(self) -> str:
        """What tells it from the others, as a folder's name: ``generator-condition-guider``."""
        differing = [
            str(value) if name == self.role else f"{name}-{str(value).lower()}" for name, value in self.ids
        ]
        on_a_base = ["on-base"] if "base_ckpt" in dict(self.needs) else []
        return "-".join(["latent"] * self.latent + [self.role, *differing, *on_a_base])

    def with_needed(self) -> Iterator[Training]:
        """Yield the trainings that it needs, in an order that works, and itself."""
        for _, training in self.needs:
            yield from training.with_needed()
        yield self


@dataclass(frozen=True)
class Trainings:
    """What a method samples with.

    Args:
        generator: model_y.
        guider: model_x; None for none.
    """

    generator: Training
    guider: Training | None

    def all(self) -> list[Training]:
        """Return every training that is needed, each once, in an order that works."""
        found = [] if self.guider is None else list(self.guider.with_needed())
        return list(dict.fromkeys([*found, *self.generator.with_needed()]))

    def networks(self) -> list[Training]:
        """Return those whose networks make a slice: all but the base, which is inside the generator."""
        used = (self.generator, self.guider)
        return [training for training in self.all() if training.role == "autoencoder" or training in used]


def trainings_of(method: Method, preset: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> Trainings:
    """Return the trainings of a method.

    Args:
        method: which.
        preset: the ids of its preset.
        known: by role, the ids that ``train_<role>.yaml`` has, with the values that the study gives them.
    """

    def differing(role: str, **changed: Any) -> tuple[tuple[str, Any], ...]:
        given = {**preset, **changed}
        return tuple(
            (name, given[name])
            for name in sorted(given)
            if name in known[role] and given[name] != known[role][name]
        )

    space: tuple[tuple[str, Training], ...] = (
        (("autoencoder_ckpt", Training("autoencoder")),) if method.latent else ()
    )
    guider = Training("guider", differing("guider"), method.latent, space) if method.guided else None
    needs = space
    if method.branched:
        base = Training("generator", differing("generator", condition="none"), method.latent, space)
        needs += (("base_ckpt", base),)
    if guider is not None and preset.get("condition") == "guider":
        needs += (("guider_ckpt", guider),)
    return Trainings(Training("generator", differing("generator"), method.latent, needs), guider)
