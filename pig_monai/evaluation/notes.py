"""What a reader must know before believing the figures of an evaluation or a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping

FEW_PATIENTS = 10
"""Fewer with a lesion, and the bootstrap's intervals are too narrow."""


def notes(counted: Mapping[str, int], unknown_patients: bool = False) -> list[str]:
    """Return the notes that apply, each a sentence without its full stop.

    Args:
        counted: ``counts`` of summary.json; of several folds, their sums.
        unknown_patients: the slices are of no fold, so that only hashes tell whom the networks saw.
    """
    patients, phantoms = counted["patients_with_lesion"], counted["phantom_slices"]
    empty, boxes = counted["empty_predictions_on_lesions"], counted["labelled_by_boxes"]
    no_spacing = counted["slices_without_spacing"]
    candidates = [
        (
            counted["networks_of_untraced_pairs"],
            "the weights do not say whom their pairs' generator saw: it may have seen these patients",
        ),
        (
            unknown_patients,
            "patients are told apart by their hashes: those of data prepared with another key, whom the "
            "networks may have seen, cannot be recognised",
        ),
        (
            patients < FEW_PATIENTS,
            f"{patients} patients with a lesion are too few for intervals to be trusted",
        ),
        (phantoms, f"{phantoms} slices are of a phantom, drawn anatomy: they say nothing about real breasts"),
        (empty, f"on {empty} slices with a lesion nothing was predicted"),
        (boxes, f"{boxes} slices are labelled by ellipses in boxes, not by contours"),
        (no_spacing, f"{no_spacing} slices have no spacing: their HD95 is in pixels only"),
    ]
    return [note for applies, note in candidates if applies]
