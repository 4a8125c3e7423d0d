"""Is the picture book a task worth learning, and does a model read the words?

Four questions, each with a bound that a sensible answer keeps:

* colours: how well does the nearest neighbour in colour name a pixel? (mIoU, at most 35)
* sentences: what is left of referring oIoU when every sentence is one of another page? (at most
  half)
* pairs: what is the oIoU of sentences with a pair of attribute and thing that training withheld,
  against that of the others on the same pages? (at least half)
* classes: are things found whose names training never saw (AR@100), and called by their names?

    python benchmarks/picturebook.py [--config-file FILE] [--weights FILE] [--pages N]
        [--questions colours sentences pairs classes] [--output FILE] [KEY VALUE ...]

Prints a table and writes JSON. `--pages 0` takes all pages of the splits.
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

# A program beside this one has the package's name, which it must not hide.
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

QUESTIONS = ("colours", "sentences", "pairs", "classes")
COLOUR_PAGES = 300
PIXELS_A_PAGE = 1000
MOST_COLOUR_MIOU = 35.0
MOST_SHUFFLED = 0.5
LEAST_UNSEEN_PAIRS = 0.5

Row = tuple[str, str, str]


class NearestColour:
    """Names a pixel after the training pixel whose colour is nearest; ties go to the majority.

    Args:
        colours: [N, 3] uint8.
        labels: [N] class indices.
    """

    def __init__(self, colours: np.ndarray, labels: np.ndarray) -> None:
        known, places = np.unique(_packed(colours), return_inverse=True)
        votes = np.zeros((len(known), int(labels.max()) + 1), np.int32)
        np.add.at(votes, (places, labels), 1)
        self._labels = votes.argmax(1)
        self._tree = cKDTree(_unpacked(known))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Class indices [H, W] of a picture [H, W, 3] uint8."""
        colours, places = np.unique(_packed(image.reshape(-1, 3)), return_inverse=True)
        nearest = self._tree.query(_unpacked(colours))[1]
        return self._labels[nearest][places].reshape(image.shape[:2])


def _packed(colours: np.ndarray) -> np.ndarray:
    return colours.astype(np.int64) @ np.array([65536, 256, 1])


def _unpacked(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 16, (packed >> 8) & 255, packed & 255], axis=1)


def colour_miou(pages: int, seed: int = 0) -> float:
    """mIoU in percent of `NearestColour` on the first `pages` of val, learnt from train."""
    rng = np.random.default_rng(seed)
    colours, labels = [], []
    for record in DatasetCatalog.get("picturebook_train_panoptic")[:COLOUR_PAGES]:
        image, truth = _pixels(record)
        kept = rng.permutation(np.flatnonzero(truth != IGNORE_LABEL))[:PIXELS_A_PAGE]
        colours.append(image.reshape(-1, 3)[kept])
        labels.append(truth.reshape(-1)[kept])
    classifier = NearestColour(np.concatenate(colours), np.concatenate(labels))
    classes = len(picturebook_vocabulary().classes)
    counts = np.zeros((classes, classes), np.int64)
    for record in tqdm(DatasetCatalog.get("picturebook_val_panoptic")[:pages], desc="colours"):
        image, truth = _pixels(record)
        counts += confusion_matrix(
            classifier(image), np.where(truth == IGNORE_LABEL, -1, truth), classes
        )
    return mean_iou(class_ious(counts))


