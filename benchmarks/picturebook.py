"""Baselines of the picture book, and generalisation of a model to withheld classes and pairs.

Four measurements, most of them with a bound:

* colours: mIoU of a nearest-neighbour classifier of pixel colours (at most 35).
* expressions: referring oIoU when every expression is replaced by one of another page (at most half
  of the oIoU with its own).
* pairs: referring oIoU of expressions that name a pair of attribute and class that training
  withheld (at least half of that of the other expressions on the same pages).
* classes: class-agnostic recall (AR@100) of classes that training withheld, and the accuracy of
  their classification.

    python benchmarks/picturebook.py [--config-file FILE] [--weights FILE] [--pages N]
        [--measurements colours expressions pairs classes] [--output FOLDER] [KEY VALUE ...]

Prints a table and writes JSON. `--pages 0` uses all pages of the splits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from scipy.spatial import cKDTree
from tqdm import tqdm

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie import add_hipie_config, model_zoo
from hipie.checkpoint import Checkpointer
from hipie.config.loading import merge
from hipie.data.build import build_test_loader
from hipie.data.datasets import register_all
from hipie.data.datasets.picturebook import IGNORE_LABEL, picturebook_vocabulary
from hipie.data.image_io import read_image, read_label_map
from hipie.evaluation import ClassAgnosticRecall, write_results
from hipie.evaluation.metrics.expression_iou import (
    MaskOverlap,
    mask_overlap,
    match_expressions,
    referring_scores,
)
from hipie.evaluation.metrics.part_iou import class_ious, confusion_matrix, mean_iou

MEASUREMENTS = ("colours", "expressions", "pairs", "classes")
COLOUR_PAGES = 300
PIXELS_PER_PAGE = 1000
MAX_COLOUR_MIOU = 35.0
MAX_SHUFFLED_RATIO = 0.5
MIN_UNSEEN_PAIRS_RATIO = 0.5

Row = tuple[str, str, str]


class NearestColourClassifier:
    """Classify a pixel by the nearest training colour; the majority class of equal colours.

    Args:
        colours: [N, 3] uint8.
        labels: [N] class indices.
    """

    def __init__(self, colours: np.ndarray, labels: np.ndarray) -> None:
        codes, inverse = np.unique(_packed(colours), return_inverse=True)
        votes = np.zeros((len(codes), int(labels.max()) + 1), np.int32)
        np.add.at(votes, (inverse, labels), 1)
        self._labels = votes.argmax(1)
        self._tree = cKDTree(_unpacked(codes))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Classify the pixels of an image [H, W, 3] uint8: class indices [H, W]."""
        codes, inverse = np.unique(_packed(image.reshape(-1, 3)), return_inverse=True)
        nearest = self._tree.query(_unpacked(codes))[1]
        return self._labels[nearest][inverse].reshape(image.shape[:2])


def _packed(colours: np.ndarray) -> np.ndarray:
    return colours.astype(np.int64) @ np.array([65536, 256, 1])


def _unpacked(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 16, (packed >> 8) & 255, packed & 255], axis=1)


def colour_miou(pages: int, seed: int = 0) -> float:
    """Compute the mIoU of `NearestColourClassifier` in percent.

    It is fitted to pages of the training split and evaluated on the first `pages` of val.
    """
    rng = np.random.default_rng(seed)
    colours, labels = [], []
    for record in DatasetCatalog.get("picturebook_train_panoptic")[:COLOUR_PAGES]:
        image, target = _pixels(record)
        pixels = rng.permutation(np.flatnonzero(target != IGNORE_LABEL))[:PIXELS_PER_PAGE]
        colours.append(image.reshape(-1, 3)[pixels])
        labels.append(target.reshape(-1)[pixels])
    classifier = NearestColourClassifier(np.concatenate(colours), np.concatenate(labels))
    num_classes = len(picturebook_vocabulary().classes)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for record in tqdm(DatasetCatalog.get("picturebook_val_panoptic")[:pages], desc="colours"):
        image, target = _pixels(record)
        confusion += confusion_matrix(
            classifier(image), np.where(target == IGNORE_LABEL, -1, target), num_classes
        )
    return mean_iou(class_ious(confusion))


