"""Ablations of GRSer: the nano model without one of its modules.

Every arm starts from the weights of `--start`, by default LAVT's modules of the packaged model, is
trained with several seeds on the same groups of the picture book, and is evaluated on held-out
groups. With `--start ""` the backbone starts from ImageNet weights and all else is random. The
length of the training is a number of steps, or the number that the full model makes in a time. An
arm with results is not trained again, and an interrupted one is resumed from its last checkpoint.

    python benchmarks/grser_ablations.py [--start output/lavt_nano_picturebook/model_final.pth]
        [--steps N | --minutes M] [--seeds 0 1] [--arms full ...]
    python benchmarks/grser_ablations.py --no-training [...]     available results
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
PACKAGED = "grser-nano-picturebook"
# Modules of the packaged model that arms differ in.
GROUP_MODULES = ("triphasic_head.", "rejection_head.")
LAVT = "LAVT alone"
WITHOUT_MIRROR = (f"{KEYS}.LOSS.MIRROR_WEIGHT", "0.0", f"{KEYS}.LOSS.HEATMAP_WEIGHT", "0.0")
ARMS = {
    LAVT: (f"{KEYS}.HEATMAPS", "none"),
    "without hierarchizer": (f"{KEYS}.HIERARCHIZER", "False"),
    "without mirror training": WITHOUT_MIRROR,
    "without negatives": (f"{KEYS}.TRAIN.NEGATIVES", "False"),
    "pooled": (f"{KEYS}.HEATMAPS", "pooled"),
    "language heatmaps": (f"{KEYS}.HEATMAPS", "language"),
    "positive ranks": (f"{KEYS}.RANKS", "positive"),
    "negative ranks": (f"{KEYS}.RANKS", "negative"),
    "without triplet loss": (f"{KEYS}.LOSS.TRIPLET_WEIGHT", "0.0"),
    "without anti-expression": (
        *(f"{KEYS}.TEXT.ANTI_PREFIX", "", f"{KEYS}.RANKS", "positive"),
        *(f"{KEYS}.LOSS.TRIPLET_WEIGHT", "0.0", *WITHOUT_MIRROR),
    ),
    "prefix not": (f"{KEYS}.TEXT.ANTI_PREFIX", "not"),
    "margin 1": (f"{KEYS}.LOSS.TRIPLET_MARGIN", "1.0"),
    "group size 4": (f"{KEYS}.GROUP_SIZE", "4"),
    "full": (),
}
METRICS = {
    "mIoU, positives": "mIoU-positive",
    "oIoU, positives": "oIoU-positive",
    "N-acc": "N-acc",
    "T-acc": "T-acc",
    "mIoU, all": "mIoU",
    "pointing, language": "pointing-language",
    "pointing, visual": "pointing-visual",
}
DATA, TASK = "picturebook_val_group", "group"


def train(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one arm in a separate process, unless it has results."""
    output = folder(arm, seed, options)
    if (output / "results.json").is_file():
        return
    print(f"{arm}, seed {seed}: {options.steps} steps", flush=True)
    _train_net(arm, seed, options.steps, output, options, "--resume")


def probe(output: Path, steps: int, options: argparse.Namespace) -> None:
    """Train the full model for some steps without evaluation."""
    _train_net("full", 0, steps, output, options, overrides=("DATASETS.TEST", "()"))


def folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Folder of an arm's checkpoints and results."""
    started = "-started" if options.start else ""
    started = "-packaged" if options.start == PACKAGED else started
    name = arm.lower().replace(" ", "_")
    return Path(options.output) / f"{name}-steps{options.steps}{started}-seed{seed}"


def table(options: argparse.Namespace) -> str:
    """Build the table of the available results; see `arms.table`."""
    return arms.table(
        options,
        f"{options.steps} steps",
        list(METRICS),
        lambda arm, seed: read(arm, seed, options),
    )


def read(arm: str, seed: int, options: argparse.Namespace) -> arms.Metrics | None:
    """Metrics of an arm, or None without results."""
    path = folder(arm, seed, options) / "results.json"
    if not path.is_file():
        return None
    results = json.loads(path.read_text())[DATA][TASK]
    return {name: results[metric] for name, metric in METRICS.items() if metric in results}


def _train_net(
    arm: str,
    seed: int,
    steps: int,
    output: Path,
    options: argparse.Namespace,
    *flags: str,
    overrides: tuple[str, ...] = (),
) -> None:
    command = [
        *(str(arms.ROOT / "train_net.py"), "--config-file", CONFIGURATION, *flags),
        *("OUTPUT_DIR", str(output), "SEED", str(seed), "DATASETS.TEST", f"('{DATA}',)"),
        *("SOLVER.MAX_ITER", str(steps), "PICTUREBOOK.TRAIN_GROUPS", str(options.train_groups)),
        *("DATASETS.TRAIN", "('picturebook_train_group',)", "DATALOADER.DATASET_RATIO", "()"),
        *("PICTUREBOOK.VAL_GROUPS", str(options.val_groups)),
        *(("MODEL.WEIGHTS", options.start) if options.start else ()),
        *(("MODEL.WEIGHTS_EXCLUDE", repr(GROUP_MODULES)) if options.start == PACKAGED else ()),
        *(() if arm == LAVT else (f"{KEYS}.TEST.HEATMAPS", "True")),
        *ARMS[arm],
        *overrides,
        *options.opts,
    ]
    arms.call(command, options.threads)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the docstring of this file."""
    parser = arms.parser(__doc__.splitlines()[0], ARMS, "output/grser_ablations")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=500)
    length.add_argument(
        "--minutes", type=float, help="duration of the training, instead of --steps"
    )
    parser.add_argument(
        "--start",
        default=PACKAGED,
        metavar="FILE",
        help=f'initial weights of all arms; default: LAVT of {PACKAGED}; "": ImageNet weights',
    )
    parser.add_argument("--train-groups", type=int, default=400)
    parser.add_argument("--val-groups", type=int, default=60)
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("an arm needs at least one step")
    return options


def run(options: argparse.Namespace) -> None:
    """Train and evaluate the arms that have no results yet."""
    if options.minutes:
        options.steps = arms.steps_in(
            options.minutes, options.output, lambda folder, steps: probe(folder, steps, options)
        )
    if options.no_training:
        return
    for seed in options.seeds:
        for arm in options.arms:
            train(arm, seed, options)


def main() -> None:
    """Read the command line, train the missing arms, print the table."""
    options = parse()
    run(options)
    print(table(options))


if __name__ == "__main__":
    main()
