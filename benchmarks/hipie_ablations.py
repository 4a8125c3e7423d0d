"""Ablations of HIPIE: the nano model without one of its modules.

Every arm starts from ImageNet weights and is trained for the same number of steps on the same pages
of the picture book, with several seeds. An arm with results is not trained again, and an
interrupted one is resumed from its last checkpoint.

    python benchmarks/hipie_ablations.py [--steps N] [--seeds 0 1] [--arms full no_fusion ...]
    python benchmarks/hipie_ablations.py --no-training     available results
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks import arms

CONFIGURATION = "configs/nano/hipie_nano_picturebook.yaml"
ARMS = {
    "full": (),
    "no_fusion": ("MODEL.HIPIE.THINGS.EARLY_FUSION", "False"),
    "one_decoder": ("MODEL.HIPIE.STUFF.ENABLED", "False"),
    "only_things": (
        *("DATASETS.TRAIN", "('picturebook_train_panoptic',)", "DATALOADER.DATASET_RATIO", "()"),
        *("DATALOADER.DATASET_BATCH_SIZE", "()"),
        *(
            part
            for key in ("CLASS", "BOX", "GIOU", "MASK", "DICE")
            for part in (f"MODEL.HIPIE.LOSS.STUFF_WEIGHTS.{key}", "0.0")
        ),
    ),
    "only_stuff": (
        *("DATASETS.TRAIN", "('picturebook_train_panoptic',)", "DATALOADER.DATASET_RATIO", "()"),
        *("DATALOADER.DATASET_BATCH_SIZE", "()", "MODEL.HIPIE.STUFF.SUPERVISE_THINGS", "False"),
        *(
            part
            for key in ("CLASS", "BOX", "GIOU", "IOU", "MASK", "DICE")
            for part in (f"MODEL.HIPIE.LOSS.THING_WEIGHTS.{key}", "0.0")
        ),
    ),
    "only_referring": (
        *("DATASETS.TRAIN", "('picturebook_train_refer',)", "DATALOADER.DATASET_RATIO", "()"),
        *("DATALOADER.DATASET_BATCH_SIZE", "()"),
    ),
    "only_parts": (
        *("DATASETS.TRAIN", "('picturebook_train_parts',)", "DATALOADER.DATASET_RATIO", "()"),
        *("DATALOADER.DATASET_BATCH_SIZE", "()"),
    ),
    "stuff_early_fusion": ("MODEL.HIPIE.STUFF.EARLY_FUSION", "True"),
    "stuff_plain_text": ("MODEL.HIPIE.STUFF.FUSED_TEXT", "False"),
    "stuff_without_box_loss": ("MODEL.HIPIE.STUFF.BOX_LOSS", "False"),
    "stuff_without_things": ("MODEL.HIPIE.STUFF.SUPERVISE_THINGS", "False"),
    "hungarian_things": ("MODEL.HIPIE.LOSS.THING_MATCHER", "HungarianMatcher"),
    "fusion_everywhere": ("MODEL.HIPIE.THINGS.FUSION_LAYERS", "(0, 1, 2)"),
    "dot_product_masks": ("MODEL.HIPIE.THINGS.MASK_HEAD", "dot_product"),
    "no_iou_head": (
        *("MODEL.HIPIE.THINGS.IOU_HEAD", "False"),
        *("MODEL.HIPIE.LOSS.SUPERVISE_LAST_IOU", "False"),
    ),
    "cross_entropy_masks": (
        "MODEL.HIPIE.LOSS.THING_TERMS",
        "('class_loss', 'box_l1_loss', 'giou_loss', 'iou_loss', 'mask_cross_entropy_loss', "
        "'mask_dice_loss')",
    ),
    "no_denoising": (
        *("MODEL.HIPIE.THINGS.DENOISING_QUERIES", "0"),
        *("MODEL.HIPIE.STUFF.DENOISING_QUERIES", "0"),
    ),
}
METRICS = {
    "PQ": ("picturebook_val_panoptic", "panoptic_seg", "PQ"),
    "mask AP": ("picturebook_val_panoptic", "segm", "AP"),
    "mIoU": ("picturebook_val_panoptic", "sem_seg", "mIoU"),
    "parts mIoU": ("picturebook_val_parts", "parts", "mIoU"),
    "referring oIoU": ("picturebook_val_refer", "refer", "oIoU"),
}


def train(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one arm in a separate process, unless it has results."""
    output = folder(arm, seed, options)
    if (output / "results.json").is_file():
        return
    decay = int(options.steps * 0.8)
    command = [
        *(str(arms.ROOT / "train_net.py"), "--config-file", CONFIGURATION, "--resume"),
        *("OUTPUT_DIR", str(output), "SEED", str(seed)),
        *("SOLVER.MAX_ITER", str(options.steps), "SOLVER.STEPS", f"({decay},)"),
        *("PICTUREBOOK.TRAIN_PAGES", str(options.train_pages)),
        *("PICTUREBOOK.VAL_PAGES", str(options.val_pages)),
        *("PICTUREBOOK.ROOT", options.pages),
        *ARMS[arm],
        *options.opts,
    ]
    arms.call(command, options.threads)


def folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Folder of an arm's checkpoints and results."""
    return Path(options.output) / f"{arm}-steps{options.steps}-seed{seed}"


def read(arm: str, seed: int, options: argparse.Namespace) -> arms.Metrics | None:
    """Metrics of an arm, or None without results."""
    path = folder(arm, seed, options) / "results.json"
    if not path.is_file():
        return None
    results = json.loads(path.read_text())
    return {
        name: results[dataset][task][metric] for name, (dataset, task, metric) in METRICS.items()
    }


def table(options: argparse.Namespace) -> str:
    """Build the table of the available results; see `arms.table`."""
    return arms.table(
        options,
        f"{options.steps} steps",
        list(METRICS),
        lambda arm, seed: read(arm, seed, options),
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the docstring of this file."""
    parser = arms.parser(__doc__.splitlines()[0], ARMS, "output/ablations")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--train-pages", type=int, default=5000)
    parser.add_argument("--val-pages", type=int, default=500)
    parser.add_argument("--pages", default="", help="folder of the pages")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Train and evaluate the arms that have no results yet."""
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
