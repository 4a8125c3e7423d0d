"""Agreement, quality and CPU time of bfloat16 against float32 on pages of the picture book.

    python benchmarks/precision.py agreement --count 41
    python benchmarks/precision.py quality   --root datasets/picturebook --count 100
    python benchmarks/precision.py speed     [--config universal/hipie_r50.yaml] [--size 320x416]

`agreement` compares the panoptic maps page by page, both models in turns on one thread; its times
are CPU times. `quality` evaluates both. `speed` runs random weights on noise with 133 names. Pages
are the first ones of the split `val`; those of `quality` are drawn into ROOT.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.hipie import image, vocabulary
from hipie import Segmenter, Vocabulary, model_zoo

NANO = "nano/hipie_nano_picturebook.yaml"
PRECISIONS = ("float32", "bfloat16")


def segmenters(options: argparse.Namespace) -> dict[str, Segmenter]:
    """Build the trained model in both precisions, for the pages of the folder."""
    opts = ["PICTUREBOOK.ROOT", options.root, "PICTUREBOOK.VAL_PAGES", options.count]
    opts += ["PICTUREBOOK.VAL_GROUPS", 1, "DATALOADER.NUM_WORKERS", 0]
    opts += ["DATASETS.TEST", "('picturebook_val_panoptic',)"]
    return {
        precision: Segmenter.from_config(
            options.config or NANO, device="cpu", opts=opts, precision=precision
        )
        for precision in PRECISIONS
    }


def class_map(output: dict[str, Any]) -> np.ndarray:
    """Class of every pixel [H, W] of a panoptic map; -1 without segment."""
    panoptic, segments = output["panoptic_seg"]
    classes = np.full(int(panoptic.max()) + 1, -1)
    for segment in segments:
        classes[segment["id"]] = segment["category_id"]
    return classes[panoptic.numpy()]


def agreement(options: argparse.Namespace) -> None:
    """Print the share of pixels with the same class, and CPU times."""
    from hipie.data.picturebook import STUFF, THINGS, PictureBook

    models = segmenters(options)
    names = Vocabulary.from_names(
        things=[thing.name for thing in THINGS], stuff=[kind.name for kind in STUFF]
    )
    book = PictureBook(0, "val")
    same, seconds = [], {precision: [] for precision in PRECISIONS}
    for number, page in enumerate([0, *range(options.count)]):
        pixels = np.asarray(book.page(page).image)
        maps = {}
        for precision, segmenter in models.items():
            inputs = {**segmenter.prepare(pixels).inputs, "vocabulary": names}
            start = time.process_time()
            output = segmenter.model([inputs])[0]
            if number:  # the first turn warms up
                seconds[precision].append(time.process_time() - start)
            maps[precision] = class_map(output)
        if number:
            same.append(100 * np.mean(maps["float32"] == maps["bfloat16"]))
    ratios = [a / b for a, b in zip(seconds["float32"], seconds["bfloat16"], strict=True)]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"pages {len(same)}, the same class at {np.mean(same):.2f} % of the pixels")
    print(f"median page {np.median(same):.2f} %, lowest {min(same):.1f} %")
    print(f"pages with at least 99 %: {sum(share >= 99 for share in same)}")
    print(f"CPU seconds: {', '.join(f'{statistics.median(s):.3f}' for s in seconds.values())}")
    print(f"times faster: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}")


def quality(options: argparse.Namespace) -> None:
    """Print PQ and mask AP of both precisions."""
    from hipie.data.datasets import register_all
    from hipie.engine.trainer import Trainer

    for precision, segmenter in segmenters(options).items():
        cfg = segmenter.cfg
        register_all(cfg)
        with tempfile.TemporaryDirectory() as folder:
            cfg.OUTPUT_DIR = folder
            results = Trainer.test(cfg, segmenter.model)
        numbers = results["picturebook_val_panoptic"]
        found = {task: values.get("PQ", values.get("AP")) for task, values in numbers.items()}
        print(precision, found)


def speed(options: argparse.Namespace) -> None:
    """Print CPU seconds of both precisions with random weights, in turns."""
    from detectron2.modeling import build_model

    models = {}
    for precision in PRECISIONS:
        cfg = model_zoo.get_config(options.config or "universal/hipie_r50.yaml")
        cfg.MODEL.DEVICE = "cpu"
        torch.manual_seed(0)
        models[precision] = build_model(cfg).eval()
        models[precision].set_precision(precision)
    inputs = {**image(options.size), "vocabulary": vocabulary(133)}
    seconds = {precision: [] for precision in PRECISIONS}
    for number in range(options.count + 1):
        for precision, model in models.items():
            start = time.process_time()
            model([inputs])
            if number:
                seconds[precision].append(time.process_time() - start)
    medians = [statistics.median(values) for values in seconds.values()]
    print(f"{options.size}: CPU seconds {seconds}")
    print(f"times faster: {medians[0] / medians[1]:.2f}")


def main() -> None:
    """Run the chosen measurement on one thread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurement", choices=("agreement", "quality", "speed"))
    parser.add_argument("--root", default="datasets/picturebook")
    parser.add_argument("--count", type=int, default=100, help="pages, or turns of speed")
    parser.add_argument("--config", default="")
    parser.add_argument("--size", default="320x416")
    options = parser.parse_args()
    torch.set_num_threads(1)
    globals()[options.measurement](options)


if __name__ == "__main__":
    main()
