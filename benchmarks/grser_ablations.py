"""What GRSer's ideas are worth: the nano model without one of them, trained equally long.

Every arm starts from the weights that `--start` names, LAVT's, or else from ImageNet's, is trained
with several seeds on the same groups of the picture book, and is judged on groups that no arm has
seen. "Equally long" is a number of steps, or as many as the full model can take in some minutes. An
arm that has its results is not trained again, and one that was interrupted goes on from its last
checkpoint.

    python benchmarks/grser_ablations.py --start output/lavt_nano_picturebook/model_final.pth
        [--steps N | --minutes M] [--seeds 0 1] [--arms full ...]
    python benchmarks/grser_ablations.py --table [...]     what is there so far
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks import arms

CONFIGURATION = "projects/GRSer/configs/grser_nano_picturebook.yaml"
KEYS = "MODEL.GRSER"
ARMS = {
    "LAVT alone": (f"{KEYS}.HEATMAPS", "none"),
    "without hierarchizer": (f"{KEYS}.HIERARCHIZER", "False"),
    "without mirror training": (f"{KEYS}.LOSS.MIRROR_WEIGHT", "0.0"),
    "without negatives": (f"{KEYS}.TRAIN.NEGATIVES", "False"),
    "pooled": (f"{KEYS}.HEATMAPS", "pooled"),
    "full": (),
}
FIGURES = {
    "mIoU, positives": "mIoU-positive",
    "oIoU, positives": "oIoU-positive",
    "N-acc": "N-acc",
    "T-acc": "T-acc",
    "mIoU, all": "mIoU",
}
DATA, TASK = "picturebook_val_group", "group"


def train(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one arm in a process of its own, unless its results are there."""
    output = folder(arm, seed, options)
    if (output / "results.json").is_file():
        return
    print(f"{arm}, seed {seed}: {options.steps} steps", flush=True)
    _train_net(arm, seed, options.steps, output, options, "--resume")


def probe(output: Path, steps: int, options: argparse.Namespace) -> None:
    """Train the full model for some steps, without judging it."""
    _train_net("full", 0, steps, output, options, more=("DATASETS.TEST", "()"))


def folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Where an arm's checkpoints and results lie."""
    started = "-started" if options.start else ""
    word = arm.lower().replace(" ", "_")
    return Path(options.output) / f"{word}-steps{options.steps}{started}-seed{seed}"


def table(options: argparse.Namespace) -> str:
    """What is there so far; see `arms.table`."""
    figures = list(FIGURES)
    return arms.table(options, f"{options.steps} steps", figures, lambda *of: read(*of, options))


def read(arm: str, seed: int, options: argparse.Namespace) -> arms.Figures | None:
    """What came out of an arm, or None."""
    path = folder(arm, seed, options) / "results.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text())[TASK]
    return {name: found[figure] for name, figure in FIGURES.items()}


def _train_net(
    arm: str,
    seed: int,
    steps: int,
    output: Path,
    options: argparse.Namespace,
    *flags: str,
    more: tuple[str, ...] = (),
) -> None:
    command = [
        *(str(arms.ROOT / "train_net.py"), "--config-file", CONFIGURATION, *flags),
        *("OUTPUT_DIR", str(output), "SEED", str(seed), "DATASETS.TEST", f"('{DATA}',)"),
        *("SOLVER.MAX_ITER", str(steps), "PICTUREBOOK.TRAIN_GROUPS", str(options.train_groups)),
        *("DATASETS.TRAIN", "('picturebook_train_group',)", "DATALOADER.DATASET_RATIO", "()"),
        *("PICTUREBOOK.VAL_GROUPS", str(options.val_groups)),
        *(("MODEL.WEIGHTS", options.start) if options.start else ()),
        *ARMS[arm],
        *more,
        *options.opts,
    ]
    arms.call(command, options.threads)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the top of this file."""
    parser = arms.parser(__doc__.splitlines()[0], ARMS, "output/grser_ablations")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=500)
    length.add_argument("--minutes", type=float, help="of training an arm, instead of --steps")
    parser.add_argument("--start", default="", metavar="FILE", help="weights that arms start from")
    parser.add_argument("--train-groups", type=int, default=400)
    parser.add_argument("--val-groups", type=int, default=60)
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("an arm needs at least one step")
    return options


def main() -> None:
    """Read the command line, train what is missing, print the table."""
    options = parse()
    if options.minutes:
        options.steps = arms.steps_in(
            options.minutes, options.output, lambda place, steps: probe(place, steps, options)
        )
    if not options.table:
        for seed in options.seeds:
            for arm in options.arms:
                train(arm, seed, options)
    print(table(options))


if __name__ == "__main__":
    main()
