"""An evaluation against CLIP's two mixing weights: published numbers swing with them.

Every image is seen once by the model and once by CLIP; then its scores are joined and judged for
each pair of weights. A configuration that has CLIP on, and weights for it:

    python benchmarks/clip_sweep.py --config-file configs/eval/hipie_r50_voc.yaml \\
        --alphas 0 0.2 0.4 --betas 0.2 0.45 0.7 MODEL.WEIGHTS weights.pth
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

sys.path[0] = str(Path(__file__).parents[1])
from hipie import model_zoo
from hipie.checkpoint import Checkpointer
from hipie.config.loading import check
from hipie.data.build import build_test_loader
from hipie.data.datasets import register_all
from hipie.evaluation import build_evaluator
from hipie.modeling.open_vocabulary.clip_ensemble import ScoreEnsemble

Pair = tuple[float, float]
# Where keys begin, lists of numbers end.
KEY = re.compile(r"[A-Z_]+(\.[A-Z0-9_]+)+")
# Of each task the figure that stands in the table.
FIGURES = {
    "segm": "AP",
    "bbox": "AP",
    "sem_seg": "mIoU",
    "panoptic_seg": "PQ",
    "parts": "mIoU",
    "unseen": "naming",
}


def sweep(
    cfg: CfgNode, model: torch.nn.Module, name: str, pairs: Sequence[Pair], folder: Path
) -> dict[Pair, dict[str, Any]]:
    """The results of one data set for every pair.

    Args:
        cfg: with CLIP on.
        model: of it, with weights.
        name: of the data set.
        pairs: (alpha, beta), the weights of seen and of unseen classes.
        folder: where evaluators write.

    Raises:
        ValueError: if CLIP is off.
    """
    if model.clip_ensemble is None:
        raise ValueError("CLIP is off in this configuration: add MODEL.HIPIE.CLIP.ENABLED True")
    plain = model.clip_ensemble.ensemble
    judges = {}
    for alpha, beta in pairs:
        judges[alpha, beta] = build_evaluator(cfg, name, str(folder / f"{alpha}-{beta}"))
        judges[alpha, beta].reset()
    with torch.no_grad():
        for inputs in build_test_loader(cfg, name):
            output = model.decode(inputs)
            clip_scores = [model.clip_scores(item) for item in inputs]
            for (alpha, beta), judge in judges.items():
                joined = ScoreEnsemble(
                    (alpha,) * 2, (beta,) * 2, plain.method, plain.thing_temperature
                )
                other = [scores.with_ensemble(joined) for scores in clip_scores]
                judge.process(inputs, model.postprocess(inputs, output, other))
    return {pair: judge.evaluate() for pair, judge in judges.items()}


def table(
    found: dict[Pair, dict[str, Any]], alphas: Sequence[float], betas: Sequence[float]
) -> str:
    """A small table a task: alpha down, beta across, and how far the figure swings."""
    lines = []
    first = next(iter(found.values()))
    for task, figure in FIGURES.items():
        tasks = [one for one in first if one == task or one.endswith(f"/{task}")]
        for own in tasks:
            numbers = {pair: found[pair][own][figure] for pair in found}
            swing = max(numbers.values()) - min(numbers.values())
            lines.append(f"{own} {figure}, alpha down, beta across; swing {swing:.2f}")
            lines.append("       " + "".join(f"{beta:>8g}" for beta in betas))
            for alpha in alphas:
                row = "".join(f"{numbers[alpha, beta]:>8.2f}" for beta in betas)
                lines.append(f"{alpha:>7g}{row}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, sweep every data set of DATASETS.TEST, print."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    keys = next((place for place, word in enumerate(words) if KEY.fullmatch(word)), len(words))
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Keys of the configuration come last: KEY VALUE"
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--betas", type=float, nargs="+", default=[0.2, 0.45, 0.7])
    parser.add_argument("--output", help="a JSON file for all figures")
    args = parser.parse_args(words[:keys])
    cfg = model_zoo.get_config(args.config_file, words[keys:])
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    check(cfg)
    register_all(cfg)
    weights = cfg.MODEL.WEIGHTS or model_zoo.get_weights(args.config_file)
    if not weights:
        parser.error(f"{args.config_file} names no weights: add MODEL.WEIGHTS FILE")
    model = build_model(cfg).eval()
    Checkpointer(model).load(str(weights))
    everything = {}
    for name in cfg.DATASETS.TEST:
        with tempfile.TemporaryDirectory() as folder:
            pairs = list(product(args.alphas, args.betas))
            try:
                found = sweep(cfg, model, name, pairs, Path(folder))
            except ValueError as error:
                parser.error(str(error))
        print(f"{name}\n{table(found, args.alphas, args.betas)}")
        everything[name] = [
            {"alpha": alpha, "beta": beta, **results} for (alpha, beta), results in found.items()
        ]
    if args.output:
        Path(args.output).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
