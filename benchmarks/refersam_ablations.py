"""What ReferSAM's ideas are worth: the nano model without one of them, trained alike.

All arms start from nothing (but MiniLM's words) and train for the same number of steps on the same
sentences, with several seeds, whose spread is printed. What counts are oIoU and P@0.5 on pages that
were not trained on, and the oIoU that is left when sentences are dealt out anew among all pages: a
model that does not listen loses nothing. An arm that has its results is not trained again, and one
that was interrupted goes on from its last checkpoint.

    python benchmarks/refersam_ablations.py --steps 800 [--seeds 0 1] [--arms full no_interactor]
    python benchmarks/refersam_ablations.py --minutes 15    as many steps as the full model can take
    python benchmarks/refersam_ablations.py --table --steps 800      what is there so far
    python benchmarks/refersam_ablations.py --judge output/refersam_nano_picturebook   one model
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)
CONFIGURATION = "projects/ReferSAM/configs/refersam_nano_picturebook_128.yaml"
ARMS = {
    "full": (),
    "no_interactor": ("MODEL.REFERSAM.INTERACTOR", "False"),
    "no_dense_prompt": ("MODEL.REFERSAM.DENSE_PROMPT", "False"),
    "no_context_tokens": ("MODEL.REFERSAM.CONTEXT_TOKENS", "0"),
}
PAGES = "picturebook_val_refer"
FIGURES = ("oIoU", "P@0.5", "shuffled oIoU")
PROBE_STEPS = 16


class FirstPages:
    """The first batches of a loader, with sentences as they are or dealt out anew among them.

    Args:
        loader: of batches of one dict with `expressions`.
        count: batches at most.
        seed: of the deal; None: every page keeps its sentences.
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
        dealt = [sentence for item in items for sentence in item["expressions"]]
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
    from hipie.configure import merge
    from hipie.data.datasets import register_all
    from hipie.evaluation import build_evaluator
    from hipie.plugins import load_projects
    from train_net import HipieTrainer

    torch.set_num_threads(options.threads)
    cfg = get_cfg()
    add_hipie_config(cfg)
    load_projects(cfg)
    merge(cfg, output / "config.yaml")
    register_all(cfg)
    model = HipieTrainer.build_model(cfg)
    Checkpointer(model).load(str(output / "model_final.pth"))
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else PAGES
    loader = HipieTrainer.build_test_loader(cfg, name)
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
        train(output, options.steps, options, "--resume", "SEED", str(seed), *ARMS[arm])
    command = [__file__, "--judge", str(output), "--pages", str(options.pages)]
    call([*command, "--threads", str(options.threads)], options.threads)


def train(output: Path, steps: int, options: argparse.Namespace, *more: str) -> None:
    """Train without evaluating."""
    first = [one for one in more if one.startswith("--")]
    command = [str(ROOT / "train_net.py"), "--config-file", CONFIGURATION, *first]
    command += ["OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(steps)]
    command += ["SOLVER.CHECKPOINT_PERIOD", "100", "DATASETS.TEST", "()"]
    command += ["PICTUREBOOK.TRAIN_PAGES", str(options.train_pages)]
    command += [one for one in more if one not in first]
    call(command, options.threads)


def call(command: list[str], threads: int) -> None:
    """Run a program with this interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=environment)


def steps_in(minutes: float, options: argparse.Namespace) -> int:
    """How many steps of the full model fit, as a short run of it tells; asked once, then kept."""
    kept = Path(options.output) / f"steps_in_{minutes:g}_minutes.json"
    if not kept.is_file():
        probe = Path(options.output) / "probe"
        train(probe, PROBE_STEPS, options)
        lines = [json.loads(line) for line in (probe / "metrics.json").read_text().splitlines()]
        seconds = next(line["time"] for line in reversed(lines) if "time" in line)
        kept.write_text(
            json.dumps({"seconds_a_step": seconds, "steps": int(60 * minutes / seconds)})
        )
    return json.loads(kept.read_text())["steps"]


def folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Where an arm's checkpoints and figures lie."""
    return Path(options.output) / f"{arm}-steps{options.steps}-seed{seed}"


def table(options: argparse.Namespace) -> str:
    """Markdown: means over seeds, and half the distance between the best and the worst."""
    lines = [f"{options.steps} steps, seeds {', '.join(map(str, options.seeds))}", ""]
    lines += ["| arm | " + " | ".join(FIGURES) + " |", "|---" * (1 + len(FIGURES)) + "|"]
    for arm in options.arms:
        paths = [folder(arm, seed, options) / "figures.json" for seed in options.seeds]
        found = [json.loads(path.read_text()) for path in paths if path.is_file()]
        cells = ["not trained yet"] if not found else [cell(found, one) for one in FIGURES]
        seeds = "" if len(found) in (0, len(options.seeds)) else f" ({len(found)} of the seeds)"
        lines.append(f"| {arm.replace('_', ' ')}{seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(found: list[dict[str, float]], figure: str) -> str:
    """Mean and spread."""
    values = [one[figure] for one in found]
    return f"{statistics.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"


def main() -> None:
    """Read the command line, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=800)
    length.add_argument("--minutes", type=float, help="of training an arm, instead of --steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--train-pages", type=int, default=5000)
    parser.add_argument("--pages", type=int, default=100, help="of the 500 that are judged")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default="output/refersam_ablations")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--judge", metavar="FOLDER", help="the figures of one trained model")
    options = parser.parse_args()
    if options.judge:
        print(json.dumps(judge(Path(options.judge), options)))
        return
    Path(options.output).mkdir(parents=True, exist_ok=True)
    if options.minutes:
        options.steps = steps_in(options.minutes, options)
    if not options.table:
        for seed in options.seeds:
            for arm in options.arms:
                run_arm(arm, seed, options)
    print(table(options))


if __name__ == "__main__":
    main()
