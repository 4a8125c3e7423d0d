"""Speed of readers, dataset mappers and evaluators, against baselines and Detectron2.

    python benchmarks/data.py [--only referring parsing loading confusion] [--scale 1.0]
        [--output FOLDER]

The inputs are generated. Each section measures the CPU time of two implementations on one core, run
alternately, and prints their ratio.

- referring: 10,000 predictions as RLE at 640x480, `ReferringEvaluator` against decoding
  both masks and counting in NumPy
- parsing: 50,000 references with their objects, `load_refcoco` (seconds, and the memory that it
  adds to a separate process) against unpickling and parsing alone
- loading: 200 images of 640x480 with polygons, this package's mapper against Detectron2's
- confusion: 2,000 label maps of 847 classes at 512x512, `confusion_matrix` against
  Detectron2's counting

`--scale 0.1` uses a tenth of each.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances
from PIL import Image

ROOT = Path(__file__).parents[1]
# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(ROOT)
from hipie.data.dataset_mappers import UniversalDatasetMapper
from hipie.data.datasets import load_refcoco
from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import ReferringEvaluator, write_results
from hipie.evaluation.metrics.part_iou import confusion_matrix
from hipie.vocabularies.vocabulary import Vocabulary

HEIGHT, WIDTH = 480, 640
PREDICTIONS, REFERENCES, IMAGES, LABEL_MAPS, CLASSES = 10_000, 50_000, 200, 2_000, 847
ROUNDS = 3


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """Draw a random round mask with a wavy edge: [H, W] uint8 in Fortran order."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    row, column = rng.uniform(100, 380), rng.uniform(120, 520)
    high, wide, turn = rng.uniform(30, 120), rng.uniform(30, 120), rng.uniform(0, 6)
    angle = np.arctan2(rows - row, columns - column)
    edge = 1 + 0.2 * np.sin(5 * angle + turn) + 0.1 * np.sin(17 * angle)
    inside = ((rows - row) / high) ** 2 + ((columns - column) / wide) ** 2 < edge**2
    return np.asfortranarray(inside, dtype=np.uint8)


