"""benchmarks/gpu.py on the CPU, gpu.sh, and benchmarks/peers.py with its smallest model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lines(program: str, *arguments: str) -> list[list[str]]:
    """The rows of the table that a program prints, without its head."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{program}.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_operator_on_the_cpu() -> None:
    rows = lines("gpu", "operator", "--device", "cpu", "--repeats", "1", "--shapes", "toy")
    assert [row[1:3] for row in rows] == [
        [dtype, operator]
        for dtype in ("float32", "float16", "bfloat16")
        for operator in ("hipie", "grid_sample")
    ]
    assert all(float(row[-1]) < 0.05 for row in rows)  # differences from the exact output
    assert all(min(float(row[3]), float(row[4])) > 0 for row in rows)  # forward, and both


def test_every_part_of_the_script_is_a_program_of_this_project() -> None:
    script = ROOT / "benchmarks/gpu.sh"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
    for part in ("operator", "training", "models"):
        assert f"benchmarks/gpu.py {part}" in script.read_text()


def test_one_of_the_peers() -> None:
    options = ("--models", "detectron2-mask-rcnn-r50", "--size", "96x128", "--threads", "1")
    (row,) = lines("peers", *options, "--repeats", "2")
    assert row[:2] == ["detectron2-mask-rcnn-r50", "float32"]
    assert float(row[3]) == 1.0 and float(row[4].replace(",", "")) > 100
