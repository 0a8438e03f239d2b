"""Servers on loopback for the tests: MONAI Label and Orthanc, each stopped by its own process id."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from monailabel.client import MONAILabelClient

ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], log: Path, ready: str, patience: int, **environment: str) -> Iterator[None]:
    """Run a server until the block ends; ``ready`` is an address that answers once it is up."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + patience
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
            with contextlib.suppress(requests.RequestException):
                if requests.get(ready, timeout=5).ok:
                    break
            time.sleep(0.5)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@contextlib.contextmanager
def monai_label(app: Path, studies: str | Path, scratch: Path, **environment: str) -> Iterator[MONAILabelClient]:
    """Run MONAI Label as docs/monai_label.md starts it; yield MONAI Label's own client."""
    scratch.mkdir(parents=True, exist_ok=True)
    port = free_port()
    tools = str(Path(sys.executable).parent)
    command = [f"{tools}/monailabel", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    path = f"{tools}:{os.environ['PATH']}"  # an environment that is activated
    environment = {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **environment}
    address = f"http://127.0.0.1:{port}"
    with running(command, scratch / "server.log", f"{address}/info/", 180, **environment):
        yield MONAILabelClient(address, tmpdir=str(scratch))


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[str]:
    """Run an empty Orthanc with its DICOMweb plugin; yield its address."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or not ORTHANC_PLUGIN.is_file():
        pytest.fail("Orthanc or its DICOMweb plugin is missing; apt-get install orthanc orthanc-dicomweb")
    folder.mkdir(parents=True)
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(ORTHANC_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    address = f"http://127.0.0.1:{port}"
    with running([program, str(folder / "orthanc.json")], folder / "orthanc.log", f"{address}/system", 60):
        yield address