def timed(variants: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the lowest CPU time of each variant, in seconds; variants alternate."""
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def referring(scale: float) -> dict[str, float]:
    """Compare IoU of RLEs with IoU of decoded masks."""
    rng = np.random.default_rng(0)
    pool = [mask_util.encode(random_mask(rng)) for _ in range(200)]
    number = max(10, int(PREDICTIONS * scale))
    pairs = rng.integers(0, len(pool), (number, 2))
    records, outputs = [], []
    for image, (target, predicted) in enumerate(pairs):
        prediction = Instances((HEIGHT, WIDTH))
        prediction.pred_masks_rle = [pool[predicted]]
        records.append(
            {
                "file_name": f"{image}.jpg",
                "image_id": image,
                "height": HEIGHT,
                "width": WIDTH,
                "annotations": [{"id": image, "segmentation": pool[target]}],
                "expressions": [{"expression": "it", "targets": [0]}],
            }
        )
        outputs.append({"referring": [prediction]})
    register_dataset("benchmark_referring", lambda: records)
    evaluator = ReferringEvaluator("benchmark_referring", distributed=False)
    overall_iou: dict[str, float] = {}

    def ours() -> None:
        evaluator.reset()
        evaluator.process(records, outputs)
        overall_iou["ours"] = evaluator.evaluate()["refer"]["oIoU"]

    def decoding() -> None:
        intersection = union = 0
        for target, predicted in pairs:
            target_mask = mask_util.decode(pool[target]).astype(bool)
            mask = mask_util.decode(pool[predicted]).astype(bool)
            intersection += np.count_nonzero(target_mask & mask)
            union += np.count_nonzero(target_mask | mask)
        overall_iou["decoding"] = 100.0 * intersection / union

    seconds = timed({"ours": ours, "decoding": decoding}, rounds=2)
    if overall_iou["ours"] != overall_iou["decoding"]:
        raise AssertionError(f"the two implementations disagree: {overall_iou}")
    return {
        "predictions": number,
        "seconds": seconds["ours"],
        "decoding_seconds": seconds["decoding"],
        "times_faster": seconds["decoding"] / seconds["ours"],
    }


def write_references(folder: Path, number: int) -> None:
    """Write files of RefCOCO's format and size: 2.5 refs per image, 2.8 expressions per ref."""
    rng = np.random.default_rng(0)
    words = ["the", "left", "man", "in", "red", "shirt", "next", "to", "a", "dog", "big", "one"]
    images, annotations, refs = [], [], []
    for image in range(1, max(2, number * 2 // 5) + 1):
        name = f"COCO_train2014_{image:012d}.jpg"
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": image, "file_name": name, **size, "license": 1, "coco_url": name})
    for ref in range(number):
        image, start = 1 + ref % len(images), rng.uniform(10, 200, 2)
        outline = (start + rng.uniform(0, 200, (25, 2))).round(2).ravel().tolist()
        annotations.append(
            {
                "id": ref + 1,
                "image_id": image,
                "category_id": 1,
                "iscrowd": 0,
                "area": 5000.0,
                "bbox": [*start.round(2).tolist(), 200.0, 200.0],
                "segmentation": [outline],
            }
        )
        expressions = []
        for place in range(2 + (ref % 5 > 0)):
            tokens = [words[k] for k in rng.integers(0, len(words), rng.integers(2, 7))]
            text = " ".join(tokens)
            sent_id = 3 * ref + place
            expressions.append({"tokens": tokens, "raw": text, "sent_id": sent_id, "sent": text})
        refs.append(
            {
                "sent_ids": [expression["sent_id"] for expression in expressions],
                "file_name": f"COCO_train2014_{image:012d}_{ref}.jpg",
                "ann_id": ref + 1,
                "ref_id": ref,
                "image_id": image,
                "split": ("train", "val", "testA", "testB")[ref % 20 // 17],
                "sentences": expressions,
                "category_id": 1,
            }
        )
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    content = {"images": images, "annotations": annotations, "categories": []}
    (folder / "instances.json").write_text(json.dumps(content))


def parse(folder: Path) -> dict[str, float]:
    """Parse the files in `folder`, and return time and memory."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = peak_memory()
    start = time.process_time()
    records = load_refcoco(folder / "refs(unc).p", folder / "instances.json", folder, "train")
    seconds = time.process_time() - start
    added = peak_memory() - before
    return {"seconds": seconds, "added_bytes": added, "images": len(records)}


def peak_memory() -> int:
    """Return the peak memory of this process, bytes (Linux)."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(line)


def parsing(scale: float) -> dict[str, float]:
    """Compare `load_refcoco` with unpickling and parsing alone."""
    number = max(10, int(REFERENCES * scale))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_references(folder, number)
        command = [sys.executable, "-m", "benchmarks.data", "--parse", str(folder)]
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        ours = json.loads(ran.stdout.splitlines()[-1])

        def unchecked() -> None:
            pickle.loads((folder / "refs(unc).p").read_bytes())
            json.loads((folder / "instances.json").read_text())

        seconds = timed({"unchecked": unchecked}, rounds=1)["unchecked"]
    return {
        "references": number,
        "seconds": ours["seconds"],
        "added_gigabytes": ours["added_bytes"] / 1e9,
        "unchecked_seconds": seconds,
        "times_unchecked": ours["seconds"] / seconds,
    }


def loading(scale: float) -> dict[str, float]:
    """Compare the dataset mapper with Detectron2's on the same files and with the same resize."""
    rng = np.random.default_rng(0)
    number = max(4, int(IMAGES * scale))
    with tempfile.TemporaryDirectory() as place:
        records = []
        for image in range(number):
            path = Path(place) / f"{image}.jpg"
            small = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
            Image.fromarray(small).resize((WIDTH, HEIGHT)).save(path, quality=90)
            annotations = []
            for _ in range(8):
                left, top = rng.uniform(0, 400), rng.uniform(0, 250)
                turn = np.linspace(0, 6.2, 25)
                points = [left + 90 + 80 * np.cos(turn), top + 90 + 80 * np.sin(turn)]
                annotations.append(
                    {
                        "id": len(annotations),
                        "iscrowd": 0,
                        "category_id": int(rng.integers(0, 5)),
                        "bbox": [left + 10, top + 10, 160.0, 160.0],
                        "bbox_mode": BoxMode.XYWH_ABS,
                        "segmentation": [np.stack(points, 1).ravel().tolist()],
                    }
                )
            size = {"height": HEIGHT, "width": WIDTH}
            entry = {"file_name": str(path), "image_id": image, **size}
            records.append({**entry, "annotations": annotations})
        ours = UniversalDatasetMapper(
            Vocabulary.from_names(things=["a", "b", "c", "d", "e"]),
            training=True,
            min_sizes=(480,),
            max_size=1333,
            token_counts=[2] * 5,
            max_tokens=100,
        )
        detectron2 = DatasetMapper(
            is_train=True,
            augmentations=[T.ResizeShortestEdge(480, 1333), T.RandomFlip()],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="bitmask",
        )
        seconds = timed(
            {
                "ours": lambda: [ours(record) for record in records],
                "detectron2": lambda: [detectron2(record) for record in records],
            }
        )
    return {
        "images": number,
        "seconds": seconds["ours"],
        "detectron2_seconds": seconds["detectron2"],
        "times_faster": seconds["detectron2"] / seconds["ours"],
    }


def confusion(scale: float) -> dict[str, float]:
    """Compare `confusion_matrix` with Detectron2's `SemSegEvaluator`."""
    rng = np.random.default_rng(0)
    number = max(4, int(LABEL_MAPS * scale))
    pool = []
    for _ in range(20):
        target = np.kron(rng.integers(0, CLASSES + 1, (16, 16)), np.ones((32, 32), dtype=np.int64))
        wrong = rng.random(target.shape) < 0.1
        labels = rng.integers(0, CLASSES, target.shape)
        pool.append((np.where(wrong, labels, np.maximum(target - 1, 0)), target))
    totals: dict[str, np.ndarray] = {}

    def ours() -> None:
        total = np.zeros((CLASSES, CLASSES), dtype=np.int64)
        for k in range(number):
            prediction, target = pool[k % len(pool)]
            total += confusion_matrix(prediction, target - 1, CLASSES)
        totals["ours"] = total

    def detectron2() -> None:
        total = np.zeros((CLASSES + 1, CLASSES + 1), dtype=np.int64)
        for k in range(number):
            prediction, target = pool[k % len(pool)]
            labels = target.copy()
            labels[labels == 0] = CLASSES + 1
            pairs = (CLASSES + 1) * prediction.reshape(-1) + (labels.reshape(-1) - 1)
            total += np.bincount(pairs, minlength=total.size).reshape(total.shape)
        totals["detectron2"] = total.T[:-1, :-1]

    seconds = timed({"ours": ours, "detectron2": detectron2}, rounds=2)
    if not np.array_equal(totals["ours"], totals["detectron2"]):
        raise AssertionError("the two implementations disagree")
    return {
        "label_maps": number,
        "seconds": seconds["ours"],
        "detectron2_seconds": seconds["detectron2"],
        "times_faster": seconds["detectron2"] / seconds["ours"],
    }


SECTIONS = {
    "referring": referring,
    "parsing": parsing,
    "loading": loading,
    "confusion": confusion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the sizes (default 1)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="output folder of results.json"
    )
    parser.add_argument("--parse", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if args.parse:
        print(json.dumps(parse(args.parse)))
        return 0
    results = {}
    for name in args.only:
        results[name] = SECTIONS[name](args.scale)
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in results[name].items())
        print(f"{name}: {numbers}", flush=True)
    if args.output:
        write_results(results, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
