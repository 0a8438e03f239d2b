"""Whom a training saw, said so that weights and pairs which are passed on name nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

DIGITS = 16


def digest(patient: object) -> str:
    """Return 16 hex digits that stand for a patient's id: of SHA-256, so that every dataset gives the same."""
    return hashlib.sha256(str(patient).encode()).hexdigest()[:DIGITS]


def seen_patients(
    entries: Iterable[Mapping[str, Any]], generators: Mapping[str, Mapping[str, Any]]
) -> list[str] | None:
    """Return the digests of the patients behind the entries of a training, sorted.

    Behind a generated entry are those whom its generator saw.

    Args:
        entries: trained on.
        generators: of the generated ones among them: ``generators`` of their datalist.

    Returns:
        None where a generated entry does not say who is behind it.
    """
    seen: set[str] = set()
    for entry in entries:
        if entry.get("origin") != "synthetic":
            seen.add(digest(entry["patient"]))
            continue
        generator = generators.get(entry.get("provenance", {}).get("generator_sha256"), {})
        if generator.get("patients") is None:
            return None
        seen.update(generator["patients"])
    return sorted(seen)
