"""What HIPIE's ideas are worth: the nano model without one of them, trained alike.

Every arm starts from ImageNet's weights and trains for the same number of steps on the same pages;
each is trained with several seeds, whose spread is printed. An arm that has its results is not
trained again, and one that was interrupted goes on from its last checkpoint.

    python benchmarks/ablations.py [--steps N] [--seeds 0 1] [--arms full no_fusion ...]
    python benchmarks/ablations.py --table     what is there so far
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGURATION = "configs/nano/hipie_nano_picturebook.yaml"
ARMS = {
    "full": (),
    "no_fusion": ("MODEL.HIPIE.THINGS.EARLY_FUSION", "False"),
    "one_decoder": ("MODEL.HIPIE.STUFF.OWN_DECODER", "False"),
    "no_denoising": (
        *("MODEL.HIPIE.THINGS.DENOISING_QUERIES", "0"),
        *("MODEL.HIPIE.STUFF.DENOISING_QUERIES", "0"),
    ),
}
FIGURES = {
    "PQ": ("panoptic_seg", "PQ"),
    "mask AP": ("segm", "AP"),
    "mIoU": ("sem_seg", "mIoU"),
    "parts mIoU": ("parts", "mIoU"),
    "referring oIoU": ("refer", "oIoU"),
}


def train(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one arm in a process of its own, unless its results are there."""
    output = folder(arm, seed, options)
    if (output / "results.json").is_file():
        return
    decay = int(options.steps * 0.8)
    command = [
        *(sys.executable, str(ROOT / "train_net.py"), "--config-file", CONFIGURATION, "--resume"),
        *("OUTPUT_DIR", str(output), "SEED", str(seed)),
        *("SOLVER.MAX_ITER", str(options.steps), "SOLVER.STEPS", f"({decay},)"),
        *("PICTUREBOOK.TRAIN_PAGES", str(options.train_pages)),
        *("PICTUREBOOK.VAL_PAGES", str(options.val_pages)),
        *("PICTUREBOOK.ROOT", options.pages),
        *ARMS[arm],
    ]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **threads})


def folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Where an arm's checkpoints and results lie."""
    return Path(options.output) / f"{arm}-steps{options.steps}-seed{seed}"


def table(options: argparse.Namespace) -> None:
    """Means over seeds, and half the distance between the best and the worst."""
    print(f"{options.steps} steps, seeds {', '.join(map(str, options.seeds))}")
    print(f"{'':>14}" + "".join(f"{name:>18}" for name in FIGURES))
    for arm in options.arms:
        paths = [folder(arm, seed, options) / "results.json" for seed in options.seeds]
        found = [json.loads(path.read_text()) for path in paths if path.is_file()]
        if not found:
            print(f"{arm:>14}  not trained yet")
            continue
        cells = []
        for task, figure in FIGURES.values():
            values = [one[task][figure] for one in found]
            spread = (max(values) - min(values)) / 2
            cells.append(f"{statistics.mean(values):>10.1f} +- {spread:<4.1f}")
        print(f"{arm:>14}" + "".join(cells) + (f"  ({len(found)} seed)" if len(found) < 2 else ""))


def main() -> None:
    """Read the command line, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--train-pages", type=int, default=5000)
    parser.add_argument("--val-pages", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pages", default="", help="their own folder")
    parser.add_argument("--output", default="output/ablations")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    if not options.table:
        for seed in options.seeds:
            for arm in options.arms:
                train(arm, seed, options)
    table(options)


if __name__ == "__main__":
    main()