def _pixels(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    labels = read_label_map(record["sem_seg_file_name"]).astype(np.int64)
    return read_image(record["file_name"]), labels


def shuffle_expressions(expressions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Exchange the expressions of pages: a rotation of their list by half its length.

    Args:
        expressions: expressions of every page.

    Returns:
        As many expressions of other pages for every page.

    Raises:
        ValueError: if one page has more than half of all expressions.
    """
    flat = [text for page in expressions for text in page]
    if max(len(page) for page in expressions) > len(flat) // 2:
        raise ValueError("too few pages to exchange their expressions; raise --pages")
    rotated = iter(flat[len(flat) // 2 :] + flat[: len(flat) // 2])
    return [list(islice(rotated, len(page))) for page in expressions]


@torch.no_grad()
def expression_overlaps(
    model: torch.nn.Module, cfg: CfgNode, name: str, pages: int, shuffle: bool = False
) -> Iterator[tuple[MaskOverlap, str]]:
    """Yield the mask overlap of every expression, and what it names that training withheld.

    Args:
        model: in evaluation mode.
        cfg: of the loader.
        name: a data set of expressions.
        pages: number of pages.
        shuffle: segment expressions of other pages, with the targets of the page's own.
    """
    records = DatasetCatalog.get(name)[:pages]
    own = [[item["expression"] for item in record["expressions"]] for record in records]
    expressions = shuffle_expressions(own) if shuffle else own
    loader = islice(build_test_loader(cfg, name), len(records))
    title = f"{name}{', shuffled' if shuffle else ''}"
    for record, texts, inputs in tqdm(
        zip(records, expressions, loader, strict=True), total=len(records), desc=title
    ):
        predictions = model([{**inputs[0], "expressions": texts}])[0]["referring"]
        for expression, mask, target in match_expressions(record, predictions):
            yield mask_overlap(mask, target), str(expression["held_out"] or "")


def overall_iou(overlaps: Sequence[tuple[MaskOverlap, str]]) -> float:
    """Compute the oIoU in percent."""
    return referring_scores([overlap for overlap, _ in overlaps])["oIoU"]


def measure_expressions(model: torch.nn.Module, cfg: CfgNode, pages: int) -> dict[str, float]:
    """Measure the referring oIoU with the expressions of the page and of other pages."""
    name = "picturebook_val_refer"
    own = list(expression_overlaps(model, cfg, name, pages))
    shuffled = list(expression_overlaps(model, cfg, name, pages, shuffle=True))
    return {
        "oIoU": overall_iou(own),
        "oIoU-shuffled": overall_iou(shuffled),
        "num_expressions": len(own),
    }


def measure_pairs(model: torch.nn.Module, cfg: CfgNode, pages: int) -> dict[str, float]:
    """Measure the referring oIoU on the split `unseen`, by what training withheld."""
    overlaps = list(expression_overlaps(model, cfg, "picturebook_unseen_refer", pages))
    results = {}
    for key, held_out in (("seen", ""), ("pair", "pair"), ("class", "class")):
        group = [item for item in overlaps if item[1] == held_out]
        results |= {f"oIoU-{key}": overall_iou(group), f"num_expressions-{key}": len(group)}
    return results


@torch.no_grad()
def measure_classes(model: torch.nn.Module, cfg: CfgNode, pages: int) -> dict[str, float]:
    """Compute `ClassAgnosticRecall` over the first pages of the split `unseen`."""
    name = "picturebook_unseen_panoptic"
    evaluator = ClassAgnosticRecall(name, distributed=False)
    total = min(pages, len(DatasetCatalog.get(name)))
    loader = islice(build_test_loader(cfg, name), total)
    for inputs in tqdm(loader, total=total, desc=name):
        evaluator.process(inputs, model(inputs))
    return dict(evaluator.evaluate()["unseen"])


def table(results: dict[str, dict[str, float]]) -> str:
    """Format the results as Markdown: measure, result, bound and whether it is met."""
    rows: list[Row] = []
    if "colours" in results:
        value = results["colours"]["mIoU"]
        rows.append(
            ("mIoU of the nearest colour", f"{value:.1f}", _at_most(value, MAX_COLOUR_MIOU))
        )
    if "expressions" in results:
        own, shuffled = results["expressions"]["oIoU"], results["expressions"]["oIoU-shuffled"]
        bound = _at_most(shuffled, MAX_SHUFFLED_RATIO * own)
        rows += [
            ("oIoU, expressions of the page", f"{own:.1f}", ""),
            ("oIoU, expressions of other pages", f"{shuffled:.1f}", bound),
        ]
    if "pairs" in results:
        seen, pair = results["pairs"]["oIoU-seen"], results["pairs"]["oIoU-pair"]
        bound = _at_least(pair, MIN_UNSEEN_PAIRS_RATIO * seen)
        rows += [
            ("oIoU, nothing withheld", f"{seen:.1f}", ""),
            ("oIoU, withheld pairs", f"{pair:.1f}", bound),
            ("oIoU, withheld class names", f"{results['pairs']['oIoU-class']:.1f}", ""),
        ]
    if "classes" in results:
        classes = results["classes"]
        interval = f"{classes['naming_low']:.1f} to {classes['naming_high']:.1f}"
        accuracy = f"{classes['naming']:.1f} ({interval})"
        rows += [
            ("AR@100, withheld classes", f"{classes['AR@100']:.1f}", ""),
            ("classification accuracy, percent (95 % interval)", accuracy, ""),
            ("accuracy by chance, percent", f"{classes['chance']:.1f}", ""),
        ]
    lines = [f"| {name} | {value} | {bound} |" for name, value, bound in rows]
    return "\n".join(["| measure | result | bound |", "|---|---|---|", *lines])


def _at_most(value: float, bound: float) -> str:
    return f"at most {bound:.1f}: {'met' if value <= bound else 'NOT MET'}"


def _at_least(value: float, bound: float) -> str:
    return f"at least {bound:.1f}: {'met' if value >= bound else 'NOT MET'}"


def build_cfg(config_file: str, weights: str | None, options: Sequence[str]) -> CfgNode:
    """Build the configuration with `MODEL.WEIGHTS`, and register its data sets."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    file = str(model_zoo.get_config_file(config_file))
    merge(cfg, file, options)
    # Only these training pages are read; missing ones are drawn.
    cfg.PICTUREBOOK.TRAIN_PAGES = min(cfg.PICTUREBOOK.TRAIN_PAGES, COLOUR_PAGES)
    cfg.MODEL.WEIGHTS = str(weights or cfg.MODEL.WEIGHTS or model_zoo.get_weights(file) or "")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    register_all(cfg)
    return cfg


def load_model(cfg: CfgNode) -> torch.nn.Module:
    """Build the trained model in evaluation mode.

    Raises:
        ValueError: if there are no weights.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("the package has no weights for this configuration; pass --weights FILE")
    model = build_model(cfg).eval()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run the program and return the results by measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--weights", metavar="FILE", help="default: the configuration's weights")
    parser.add_argument("--pages", type=int, default=100, help="pages of each split; 0: all")
    parser.add_argument(
        "--measurements", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS)
    )
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/picturebook"))
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", default=[])
    args = parser.parse_args(arguments)
    pages = args.pages or sys.maxsize
    results: dict[str, dict[str, float]] = {}
    try:
        cfg = build_cfg(args.config_file, args.weights, args.options)
        if "colours" in args.measurements:
            results["colours"] = {"mIoU": colour_miou(pages)}
        measures = {
            "expressions": measure_expressions,
            "pairs": measure_pairs,
            "classes": measure_classes,
        }
        selected = {name: measures[name] for name in measures if name in args.measurements}
        model = load_model(cfg) if selected else None
        for name, measure in selected.items():
            results[name] = measure(model, cfg, pages)
    except (ValueError, OSError) as error:
        sys.exit(f"picturebook.py: {error}")
    print(table(results))
    print(f"written to {write_results(results, args.output)}")
    return results


if __name__ == "__main__":
    main()
