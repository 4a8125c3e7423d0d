r"""A referring model against chance: shuffled expressions, the whole image and random boxes.

Shuffled expressions: the mask of each expression is that of another expression of the same image
about other objects, where there is one. Random boxes: corners are uniform. No training.

    python benchmarks/referring_chance.py \
        --config-file projects/Unsupervised/configs/tseg_nano_picturebook.yaml \
        --weights output/tseg_nano_picturebook/model_final.pth
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie import Segmenter
from hipie.data.build import build_test_loader
from hipie.data.datasets import register_all
from hipie.data.record_list import read_records
from hipie.data.records import sample_evenly
from hipie.evaluation.metrics.expression_iou import (
    OverlapCounts,
    mask_overlap,
    predicted_mask,
    target_rles,
)


def main() -> None:
    """Print one table of IoU in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset", default="", help="by default the first of DATASETS.TEST")
    parser.add_argument("--images", type=int, help="number, evenly spaced; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of chance")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    options = parser.parse_args()

    segmenter = Segmenter.from_config(options.config_file, options.weights, opts=options.opts)
    register_all(segmenter.cfg)
    name = options.dataset or segmenter.cfg.DATASETS.TEST[0]
    rng = np.random.default_rng(options.seed)
    counts: dict[str, OverlapCounts] = defaultdict(OverlapCounts)
    loader = build_test_loader(segmenter.cfg, name)
    records: Sequence[dict[str, Any]] = read_records(name)
    kept = set(sample_evenly(range(len(records)), options.images))
    with torch.no_grad():
        for index, batch in enumerate(loader):
            if index in kept:
                (output,) = segmenter.model.inference(batch)
                add(counts, records[index], output["referring"], rng)
    print("| masks | gIoU | cIoU | P@0.5 |\n|---|---|---|---|")
    for row, of_row in counts.items():
        figures = of_row.mean_iou(), of_row.overall_iou(), of_row.precision(0.5)
        print(f"| {row} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
    print(f"\n{len(kept)} images, {counts['model'].expressions} expressions, {name}")


def add(
    counts: Mapping[str, OverlapCounts],
    record: Mapping[str, Any],
    outputs: Sequence[Any],
    rng: np.random.Generator,
) -> None:
    """Count the masks of an image."""
    size = record["height"], record["width"]
    targets = target_rles(record)
    objects = [set(entry["targets"]) for entry in record["expressions"]]
    masks = [predicted_mask(output, record["file_name"], *size) for output in outputs]
    for row, target in enumerate(targets):
        others = [other for other in range(len(masks)) if not objects[other] & objects[row]]
        shuffled = int(rng.choice(others)) if others else row
        for name, mask in {
            "model": masks[row],
            "model, shuffled expressions": masks[shuffled],
            "whole image": np.ones(size, bool),
            "random box": random_box(size, rng),
        }.items():
            counts[name].add(mask_overlap(mask, target))


def random_box(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a box between two uniform corners, at least one pixel."""
    top, bottom = sorted(rng.integers(0, size[0], 2))
    left, right = sorted(rng.integers(0, size[1], 2))
    mask = np.zeros(size, bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


if __name__ == "__main__":
    main()
