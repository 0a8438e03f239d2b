"""Broken files never crash, hang, or make the reader allocate what they merely claim."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom import uid
from pydicom.data.data_manager import DATA_ROOT
from pydicom.encaps import encapsulate

from tests.data import gdcm_files
from tests.data.dbt_objects import build, item, pixels, save

ROOT = Path(__file__).parents[2]
MUTATED = 2400

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limits need Linux")


def read_all(paths: list[Path], count: int) -> list[tuple[dict, dict]]:
    """Read files and mutations in a process of their own; return what was read and how it ended."""
    command = [sys.executable, "-m", "tests.data.fuzz_dicom", "1", str(count)]
    listed = "\n".join(map(str, paths))
    done = subprocess.run(command, cwd=ROOT, input=listed, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-3000:])
    decoder = json.JSONDecoder()
    results = []
    for line in lines:
        told, end = decoder.raw_decode(line)
        results.append((told, json.loads(line[end:])))
    assert len(results) == len(paths) + count
    assert not [result for result in results if "MemoryError" in str(result[1])]
    return results


def small_files(folder: Path) -> list[Path]:
    """One valid file for each way of writing pixels."""
    stored = pixels(rows=40, columns=32)
    paths = []
    for syntax in (
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEG2000Lossless,
        uid.JPEGLSLossless,
        uid.RLELossless,
    ):
        ds = build(stored, WindowCenter=900, WindowWidth=400, VOILUTFunction="SIGMOID", PixelPaddingValue=0)
        if syntax.is_compressed and not syntax.is_deflated:
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
        paths.append(save(ds, folder / f"{syntax.keyword}.dcm"))
    paths.append(save(build(stored), folder / "JPEGLossless.dcm"))
    gdcm_files.compress(paths[-1], "JPEGLosslessProcess14_1")
    jp2 = build(stored)
    jp2.file_meta.TransferSyntaxUID = uid.JPEG2000
    streams = [encode_array(frame, bits_stored=12, codec_format=1) for frame in stored]
    jp2.PixelData = encapsulate(streams, fragments_per_frame=2)
    jp2["PixelData"].VR, jp2["PixelData"].is_undefined_length = "OB", True
    paths.append(save(jp2, folder / "JP2.dcm"))
    table = item(LUTDescriptor=[256, 500, 8], LUTData=list(range(256)))
    table["LUTData"].VR = "US"
    mammogram = build(stored[:1], SOPClassUID=uid.DigitalMammographyXRayImageStorageForPresentation)
    del mammogram.NumberOfFrames, mammogram.SharedFunctionalGroupsSequence
    del mammogram.PerFrameFunctionalGroupsSequence
    mammogram.VOILUTSequence = [table]
    paths.append(save(mammogram, folder / "mammogram.dcm"))
    return paths


def test_mutations_of_small_files_end_well(tmp_path: Path) -> None:
    paths = small_files(tmp_path)
    results = read_all(paths, MUTATED)
    assert all("read" in result for _, result in results[: len(paths)])
    ended = Counter("read" in result for _, result in results[len(paths) :])
    assert ended[True] > MUTATED / 20  # harmless mutations are read, so that the decoders are tried as well
    assert ended[False] > MUTATED / 5
    assert len({result["reason"] for _, result in results if "reason" in result}) > 20


def test_pydicom_s_own_files_end_well() -> None:
    """Of many kinds and makers; those that are no breast volumes must say so."""
    paths = sorted(path for path in Path(DATA_ROOT, "test_files").rglob("*") if path.is_file())
    assert len(paths) > 80
    results = read_all(paths, 0)
    assert np.mean(["reason" in result for _, result in results]) > 0.5
