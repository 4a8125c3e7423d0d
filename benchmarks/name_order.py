"""Does the order in which classes are named change what is found?

The caption of a vocabulary is one text, and a text encoder sees the order of its words. This
measures panoptic quality with the book's own order and with others, and prints the spread.

    python benchmarks/name_order.py [--config-file FILE] [--weights FILE] [--pages N] [--orders N]
        [--output FOLDER] [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.modeling import build_model
from tqdm import tqdm

# A program beside this one has the package's name, which it must not hide.
sys.path[0] = str(Path(__file__).parents[1])
from hipie import add_hipie_config, model_zoo
from hipie.checkpoint import Checkpointer
from hipie.config.loading import merge
from hipie.data.build import build_test_loader
from hipie.data.datasets import register_all
from hipie.data.datasets.coco import register
from hipie.evaluation import write_results
from hipie.vocabularies.vocabulary import Vocabulary

DATASET = "picturebook_val_panoptic"


def first_pages(name: str, pages: int, folder: Path) -> str:
    """Register the first pages of a panoptic data set as one of its own.

    Args:
        name: a registered data set.
        pages: how many; all if it has fewer.
        folder: where its truth is written.

    Returns:
        the name of the new data set.
    """
    records = DatasetCatalog.get(name)[:pages]
    metadata = MetadataCatalog.get(name).as_dict()
    del metadata["name"]
    truth = json.loads(Path(metadata["panoptic_json"]).read_text())
    kept = {record["image_id"] for record in records}
    truth["images"] = [one for one in truth["images"] if one["id"] in kept]
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] in kept]
    file = folder / "panoptic.json"
    file.write_text(json.dumps(truth))
    shorter = f"{name}_first_{len(records)}"
    register(shorter, lambda: records, **{**metadata, "panoptic_json": str(file)})
    return shorter


def in_book_order(output: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """A prediction over a reordered vocabulary, with the category ids of the original one."""
    panoptic, segments = output["panoptic_seg"]
    renamed = [{**one, "category_id": int(order[one["category_id"]])} for one in segments]
    return {"panoptic_seg": (panoptic, renamed)}


@torch.no_grad()
def panoptic_quality(
    model: torch.nn.Module, cfg: CfgNode, name: str, order: Sequence[int]
) -> float:
    """PQ in percent with the classes named in an order (positions in the data set's own)."""
    classes = MetadataCatalog.get(name).vocabulary.classes
    vocabulary = Vocabulary([classes[position] for position in order])
    judge = COCOPanopticEvaluator(name)
    judge.reset()
    for inputs in tqdm(build_test_loader(cfg, name), desc="pages", leave=False):
        outputs = model([{**item, "vocabulary": vocabulary} for item in inputs])
        judge.process(inputs, [in_book_order(output, order) for output in outputs])
    return float(judge.evaluate()["panoptic_seg"]["PQ"])


def orders(classes: int, number: int, seed: int = 0) -> list[list[int]]:
    """The order as it is, then random ones."""
    rng = np.random.default_rng(seed)
    return [list(range(classes)), *(rng.permutation(classes).tolist() for _ in range(number - 1))]


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program; returns what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--weights", metavar="FILE", help="default: those of the configuration")
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/name_order"))
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", default=[])
    args = parser.parse_args(words)
    cfg = get_cfg()
    add_hipie_config(cfg)
    file = str(model_zoo.get_config_file(args.config_file))
    merge(cfg, file, args.options)
    weights = args.weights or cfg.MODEL.WEIGHTS or model_zoo.get_weights(file)
    if not weights:
        sys.exit("name_order.py: the package carries no weights for this: --weights FILE")
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    register_all(cfg)
    model = build_model(cfg).eval()
    Checkpointer(model).load(str(weights))
    with tempfile.TemporaryDirectory() as folder:
        name = first_pages(DATASET, args.pages, Path(folder))
        number = len(MetadataCatalog.get(name).vocabulary.classes)
        found = []
        for order in orders(number, args.orders):
            found.append(panoptic_quality(model, cfg, name, order))
            print(f"order {len(found)}: PQ {found[-1]:.2f}", flush=True)
    spread = {
        "PQ": {str(i): one for i, one in enumerate(found)},
        "PQ-spread": max(found) - min(found),
    }
    print(f"largest less smallest over {len(found)} orders: {spread['PQ-spread']:.2f}")
    print(f"written to {write_results(spread, args.output)}")
    return spread


if __name__ == "__main__":
    main()
