"""Addresses of Ray clusters that do not answer, and the file that starts one.

No test before these may start a cluster: `auto` would find it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml

if find_spec("ray") is None:
    pytest.skip('needs Ray Data: make ray, or pip install "hipie[ray]"', allow_module_level=True)

# Processes of a busy machine take long to start.
pytestmark = pytest.mark.timeout(1800)


def test_the_cluster_file_is_one_of_ray():
    """By Ray's own schema, as `ray up` checks it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    file = Path(__file__).parents[2] / "cluster/ray.yaml"
    config = prepare_config(yaml.safe_load(file.read_text()))
    validate_config(config)
    with pytest.raises(Exception, match="max_worker"):
        validate_config(config | {"max_worker": 8})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:2", "auto", "silent"])
def test_an_address_without_a_cluster_is_named_within_30_seconds(address, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address == "auto" and any("gcs_server" in one.name() for one in psutil.process_iter()):
        pytest.skip("a Ray cluster runs on this machine")
    program = (
        "import sys, time\n"
        "start = time.monotonic()\n"
        "import ray, ray.data\n"
        "from hipie.distributed import connected\n"
        "imported = time.monotonic()\n"
        "try:\n"
        "    connected(sys.argv[1]).__enter__()\n"
        "except OSError as error:\n"
        "    print(imported - start, time.monotonic() - imported)\n"
        "    print(type(error).__name__, error)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        cause = ""
        if address == "silent":
            address, cause = f"127.0.0.1:{server.getsockname()[1]}", "no answer in 25 seconds)\n"
        done = subprocess.run(
            [sys.executable, "-c", program, address], capture_output=True, text=True, check=True
        )
    times, message = done.stdout.splitlines(keepends=True)
    assert message.startswith(f"MachineError no Ray cluster answers at {address} (")
    assert message.endswith(cause)
    importing, answering = map(float, times.split())
    # A process that tries the address imports Ray, too; a closed port is known before.
    is_closed = address.endswith(("127.0.0.1:1", "127.0.0.1:2"))
    assert answering < 30 + (0 if is_closed else 2 * importing)
