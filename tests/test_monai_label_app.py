"""The folder that MONAI Label starts: laid out whole, or refused with a reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pig_monai.errors import PigError
from pig_monai.files import sha256
from pig_monai.monai_label_app import BUNDLE, monai_label_app


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A segmenter's two files, as a training leaves them."""
    path = tmp_path / "run/model.pt"
    path.parent.mkdir()
    torch.save({"weight": torch.zeros(1)}, path)
    meta = {"role": "segmenter", "network": {}, "image_size": 64, "fold": 0, "patients": []}
    meta |= {"weights_sha256": sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(meta))
    return path


def guiders(file: Path) -> None:
    described = file.with_suffix(".json")
    described.write_text(described.read_text().replace('"segmenter"', '"guider"'))


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_the_command_lays_out_the_app_and_says_how_to_start_it(weights, tmp_path):
    app = tmp_path / "an app"
    command = [sys.executable, "-m", "pig_monai.monai_label_app", "--app", str(app), "--weights", str(weights)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=BUNDLE.parents[1], check=True)
    assert f"monailabel start_server --app '{app}' --host 127.0.0.1 --studies" in result.stdout
    # the segmenter's weights alone: any other *.pt would be offered as weights of its network
    assert files(app) == {"main.py", "dicom_seg.py"} | {
        f"model/pig_dbt/{name}"
        for name in (
            "LICENSE",
            "configs/inference.yaml",
            "configs/metadata.json",
            "configs/train.yaml",
            "docs/README.md",
            "models/model.json",
            "models/model.pt",
        )
    }
    for name in ("configs/train.yaml", "configs/inference.yaml", "configs/metadata.json"):
        assert (app / "model/pig_dbt" / name).read_bytes() == (BUNDLE / name).read_bytes()
    assert (app / "model/pig_dbt/models/model.pt").read_bytes() == weights.read_bytes()


def test_an_app_that_is_there_stays_as_it_is(weights, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/main.py").write_text("mine")
    with pytest.raises(PigError, match="is there already"):
        monai_label_app(app=str(tmp_path / "app"), weights=str(weights))
    assert files(tmp_path / "app") == {"main.py"}
    assert (tmp_path / "app/main.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "model.pt does not exist"),
        (lambda file: file.with_suffix(".json").unlink(), "has no model.json beside it"),
        (lambda file: file.write_bytes(b"others"), "and .*model.json describes"),
        (guiders, "holds a guider"),
    ],
)
def test_weights_that_are_no_segmenters_are_refused_before_anything_is_written(spoil, message, weights, tmp_path):
    spoil(weights)
    with pytest.raises(PigError, match=message):
        monai_label_app(app=str(tmp_path / "app"), weights=str(weights))
    assert not (tmp_path / "app").exists()


def test_a_folder_that_is_no_bundle_is_refused(weights, tmp_path):
    shutil.copytree(BUNDLE / "configs", tmp_path / "bundle/configs")
    with pytest.raises(PigError, match="--bundle"):
        monai_label_app(app=str(tmp_path / "app"), weights=str(weights), bundle=str(tmp_path / "bundle"))


def test_the_metadata_says_of_the_segmenter_what_the_configs_say():
    metadata = json.loads((BUNDLE / "configs/metadata.json").read_text())
    network = yaml.safe_load((BUNDLE / "configs/train.yaml").read_text())["unet"]
    options = yaml.safe_load((BUNDLE / "configs/train.yaml").read_text())["displayable_configs"]
    (image,) = metadata["network_data_format"]["inputs"].values()
    (pred,) = metadata["network_data_format"]["outputs"].values()
    # MONAI Label takes the first input and the first output, the labels and the number of dimensions from here
    assert image["num_channels"] == network["in_channels"]
    assert pred["num_channels"] == network["out_channels"]
    assert pred["channel_def"] == {"0": "background", "1": "mass"}
    assert image["spatial_shape"] == pred["spatial_shape"] == [options["image_size"]] * network["spatial_dims"]
    assert metadata["version"] in metadata["changelog"]


def test_what_monai_labels_clients_may_change_reaches_the_ids_that_count():
    for name, options in (
        ("train.yaml", {"pairs_dir", "max_pairs", "image_size", "batch_size", "learning_rate"}),
        ("inference.yaml", {"threshold"}),
    ):
        config = yaml.safe_load((BUNDLE / "configs" / name).read_text())
        assert set(config["displayable_configs"]) == options
        assert all(f"@displayable_configs#{option}" in config[option] for option in options)
