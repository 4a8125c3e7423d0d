"""Ablations of ReferSAM: the nano model without one of its modules.

All arms are trained for the same number of steps on the same expressions, with several seeds. All
but MiniLM is initialised randomly, or with `--start` all but MiniLM and the SAM of a trained nano
model, as published weights start from SAM's. Metrics are oIoU and P@0.5 on held-out pages, and the
oIoU with expressions shuffled among all pages, which does not change for a model that ignores the
expression. An arm with results is not trained again, and an interrupted one is resumed from its
last checkpoint.

    python benchmarks/refersam_ablations.py --steps 800 [--seeds 0 1] [--arms full no_interactor]
    python benchmarks/refersam_ablations.py --minutes 15    as many steps as the full model makes
    python benchmarks/refersam_ablations.py --start model_final.pth      from its SAM, see above
    python benchmarks/refersam_ablations.py --no-training --steps 800      available results
    python benchmarks/refersam_ablations.py --evaluate output/refersam_nano_picturebook   one model
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks import arms

CONFIGURATION = "projects/ReferSAM/configs/refersam_nano_picturebook_128.yaml"
ARMS = {
    "full": (),
    "no_interactor": ("MODEL.REFERSAM.INTERACTOR", "False"),
    "no_dense_prompt": ("MODEL.REFERSAM.DENSE_PROMPT", "False"),
    "no_context_tokens": ("MODEL.REFERSAM.CONTEXT_TOKENS", "0"),
    "no_text_in_interactor": (
        *("MODEL.REFERSAM.INTERACTOR_TEXT", "False", "MODEL.REFERSAM.CONTEXT_TOKENS", "0"),
    ),
    "single_scale": ("MODEL.REFERSAM.FEATURE_STRIDES", "(16,)"),
    **{
        f"{count}_context_tokens": ("MODEL.REFERSAM.CONTEXT_TOKENS", str(count))
        for count in (1, 2, 4, 8, 32)
    },
    **{
        f"{count}_sparse_tokens": ("MODEL.REFERSAM.SPARSE_TOKENS", str(count))
        for count in (0, 1, 2, 8, 16, 32)
    },
    "one_interaction": ("MODEL.REFERSAM.NUM_INTERACTIONS", "1"),
    "one_prompt_block": ("MODEL.REFERSAM.NUM_PROMPT_BLOCKS", "1"),
    "no_coarse_loss": ("MODEL.REFERSAM.LOSS.WEIGHTS", "(1.0, 1.0, 0.0, 0.0)"),
    "no_dice_loss": ("MODEL.REFERSAM.LOSS.WEIGHTS", "(1.0, 0.0, 1.0, 0.0)"),
    "no_cross_entropy": ("MODEL.REFERSAM.LOSS.WEIGHTS", "(0.0, 1.0, 0.0, 1.0)"),
    "tuned_text_encoder": ("MODEL.REFERSAM.TEXT.FROZEN", "False"),
    "no_prompter": (
        *("MODEL.REFERSAM.PROMPTER", "False", "MODEL.REFERSAM.DENSE_PROMPT", "False"),
        *("MODEL.REFERSAM.LOSS.WEIGHTS", "(1.0, 1.0, 0.0, 0.0)"),
    ),
    "baseline": (
        *("MODEL.REFERSAM.INTERACTOR", "False", "MODEL.REFERSAM.PROMPTER", "False"),
        *("MODEL.REFERSAM.DENSE_PROMPT", "False"),
        *("MODEL.REFERSAM.LOSS.WEIGHTS", "(1.0, 1.0, 0.0, 0.0)"),
    ),
}
DATASET = "picturebook_val_refer"
METRICS = ("oIoU", "P@0.5", "shuffled oIoU")
RESULTS_FILE = "figures.json"
SAM_PREFIXES = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


class FirstBatches:
    """The first batches of a loader, optionally with expressions shuffled among them.

    Args:
        loader: batches of dicts with `expressions`.
        count: maximum number of batches.
        seed: seed of the shuffling; None keeps the expressions of every image.
    """

    def __init__(self, loader: Any, count: int, seed: int | None = None) -> None:
        self._loader = loader
        self._count = min(count, len(loader))
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        batches = list(islice(self._loader, self._count))
        items = [item for batch in batches for item in batch]
        expressions = [expression for item in items for expression in item["expressions"]]
        if self._seed is not None:
            random.Random(self._seed).shuffle(expressions)
        remaining = iter(expressions)
        for batch in batches:
            yield [
                {**item, "expressions": list(islice(remaining, len(item["expressions"])))}
                for item in batch
            ]


def evaluate(output: Path, options: argparse.Namespace) -> dict[str, float]:
    """Evaluate a trained model on held-out pages; results are stored in its folder."""
    import torch
    from detectron2.config import get_cfg
    from detectron2.evaluation import inference_on_dataset

    from hipie import add_hipie_config
    from hipie.checkpoint import Checkpointer
    from hipie.config.loading import merge
    from hipie.data.datasets import register_all
    from hipie.engine.trainer import Trainer
    from hipie.evaluation import build_evaluator

    torch.set_num_threads(options.threads)
    cfg = get_cfg()
    add_hipie_config(cfg)
    merge(cfg, output / "config.yaml")
    register_all(cfg)
    model = Trainer.build_model(cfg)
    Checkpointer(model).load(str(output / "model_final.pth"))
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else DATASET
    loader = Trainer.build_test_loader(cfg, name)
    results = {}
    for prefix, seed in (("", None), ("shuffled ", 0)):
        batches = FirstBatches(loader, options.pages, seed)
        scores = inference_on_dataset(model, batches, build_evaluator(cfg, name))["refer"]
        results.update(
            {f"{prefix}{metric}": scores[metric] for metric in ("oIoU", "mIoU", "P@0.5")}
        )
    (output / RESULTS_FILE).write_text(json.dumps(results, indent=1))
    return results


def run_arm(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one arm, each in a separate process, unless it has results."""
    output = folder(arm, seed, options)
    if (output / RESULTS_FILE).is_file():
        return
    if not (output / "model_final.pth").is_file():
        start = ("MODEL.WEIGHTS", str(extract_sam(options))) if options.start else ()
        overrides = (*start, *ARMS[arm], *options.opts)
        train(output, options.steps, options, "--resume", "SEED", str(seed), *overrides)
    command = [__file__, "--evaluate", str(output), "--pages", str(options.pages)]
    arms.call([*command, "--threads", str(options.threads)], options.threads)


