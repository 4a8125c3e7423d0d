"""Time of a model on several threads with other programs on the cores, by OpenMP's wait policy.

    python benchmarks/wait_policy.py [--threads 2] [--busy 0 8] [--repeats 15] [--config NAME]

OpenMP's threads spin for a while at the end of a parallel loop before they sleep. That is fast on a
quiet machine; where other programs run, it takes their time and waits for threads that do not run.
`GOMP_SPINCOUNT` and `OMP_WAIT_POLICY` are read when PyTorch is loaded, so every policy is measured
in a process of its own: packaged weights, one page of noise of 256x320, medians of the wall time.
Policies take turns, and so do `--rounds` rounds. `--busy N` starts N processes that compute without
end; programs that run anyway count as well, and the load at the start is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
POLICIES: dict[str, dict[str, str]] = {
    "as it is": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
READ_ON_LOADING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
SPIN = "while True: pass"
MEASURE = """
import sys, time
import numpy as np, torch
from hipie import Segmenter
config, threads, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
segmenter = Segmenter.from_config(config, device="cpu")
image = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
for number in range(repeats + 2):
    start, cpu = time.perf_counter(), time.process_time()
    segmenter.segment(image, ["house", "car", "tree"], ["grass", "sky"])
    if number > 1:
        print(time.perf_counter() - start, time.process_time() - cpu)
"""


def measure(options: argparse.Namespace, threads: int, policy: str) -> list[tuple[float, float]]:
    """Wall and CPU seconds of every call in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in READ_ON_LOADING}
    environment |= {"PYTHONPATH": str(ROOT), **POLICIES[policy]}
    command = [sys.executable, "-c", MEASURE, options.config, str(threads), str(options.repeats)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [tuple(map(float, line.split())) for line in run.stdout.splitlines()]


def main() -> None:
    """Print a table row a number of busy processes, of threads, and policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--config", default="nano/hipie_nano_picturebook.yaml")
    options = parser.parse_args()
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n")
    print("| busy processes | threads | policy | ms | CPU ms |\n|---|---|---|---|---|")
    cases = [(1, "as it is"), *((options.threads, policy) for policy in POLICIES)]
    for busy in options.busy:
        spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(busy)]
        try:
            times: dict[tuple[int, str], list[tuple[float, float]]] = {case: [] for case in cases}
            for _ in range(options.rounds):
                for case in cases:
                    times[case] += measure(options, *case)
        finally:
            for process in spinning:
                process.kill()
        for (threads, policy), values in times.items():
            wall, cpu = (1000 * statistics.median(v) for v in zip(*values, strict=True))
            print(f"| {busy} | {threads} | {policy} | {wall:.0f} | {cpu:.0f} |", flush=True)


if __name__ == "__main__":
    main()
