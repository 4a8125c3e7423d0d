"""What the programs of ablations share: arms, seeds, and a table of what came out.

An arm is the model without one of its ideas. It is trained equally long with every seed, in a
process of its own, and judged; an arm that has its figures is not trained again.
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
Figures = dict[str, float]


def parser(about: str, arms: Collection[str], output: str) -> argparse.ArgumentParser:
    """A command line with the options that all have.

    Args:
        about: one line for `--help`.
        arms: their names.
        output: folder of checkpoints and figures.
    """
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    made.add_argument("--arms", nargs="+", choices=arms, default=list(arms), metavar="ARM")
    made.add_argument("--threads", type=int, default=os.cpu_count())
    made.add_argument("--output", default=output)
    made.add_argument("--table", action="store_true", help="train nothing")
    made.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return made


def call(command: Sequence[str], threads: int) -> None:
    """Run a program of this repository with this interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=environment)


def steps_in(minutes: float, output: str | Path, probe: Callable[[Path, int], None]) -> int:
    """How many steps of the full model fit, as a short run of it tells; asked once, then kept.

    Args:
        minutes: of training.
        output: folder of checkpoints and figures; what was found is kept there.
        probe: trains the full model into a folder for some steps.
    """
    kept = Path(output) / f"steps_in_{minutes:g}_minutes.json"
    if not kept.is_file():
        place = Path(output) / "probe"
        probe(place, PROBE_STEPS)
        lines = [json.loads(line) for line in (place / "metrics.json").read_text().splitlines()]
        seconds = next(line["time"] for line in reversed(lines) if "time" in line)
        steps = max(1, int(60 * minutes / seconds))
        kept.write_text(json.dumps({"seconds_a_step": seconds, "steps": steps}))
    return json.loads(kept.read_text())["steps"]


def table(
    options: argparse.Namespace,
    length: str,
    figures: Sequence[str],
    read: Callable[[str, int], Figures | None],
) -> str:
    """A row an arm in Markdown: means over seeds, and half the way from the worst to the best.

    Args:
        options: with `arms` and `seeds`.
        length: of an arm's training, in words.
        figures: the columns.
        read: figures by arm and seed; None where there are none yet.
    """
    rows = [
        f"{length} an arm, seeds {', '.join(map(str, options.seeds))}, percent",
        "",
        "| | " + " | ".join(figures) + " |",
        "|---" * (len(figures) + 1) + "|",
    ]
    for arm in options.arms:
        found = [one for seed in options.seeds if (one := read(arm, seed)) is not None]
        cells = ["not trained yet"] + [""] * (len(figures) - 1)
        if found:
            cells = [_cell([one[figure] for one in found]) for figure in figures]
        missing = f" ({len(found)} of {len(options.seeds)} seeds)"
        name = arm.replace("_", " ") + (missing if 0 < len(found) < len(options.seeds) else "")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"