def extract_sam(options: argparse.Namespace) -> Path:
    """Write a file with the SAM modules of the model of `--start`."""
    import torch

    file = Path(options.output) / "start.pth"
    saved = torch.load(options.start, map_location="cpu", weights_only=True)["model"]
    tensors = {name: saved[name] for name in saved if name.startswith(SAM_PREFIXES)}
    torch.save({"model": tensors}, file)
    return file


def train(output: Path, steps: int, options: argparse.Namespace, *arguments: str) -> None:
    """Train without evaluation."""
    flags = [argument for argument in arguments if argument.startswith("--")]
    command = [str(arms.ROOT / "train_net.py"), "--config-file", CONFIGURATION, *flags]
    command += ["OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(steps)]
    command += ["SOLVER.CHECKPOINT_PERIOD", "100", "DATASETS.TEST", "()"]
    command += ["PICTUREBOOK.TRAIN_PAGES", str(options.train_pages)]
    command += [argument for argument in arguments if argument not in flags]
    arms.call(command, options.threads)


def folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Folder of an arm's checkpoints and results."""
    start = "-started" if options.start else ""
    return Path(options.output) / f"{arm}-steps{options.steps}{start}-seed{seed}"


def read(arm: str, seed: int, options: argparse.Namespace) -> arms.Metrics | None:
    """Metrics of an arm, or None without results."""
    path = folder(arm, seed, options) / RESULTS_FILE
    return json.loads(path.read_text()) if path.is_file() else None


def table(options: argparse.Namespace) -> str:
    """Build the table of the available results; see `arms.table`."""
    return arms.table(
        options, f"{options.steps} steps", METRICS, lambda arm, seed: read(arm, seed, options)
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; see the docstring of this file."""
    parser = arms.parser(__doc__.splitlines()[0], ARMS, "output/refersam_ablations")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=800)
    length.add_argument(
        "--minutes", type=float, help="duration of the training, instead of --steps"
    )
    parser.add_argument("--train-pages", type=int, default=5000)
    parser.add_argument(
        "--pages", type=int, default=100, help="number of the 500 held-out pages that are evaluated"
    )
    parser.add_argument("--start", metavar="WEIGHTS", help="model whose SAM initialises all arms")
    parser.add_argument("--evaluate", metavar="FOLDER", help="evaluate one trained model")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Train and evaluate the arms that have no results yet."""
    Path(options.output).mkdir(parents=True, exist_ok=True)
    if options.minutes:
        options.steps = arms.steps_in(
            options.minutes, options.output, lambda folder, steps: train(folder, steps, options)
        )
    if options.no_training:
        return
    for seed in options.seeds:
        for arm in options.arms:
            run_arm(arm, seed, options)


def main() -> None:
    """Read the command line, train the missing arms, print the table."""
    options = parse()
    if options.evaluate:
        print(json.dumps(evaluate(Path(options.evaluate), options)))
        return
    run(options)
    print(table(options))


if __name__ == "__main__":
    main()
