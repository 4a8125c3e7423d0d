"""Agreement, quality and CPU time of bfloat16 or int8 against float32.

    python benchmarks/precision.py agreement --count 41
    python benchmarks/precision.py quality   --root datasets/picturebook --count 100
    python benchmarks/precision.py quality   --precisions float32 int8 --photographs
    python benchmarks/precision.py speed     [--config universal/hipie_r50.yaml] [--size 320x416]

`agreement` compares the panoptic maps image by image, all models in turns on one thread; its times
are CPU times. `quality` evaluates each: PQ, mIoU and mask AP. `speed` runs random weights on noise
with 133 names; with `--compile` every model is compiled, in the turn before the first. Pages of the
picture book are the first ones of the split `val`; those of `quality` are drawn into ROOT.
With `--photographs` it is `hipie-nano-photos` on those of `coco_mini`, with 133 names, of which
`agreement` takes the first ones. int8 needs torchao.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.hipie import image, vocabulary
from hipie import Segmenter, Vocabulary, model_zoo
from hipie.vocabularies.tables import load_vocabulary

PHOTOGRAPHS = "datasets/photographs/coco_mini/images/val"
NANO, PHOTOS = "nano/hipie_nano_picturebook.yaml", "nano/hipie_nano_photos.yaml"


def segmenters(options: argparse.Namespace) -> dict[str, Segmenter]:
    """Build the trained model in every precision, for the pages of the folder or photographs."""
    opts = ["PICTUREBOOK.ROOT", options.root, "PICTUREBOOK.VAL_PAGES", options.count]
    opts += ["PICTUREBOOK.VAL_GROUPS", 1, "DATALOADER.NUM_WORKERS", 0]
    dataset = "photos_coco_panoptic_val" if options.photographs else "picturebook_val_panoptic"
    opts += ["DATASETS.TEST", f"('{dataset}',)"]
    config = options.config or (PHOTOS if options.photographs else NANO)
    return {
        precision: Segmenter.from_config(
            config, device="cpu", opts=opts, precision=precision, compile=options.compile
        )
        for precision in options.precisions
    }


def class_map(output: dict[str, Any]) -> np.ndarray:
    """Class of every pixel [H, W] of a panoptic map; -1 without segment."""
    panoptic, segments = output["panoptic_seg"]
    classes = np.full(int(panoptic.max()) + 1, -1)
    for segment in segments:
        classes[segment["id"]] = segment["category_id"]
    return classes[panoptic.numpy()]


def images_of_agreement(options: argparse.Namespace) -> tuple[list[np.ndarray], Vocabulary]:
    """Return the images [H, W, 3] uint8 RGB that are compared, and the classes."""
    from hipie.data.image_io import read_image
    from hipie.data.picturebook import STUFF, THINGS, PictureBook

    if options.photographs:
        files = sorted(Path(PHOTOGRAPHS).glob("*.jpg"))[: options.count]
        return [read_image(file) for file in files], load_vocabulary("coco_panoptic")
    book = PictureBook(0, "val")
    names = Vocabulary.from_names(
        things=[thing.name for thing in THINGS], stuff=[kind.name for kind in STUFF]
    )
    return [np.asarray(book.page(page).image) for page in range(options.count)], names


def agreement(options: argparse.Namespace) -> None:
    """Print the share of pixels with the same class as the first precision, and CPU times."""
    models = segmenters(options)
    images, names = images_of_agreement(options)
    first, *others = models
    same = {precision: [] for precision in others}
    seconds = {precision: [] for precision in models}
    for number, pixels in enumerate([images[0], *images]):
        maps = {}
        for precision, segmenter in models.items():
            inputs = {**segmenter.prepare(pixels).inputs, "vocabulary": names}
            start = time.process_time()
            output = segmenter.model([inputs])[0]
            if number:  # the first turn warms up
                seconds[precision].append(time.process_time() - start)
            maps[precision] = class_map(output)
        if number:
            for precision in others:
                same[precision].append(100 * np.mean(maps[first] == maps[precision]))
    for precision, shares in same.items():
        ratios = [a / b for a, b in zip(seconds[first], seconds[precision], strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(
            f"{precision}: {len(shares)} images, the same class as in {first} at "
            f"{np.mean(shares):.2f} % of the pixels"
        )
        print(f"median image {np.median(shares):.2f} %, lowest {min(shares):.1f} %")
        print(f"images with at least 99 %: {sum(share >= 99 for share in shares)}")
        print(f"times faster: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}")
    print(f"CPU seconds: {', '.join(f'{statistics.median(s):.3f}' for s in seconds.values())}")


def quality(options: argparse.Namespace) -> None:
    """Print PQ, mIoU and mask AP of every precision."""
    from hipie.data.datasets import register_all
    from hipie.engine.trainer import Trainer

    for precision, segmenter in segmenters(options).items():
        cfg = segmenter.cfg
        register_all(cfg)
        with tempfile.TemporaryDirectory() as folder:
            cfg.OUTPUT_DIR = folder
            results = Trainer.test(cfg, segmenter.model)
        (numbers,) = results.values()
        chosen = {
            f"{task} {name}": round(float(values[name]), 2)
            for task, values in numbers.items()
            for name in ("PQ", "mIoU", "AP")
            if name in values
        }
        print(precision, chosen, flush=True)


def speed(options: argparse.Namespace) -> None:
    """Print CPU seconds of every precision with random weights, in turns."""
    from detectron2.modeling import build_model

    from hipie.modeling.meta_arch.base import SegmentationModel

    models: dict[str, SegmentationModel] = {}
    for precision in options.precisions:
        cfg = model_zoo.get_config(options.config or "universal/hipie_r50.yaml")
        cfg.MODEL.DEVICE = "cpu"
        torch.manual_seed(0)
        models[precision] = cast(SegmentationModel, build_model(cfg).eval())
        models[precision].set_precision(precision)
        if options.compile:
            models[precision].compile_inference()
    inputs = {**image(options.size), "vocabulary": vocabulary(133)}
    seconds: dict[str, list[float]] = {precision: [] for precision in models}
    for number in range(options.count + 1):
        for precision, model in models.items():
            start = time.process_time()
            model([inputs])
            if number:
                seconds[precision].append(time.process_time() - start)
    reference, *_ = seconds.values()
    for precision, values in seconds.items():
        ratios = [a / b for a, b in zip(reference, values, strict=True)]
        print(
            f"{options.size}, {precision}: {statistics.median(values):.3f} CPU seconds, times "
            f"faster {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main() -> None:
    """Run the chosen measurement on one thread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurement", choices=("agreement", "quality", "speed"))
    parser.add_argument("--root", default="datasets/picturebook")
    parser.add_argument("--count", type=int, default=100, help="pages, or turns of speed")
    parser.add_argument("--config", default="")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--photographs", action="store_true", help="instead of pages")
    parser.add_argument("--compile", action="store_true", help="compile every model")
    parser.add_argument("--size", default="320x416")
    options = parser.parse_args()
    torch.set_num_threads(1)
    globals()[options.measurement](options)


if __name__ == "__main__":
    main()
