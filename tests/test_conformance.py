"""What the Model Zoo's checks ask of a bundle, by MONAI's commands, offline; exports that compute the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from tests.conftest import ROOT

BUNDLE = ROOT / "bundles/pig_dbt"
META = BUNDLE / "configs/metadata.json"
SCHEMA = "schema/meta_schema_20240725.json"
NET = [
    "--net_id",
    "network_def",
    "--config_file",
    "configs/inference.yaml",
    "--meta_file",
    "configs/metadata.json",
]


def monai_bundle(*arguments: str, cwd: Path = BUNDLE) -> subprocess.CompletedProcess[str]:
    """Run a command of ``python -m monai.bundle`` from the bundle's root, as the zoo does."""
    command = [sys.executable, "-m", "monai.bundle", *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_the_metadata_fits_the_zoos_schema(tmp_path):
    schema = Path(os.environ.get("PIG_TEST_DATA", "")) / SCHEMA
    if not schema.is_file():
        pytest.skip(f"needs the zoo's schema: set PIG_TEST_DATA to a folder with {SCHEMA}")
    shutil.copy(schema, tmp_path / "schema.json")  # what is there is not fetched
    monai_bundle("verify_metadata", "--meta_file", str(META), "--filepath", str(tmp_path / "schema.json"))
    broken = json.loads(META.read_text())
    del broken["network_data_format"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(AssertionError):
        monai_bundle(
            "verify_metadata",
            "--meta_file",
            str(tmp_path / "broken.json"),
            "--filepath",
            str(tmp_path / "schema.json"),
        )


def test_the_metadata_is_true():
    meta = json.loads(META.read_text())
    required = (ROOT / "requirements.txt").read_text()
    for name, version in meta["required_packages_version"].items():
        assert name == "pig-monai" or f"{name}=={version}" in required
    for key, package in (("monai_version", "monai"), ("pytorch_version", "torch"), ("numpy_version", "numpy")):
        assert f"{package}=={meta[key]}" in required
    assert next(iter(meta["changelog"])) == meta["version"]
    (name, image), *others = meta["network_data_format"]["inputs"].items()
    (_, pred) = next(iter(meta["network_data_format"]["outputs"].items()))
    unet = yaml.safe_load((BUNDLE / "configs/train.yaml").read_text())["unet"]
    assert (name, others) == ("image", [])
    assert (image["num_channels"], pred["num_channels"]) == (unet["in_channels"], unet["out_channels"])
    assert pred["channel_def"] == {"0": "background", "1": "mass"}
    for path in (
        "LICENSE",
        "docs/README.md",
        "docs/data_license.txt",
        "models/model.pt",
        "configs/inference.yaml",
    ):
        assert (BUNDLE / path).is_file()
    weights = [path.stat().st_size for path in (BUNDLE / "models").glob("*.pt")]
    assert sum(weights) <= 25e6
    assert min((BUNDLE / "models").glob("*.pt"), key=lambda path: len(path.name)).name == "model.pt"


def test_the_network_takes_and_gives_what_the_metadata_says():
    monai_bundle("verify_net_in_out", *NET, "--device", "cpu")


@pytest.fixture(scope="module")
def eager() -> tuple[torch.nn.Module, torch.Tensor]:
    """The bundle's own weights and a slice of noise."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs/inference.yaml")
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(BUNDLE / "models/model.pt", weights_only=True))
    image = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 1, 64, 96)).astype(np.float32))
    return network, image


def agree(one: Sequence[float], other: Sequence[float]) -> None:
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.abs(np.asarray(one)).max() > 0.1


def test_torchscript_computes_the_same(eager, tmp_path):
    monai_bundle("ckpt_export", *NET, "--ckpt_file", "models/model.pt", "--filepath", str(tmp_path / "model.ts"))
    network, image = eager
    with torch.no_grad():
        agree(torch.jit.load(tmp_path / "model.ts")(image).numpy(), network(image).numpy())


def test_onnx_computes_the_same(eager, tmp_path):
    network, image = eager
    shape = ["--input_shape", str(list(image.shape))]
    monai_bundle(
        "onnx_export", *NET, *shape, "--ckpt_file", "models/model.pt", "--filepath", str(tmp_path / "model.onnx")
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    with torch.no_grad():
        agree(found, network(image).numpy())
