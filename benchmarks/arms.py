"""Shared functions of the ablation programs: command line, subprocesses and results table.

An arm is a variant of a model without one of its modules. It is trained for the same number of
steps with every seed, in a separate process, and evaluated; an arm with results is not trained
again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROBE_STEPS = 16
Metrics = dict[str, float]


def parser(description: str, arms: Collection[str], output: str) -> argparse.ArgumentParser:
    """Build a parser with the options of all ablation programs.

    Args:
        description: one line for `--help`.
        arms: names of the arms.
        output: folder of checkpoints and results.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms), metavar="ARM")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default=output)
    parser.add_argument(
        "--no-training", action="store_true", help="only the table of the available results"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser


def call(command: Sequence[str], threads: int) -> None:
    """Run a Python program in the root of the repository.

    Args:
        command: arguments of the interpreter.
        threads: value of OMP_NUM_THREADS.

    Raises:
        subprocess.CalledProcessError: if the program fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=environment)


def steps_in(minutes: float, output: str | Path, probe: Callable[[Path, int], None]) -> int:
    """Compute the number of training steps in a duration, from a short run of the full model.

    Args:
        minutes: duration of the training.
        output: folder of checkpoints and results, where the number is cached.
        probe: trains the full model into a folder for a number of steps.
    """
    file = Path(output) / f"steps_in_{minutes:g}_minutes.json"
    if not file.is_file():
        folder = Path(output) / "probe"
        probe(folder, PROBE_STEPS)
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        seconds = next(line["time"] for line in reversed(lines) if "time" in line)
        steps = max(1, int(60 * minutes / seconds))
        file.write_text(json.dumps({"seconds_a_step": seconds, "steps": steps}))
    return json.loads(file.read_text())["steps"]


def table(
    options: argparse.Namespace,
    length: str,
    metrics: Sequence[str],
    read: Callable[[str, int], Metrics | None],
) -> str:
    """Build a Markdown table with a row for each arm: mean over seeds ± half their range.

    A single seed has no range.

    Args:
        options: with `arms` and `seeds`.
        length: length of the training, such as "500 steps".
        metrics: the columns.
        read: metrics of an arm and a seed; None without results.
    """
    rows = [
        f"{length} an arm, seeds {', '.join(map(str, options.seeds))}, percent",
        "",
        "| | " + " | ".join(metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    for arm in options.arms:
        results = [r for seed in options.seeds if (r := read(arm, seed)) is not None]
        cells = ["not trained yet"] + [""] * (len(metrics) - 1)
        if results:
            cells = [_cell([r[metric] for r in results if metric in r]) for metric in metrics]
        missing = f" ({len(results)} of {len(options.seeds)} seeds)"
        name = arm.replace("_", " ") + (missing if 0 < len(results) < len(options.seeds) else "")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(values: Sequence[float]) -> str:
    if not values:  # a metric that the arm does not have
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"
