r"""Evaluation for several pairs of CLIP's ensemble weights, alpha and beta.

Every image is processed once by the model and once by CLIP; the scores are combined and evaluated
for each pair. The configuration must enable CLIP, and needs weights:

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
# Configuration keys follow the lists of numbers.
KEY = re.compile(r"[A-Z_]+(\.[A-Z0-9_]+)+")
# Metric of each task in the table.
METRICS = {
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
    """Evaluate one data set for every pair of weights.

    Args:
        cfg: with CLIP enabled.
        model: built from it, with weights.
        name: of the data set.
        pairs: (alpha, beta), the weights for classes of the training vocabulary and for others.
        folder: output folder of the evaluators.

    Raises:
        ValueError: if CLIP is disabled.
    """
    if model.clip_ensemble is None:
        raise ValueError(
            "CLIP is disabled in this configuration: add MODEL.HIPIE.CLIP.ENABLED True"
        )
    configured = model.clip_ensemble.ensemble
    evaluators = {}
    for alpha, beta in pairs:
        evaluators[alpha, beta] = build_evaluator(cfg, name, str(folder / f"{alpha}-{beta}"))
        evaluators[alpha, beta].reset()
    with torch.no_grad():
        for inputs in build_test_loader(cfg, name):
            output = model.decode(inputs)
            clip_scores = [model.clip_scores(item) for item in inputs]
            for (alpha, beta), evaluator in evaluators.items():
                ensemble = ScoreEnsemble(
                    (alpha,) * 2, (beta,) * 2, configured.method, configured.thing_temperature
                )
                combined = [scores.with_ensemble(ensemble) for scores in clip_scores]
                evaluator.process(inputs, model.postprocess(inputs, output, combined))
    return {pair: evaluator.evaluate() for pair, evaluator in evaluators.items()}


def table(
    results: dict[Pair, dict[str, Any]], alphas: Sequence[float], betas: Sequence[float]
) -> str:
    """Format one table a task: alpha in rows, beta in columns, and the range of the metric."""
    lines = []
    first = next(iter(results.values()))
    for task, metric in METRICS.items():
        names = [name for name in first if name == task or name.endswith(f"/{task}")]
        for name in names:
            numbers = {pair: results[pair][name][metric] for pair in results}
            swing = max(numbers.values()) - min(numbers.values())
            lines.append(f"{name} {metric}, alpha down, beta across; swing {swing:.2f}")
            lines.append("       " + "".join(f"{beta:>8g}" for beta in betas))
            for alpha in alphas:
                row = "".join(f"{numbers[alpha, beta]:>8.2f}" for beta in betas)
                lines.append(f"{alpha:>7g}{row}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate every data set of `DATASETS.TEST` and print the tables."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    keys = next((i for i, token in enumerate(tokens) if KEY.fullmatch(token)), len(tokens))
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Configuration keys come last: KEY VALUE ..."
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--betas", type=float, nargs="+", default=[0.2, 0.45, 0.7])
    parser.add_argument("--output", help="JSON file for all metrics")
    args = parser.parse_args(tokens[:keys])
    cfg = model_zoo.get_config(args.config_file, tokens[keys:])
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    check(cfg)
    register_all(cfg)
    weights = cfg.MODEL.WEIGHTS or model_zoo.get_weights(args.config_file)
    if not weights:
        parser.error(f"{args.config_file} has no weights: add MODEL.WEIGHTS FILE")
    model = build_model(cfg).eval()
    Checkpointer(model).load(str(weights))
    output: dict[str, Any] = {}
    for name in cfg.DATASETS.TEST:
        with tempfile.TemporaryDirectory() as folder:
            pairs = list(product(args.alphas, args.betas))
            try:
                metrics_of = sweep(cfg, model, name, pairs, Path(folder))
            except ValueError as error:
                parser.error(str(error))
        print(f"{name}\n{table(metrics_of, args.alphas, args.betas)}")
        output[name] = [
            {"alpha": alpha, "beta": beta, **results}
            for (alpha, beta), results in metrics_of.items()
        ]
    if args.output:
        Path(args.output).write_text(json.dumps(output, indent=1))


if __name__ == "__main__":
    main()