def _pixels(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    labels = read_label_map(record["sem_seg_file_name"]).astype(np.int64)
    return read_image(record["file_name"]), labels


def shuffled_sentences(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    """As many sentences for every page, none of them its own: the list moved along by its half.

    Raises:
        ValueError: if one page has more than half of all sentences.
    """
    flat = [text for page in sentences for text in page]
    if max(len(page) for page in sentences) > len(flat) // 2:
        raise ValueError("too few pages to give every page the sentences of others: ask for more")
    moved = iter(flat[len(flat) // 2 :] + flat[: len(flat) // 2])
    return [list(islice(moved, len(page))) for page in sentences]


@torch.no_grad()
def answered(
    model: torch.nn.Module, cfg: CfgNode, name: str, pages: int, shuffle: bool = False
) -> Iterator[tuple[MaskOverlap, str]]:
    """For every sentence: common pixels, pixels in either mask, and what is new in its words.

    Args:
        model: in evaluation mode.
        cfg: of the loader.
        name: a data set of sentences.
        pages: how many pages.
        shuffle: ask other pages' sentences, and compare with what the page's own would mean.
    """
    records = DatasetCatalog.get(name)[:pages]
    words = [[one["expression"] for one in record["expressions"]] for record in records]
    asked = shuffled_sentences(words) if shuffle else words
    loader = islice(build_test_loader(cfg, name), len(records))
    title = f"{name}{', shuffled' if shuffle else ''}"
    for record, texts, inputs in tqdm(
        zip(records, asked, loader, strict=True), total=len(records), desc=title
    ):
        answers = model([{**inputs[0], "expressions": texts}])[0]["referring"]
        for sentence, answer, target in match_expressions(record, answers):
            yield mask_overlap(answer, target), str(sentence["held_out"] or "")


def overall_iou(counts: Sequence[tuple[MaskOverlap, str]]) -> float:
    """oIoU in percent."""
    return referring_scores([overlap for overlap, _ in counts])["oIoU"]


def ask_sentences(model: torch.nn.Module, cfg: CfgNode, pages: int) -> dict[str, float]:
    """Referring oIoU with the true sentences and with shuffled ones."""
    name = "picturebook_val_refer"
    true = list(answered(model, cfg, name, pages))
    shuffled = list(answered(model, cfg, name, pages, shuffle=True))
    return {
        "oIoU": overall_iou(true),
        "oIoU-shuffled": overall_iou(shuffled),
        "sentences": len(true),
    }


def ask_pairs(model: torch.nn.Module, cfg: CfgNode, pages: int) -> dict[str, float]:
    """Referring oIoU on the pages of the split `unseen`, by what is new in the words."""
    counts = list(answered(model, cfg, "picturebook_unseen_refer", pages))
    found = {}
    for key, new in (("seen", ""), ("pair", "pair"), ("class", "class")):
        chosen = [one for one in counts if one[1] == new]
        found |= {f"oIoU-{key}": overall_iou(chosen), f"sentences-{key}": len(chosen)}
    return found


@torch.no_grad()
def ask_classes(model: torch.nn.Module, cfg: CfgNode, pages: int) -> dict[str, float]:
    """`ClassAgnosticRecall` over the first pages of the split `unseen`."""
    name = "picturebook_unseen_panoptic"
    judge = ClassAgnosticRecall(name, distributed=False)
    total = min(pages, len(DatasetCatalog.get(name)))
    loader = islice(build_test_loader(cfg, name), total)
    for inputs in tqdm(loader, total=total, desc=name):
        judge.process(inputs, model(inputs))
    return dict(judge.evaluate()["unseen"])


def table(found: dict[str, dict[str, float]]) -> str:
    """What was found, as Markdown: the measure, its value, the bound and whether it is kept."""
    rows: list[Row] = []
    if "colours" in found:
        value = found["colours"]["mIoU"]
        rows.append(
            ("mIoU of the nearest colour", f"{value:.1f}", _at_most(value, MOST_COLOUR_MIOU))
        )
    if "sentences" in found:
        true, shuffled = found["sentences"]["oIoU"], found["sentences"]["oIoU-shuffled"]
        bound = _at_most(shuffled, MOST_SHUFFLED * true)
        rows += [
            ("oIoU, true sentences", f"{true:.1f}", ""),
            ("oIoU, sentences of other pages", f"{shuffled:.1f}", bound),
        ]
    if "pairs" in found:
        seen, pair = found["pairs"]["oIoU-seen"], found["pairs"]["oIoU-pair"]
        bound = _at_least(pair, LEAST_UNSEEN_PAIRS * seen)
        rows += [
            ("oIoU, words seen in training", f"{seen:.1f}", ""),
            ("oIoU, pairs never seen", f"{pair:.1f}", bound),
            ("oIoU, class names never seen", f"{found['pairs']['oIoU-class']:.1f}", ""),
        ]
    if "classes" in found:
        one = found["classes"]
        interval = f"{one['naming_low']:.1f} to {one['naming_high']:.1f}"
        rows += [
            ("AR@100, classes never seen", f"{one['AR@100']:.1f}", ""),
            ("named rightly, percent (95 % interval)", f"{one['naming']:.1f} ({interval})", ""),
            ("chance, percent", f"{one['chance']:.1f}", ""),
        ]
    lines = [f"| {name} | {value} | {bound} |" for name, value, bound in rows]
    return "\n".join(["| measure | found | bound |", "|---|---|---|", *lines])


def _at_most(value: float, bound: float) -> str:
    return f"at most {bound:.1f}: {'kept' if value <= bound else 'BROKEN'}"


def _at_least(value: float, bound: float) -> str:
    return f"at least {bound:.1f}: {'kept' if value >= bound else 'BROKEN'}"


def configuration(config_file: str, weights: str | None, options: Sequence[str]) -> CfgNode:
    """The configuration with its data sets registered, and its weights' place in it."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    file = str(model_zoo.get_config_file(config_file))
    merge(cfg, file, options)
    # Of the training pages only these are read, and only these are drawn if none are there.
    cfg.PICTUREBOOK.TRAIN_PAGES = min(cfg.PICTUREBOOK.TRAIN_PAGES, COLOUR_PAGES)
    cfg.MODEL.WEIGHTS = str(weights or cfg.MODEL.WEIGHTS or model_zoo.get_weights(file) or "")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    register_all(cfg)
    return cfg


def load_model(cfg: CfgNode) -> torch.nn.Module:
    """The trained model, in evaluation mode.

    Raises:
        ValueError: if there are no weights.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("the package carries no weights for this configuration: --weights FILE")
    model = build_model(cfg).eval()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def main(words: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run the program; returns what it found, by question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--weights", metavar="FILE", help="default: those of the configuration")
    parser.add_argument("--pages", type=int, default=100, help="pages a split; 0: all")
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/picturebook"))
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", default=[])
    args = parser.parse_args(words)
    pages = args.pages or sys.maxsize
    found: dict[str, dict[str, float]] = {}
    try:
        cfg = configuration(args.config_file, args.weights, args.options)
        if "colours" in args.questions:
            found["colours"] = {"mIoU": colour_miou(pages)}
        asked = {"sentences": ask_sentences, "pairs": ask_pairs, "classes": ask_classes}
        chosen = {name: ask for name, ask in asked.items() if name in args.questions}
        model = load_model(cfg) if chosen else None
        for name, ask in chosen.items():
            found[name] = ask(model, cfg, pages)
    except (ValueError, OSError) as error:
        sys.exit(f"picturebook.py: {error}")
    print(table(found))
    print(f"written to {write_results(found, args.output)}")
    return found


if __name__ == "__main__":
    main()
