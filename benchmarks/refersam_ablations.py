"""What ReferSAM's ideas are worth: the nano model without one of them, trained alike.

All arms train for the same number of steps on the same expressions, with several seeds, whose spread
is printed. They start from nothing but MiniLM's words, or with `--start` from the SAM of a trained
nano model as well, as published weights start from SAM's; interactor, prompter and all else are new
then too. What counts are oIoU and P@0.5 on pages that were not trained on, and the oIoU that is
left when expressions are dealt out anew among all pages: a model that does not listen loses nothing.
An arm that has its results is not trained again, and one that was interrupted goes on from its last
checkpoint.

    python benchmarks/refersam_ablations.py --steps 800 [--seeds 0 1] [--arms full no_interactor]
    python benchmarks/refersam_ablations.py --minutes 15    as many steps as the full model can take
    python benchmarks/refersam_ablations.py --start model_final.pth      from its SAM, see above
    python benchmarks/refersam_ablations.py --table --steps 800      what is there so far
    python benchmarks/refersam_ablations.py --judge output/refersam_nano_picturebook   one model
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
}
PAGES = "picturebook_val_refer"
FIGURES = ("oIoU", "P@0.5", "shuffled oIoU")
SAM_PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


class FirstPages:
    """The first batches of a loader, with expressions as they are or dealt out anew among them.

    Args:
        loader: of batches of one dict with `expressions`.
        count: batches at most.
        seed: of the deal; None: every page keeps its expressions.
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
        dealt = [expression for item in items for expression in item["expressions"]]
        if self._seed is not None:
            random.Random(self._seed).shuffle(dealt)
        rest = iter(dealt)
        for batch in batches:
            yield [
                {**item, "expressions": list(islice(rest, len(item["expressions"])))}
                for item in batch
            ]


def judge(output: Path, options: argparse.Namespace) -> dict[str, float]:
    """The figures of a trained model on validation pages; kept in figures.json beside it."""
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
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else PAGES
    loader = Trainer.build_test_loader(cfg, name)
    found = {}
    for way, seed in (("", None), ("shuffled ", 0)):
        pages = FirstPages(loader, options.pages, seed)
        scores = inference_on_dataset(model, pages, build_evaluator(cfg, name))["refer"]
        found.update({f"{way}{figure}": scores[figure] for figure in ("oIoU", "mIoU", "P@0.5")})
    (output / "figures.json").write_text(json.dumps(found, indent=1))
    return found


def run_arm(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Train and judge one arm, each in a process of its own, unless its figures are there."""
    output = folder(arm, seed, options)
    if (output / "figures.json").is_file():
        return
    if not (output / "model_final.pth").is_file():
        start = ("MODEL.WEIGHTS", str(sam_of(options))) if options.start else ()
        given = (*start, *ARMS[arm], *options.opts)
        train(output, options.steps, options, "--resume", "SEED", str(seed), *given)
    command = [__file__, "--judge", str(output), "--pages", str(options.pages)]
    arms.call([*command, "--threads", str(options.threads)], options.threads)


def sam_of(options: argparse.Namespace) -> Path:
    """A file with SAM's parts alone of the model that `--start` names."""
    import torch

    kept = Path(options.output) / "start.pth"
    saved = torch.load(options.start, map_location="cpu", weights_only=True)["model"]
    parts = {name: saved[name] for name in saved if name.startswith(SAM_PARTS)}
    torch.save({"model": parts}, kept)
    return kept


def train(output: Path, steps: int, options: argparse.Namespace, *more: str) -> None:
    """Train without evaluating."""
    first = [one for one in more if one.startswith("--")]
    command = [str(arms.ROOT / "train_net.py"), "--config-file", CONFIGURATION, *first]
    command += ["OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(steps)]
    command += ["SOLVER.CHECKPOINT_PERIOD", "100", "DATASETS.TEST", "()"]
    command += ["PICTUREBOOK.TRAIN_PAGES", str(options.train_pages)]
    command += [one for one in more if one not in first]
    arms.call(command, options.threads)


def folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Where an arm's checkpoints and figures lie."""
    start = "-started" if options.start else ""
    return Path(options.output) / f"{arm}-steps{options.steps}{start}-seed{seed}"


def read(arm: str, seed: int, options: argparse.Namespace) -> arms.Figures | None:
    """What came out of an arm, or None."""
    path = folder(arm, seed, options) / "figures.json"
    return json.loads(path.read_text()) if path.is_file() else None


def table(options: argparse.Namespace) -> str:
    """What is there so far; see `arms.table`."""
    return arms.table(options, f"{options.steps} steps", FIGURES, lambda *of: read(*of, options))


def main() -> None:
    """Read the command line, train what is missing, print the table."""
    parser = arms.parser(__doc__.splitlines()[0], ARMS, "output/refersam_ablations")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=800)
    length.add_argument("--minutes", type=float, help="of training an arm, instead of --steps")
    parser.add_argument("--train-pages", type=int, default=5000)
    parser.add_argument("--pages", type=int, default=100, help="of the 500 that are judged")
    parser.add_argument("--start", metavar="WEIGHTS", help="a model whose SAM all arms start from")
    parser.add_argument("--judge", metavar="FOLDER", help="the figures of one trained model")
    options = parser.parse_args()
    if options.judge:
        print(json.dumps(judge(Path(options.judge), options)))
        return
    Path(options.output).mkdir(parents=True, exist_ok=True)
    if options.minutes:
        options.steps = arms.steps_in(
            options.minutes, options.output, lambda place, steps: train(place, steps, options)
        )
    if not options.table:
        for seed in options.seeds:
            for arm in options.arms:
                run_arm(arm, seed, options)
    print(table(options))


if __name__ == "__main__":
    main()
