from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pig_monai.data import transforms as t
from pig_monai.data.folder import write_label, write_slice


def test_load_slices_reads_what_was_written(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (64, 64))
    mask = np.zeros((64, 64), bool)
    mask[10:20, 40:44] = True
    write_slice(tmp_path / "image.nii.gz", image, (0.1, 0.1))
    write_label(tmp_path / "label.nii.gz", mask, (0.1, 0.1))
    entry = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz"), "fold": 0}
    whole = t.load_slices(64)(entry)
    assert type(whole["image"]) is torch.Tensor
    assert whole["image"].dtype == whole["label"].dtype == torch.float32
    np.testing.assert_allclose(whole["image"][0], image, atol=2e-5)
    np.testing.assert_array_equal(whole["label"][0], mask)
    half = t.load_slices(32)(entry)
    np.testing.assert_allclose(half["image"][0], image.reshape(32, 2, 32, 2).mean((1, 3)), atol=2e-5)
    np.testing.assert_array_equal(half["label"][0], mask[::2, ::2])
    assert set(half) == {"image", "label"}
    assert set(t.load_slices(32)({"image": entry["image"]})) == {"image"}


def test_slices_and_masks_of_any_shape_become_squares() -> None:
    image = torch.rand(1, 30, 40) * 2 - 1
    label = (torch.rand(1, 30, 40) > 0.5).float()
    done = t.FitToSized(("image", "label"), 40)({"image": image, "label": label})
    for key, given, outside in (("image", image, -1), ("label", label, 0)):
        assert torch.equal(done[key][:, :30], given)
        assert (done[key][:, 30:] == outside).all()
