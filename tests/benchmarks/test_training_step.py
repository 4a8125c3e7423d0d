"""The benchmark of a training step prints operators, waits and time of every task."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_task_is_measured(tiny_text):
    command = [
        *(sys.executable, "-W", "ignore", str(ROOT / "benchmarks/training_step.py")),
        *("--config", str(ROOT / "tests/tiny.yaml"), "--size", "64", "96", "--repeats", "1"),
        *("--where", "MODEL.HIPIE.TEXT.SOURCE", str(tiny_text)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| [\d.]+ \|$", done.stdout, re.MULTILINE)
    assert [task for task, _, _ in rows] == ["detection", "parts", "referring"]
    assert all(int(operators) > 1000 and 1 <= int(waits) <= 5 for _, operators, waits in rows)
    assert "device_transfer.py" in done.stdout
