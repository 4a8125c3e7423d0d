"""Time from the start of a process to an import, a model, and a first result.

    python benchmarks/start_up.py [--repeats 5]

Every row is a process of its own, in turns; files have been read once before. Seconds are medians
of the wall time and of the CPU time, and the ratio is that of the CPU times to `import torch`.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHOTOGRAPH = ROOT / "hipie/examples/photographs/dog.jpg"
BUILD = "from hipie import Segmenter; s = Segmenter.from_pretrained('hipie-nano-photos', 'cpu')"
MAIN = "from hipie.cli.main import main; main("


def programs(folder: str) -> dict[str, str]:
    """Python programs by what they do."""
    segment = f"['segment', {str(PHOTOGRAPH)!r}, '--things', 'dog', '--output', {folder!r}]"
    call = f"s.segment({str(PHOTOGRAPH)!r}, ['dog'], ['grass'])"
    return {
        "python": "pass",
        "import torch": "import torch",
        "import hipie": "import hipie",
        "from hipie import Segmenter": "from hipie import Segmenter",
        "hipie --version": f"{MAIN}['--version'])",
        "hipie segment --help": f"{MAIN}['segment', '--help'])",
        "Segmenter.from_pretrained": BUILD,
        "the same, first image": f"{BUILD}; {call}",
        "the same, second image": f"{BUILD}; {call}; {call}",
        "hipie segment, one image": f"{MAIN}{segment})",
    }


def measure(program: str) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        measured = programs(folder)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in measured}
        for turn in range(repeats + 1):  # the first one reads the files
            for name, program in measured.items():
                result = measure(program)
                if turn:
                    times[name].append(result)
    torch_cpu = statistics.median(cpu for _, cpu in times["import torch"])
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n")
    print("| process | s | CPU s (lowest, highest) | times import torch |\n|---|---|---|---|")
    for name, values in times.items():
        wall, cpu = (sorted(column) for column in zip(*values, strict=True))
        middle = statistics.median(cpu)
        spread = f"{middle:.2f} ({cpu[0]:.2f}, {cpu[-1]:.2f})"
        ratio = middle / torch_cpu
        print(f"| {name} | {statistics.median(wall):.2f} | {spread} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
