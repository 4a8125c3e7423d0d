"""Effect of the order of class names on panoptic quality.

The caption of a vocabulary is one text, whose token features depend on the order of the names. This
measures panoptic quality with the order of the data set and with random ones, and prints the range.

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

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie import add_hipie_config, model_zoo
from hipie.checkpoint import Checkpointer
from hipie.config.loading import merge
from hipie.data.build import build_test_loader
from hipie.data.datasets import register_all
from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import write_results
from hipie.vocabularies.vocabulary import Vocabulary

DATASET = "picturebook_val_panoptic"


def first_pages(name: str, pages: int, folder: Path) -> str:
    """Register the first pages of a panoptic data set as a data set.

    Args:
        name: a registered data set.
        pages: how many; all if it has fewer.
        folder: the annotation file is written there.

    Returns:
        Name of the new data set.
    """
    records = DatasetCatalog.get(name)[:pages]
    metadata = MetadataCatalog.get(name).as_dict()
    del metadata["name"]
    annotation = json.loads(Path(metadata["panoptic_json"]).read_text())
    image_ids = {record["image_id"] for record in records}
    annotation["images"] = [entry for entry in annotation["images"] if entry["id"] in image_ids]
    annotation["annotations"] = [
        entry for entry in annotation["annotations"] if entry["image_id"] in image_ids
    ]
    file = folder / "panoptic.json"
    file.write_text(json.dumps(annotation))
    subset = f"{name}_first_{len(records)}"
    register_dataset(subset, lambda: records, **{**metadata, "panoptic_json": str(file)})
    return subset


def in_dataset_order(output: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """Map a prediction over a reordered vocabulary to the category ids of the data set."""
    panoptic, segments = output["panoptic_seg"]
    mapped = [{**info, "category_id": int(order[info["category_id"]])} for info in segments]
    return {"panoptic_seg": (panoptic, mapped)}


@torch.no_grad()
def panoptic_quality(
    model: torch.nn.Module, cfg: CfgNode, name: str, order: Sequence[int]
) -> float:
    """Compute PQ in percent with the classes in an order, given as positions in the data set's."""
    classes = MetadataCatalog.get(name).vocabulary.classes
    vocabulary = Vocabulary([classes[position] for position in order])
    evaluator = COCOPanopticEvaluator(name)
    evaluator.reset()
    for inputs in tqdm(build_test_loader(cfg, name), desc="pages", leave=False):
        outputs = model([{**item, "vocabulary": vocabulary} for item in inputs])
        evaluator.process(inputs, [in_dataset_order(output, order) for output in outputs])
    return float(evaluator.evaluate()["panoptic_seg"]["PQ"])


def orders(classes: int, number: int, seed: int = 0) -> list[list[int]]:
    """Return the order of the data set, then random ones."""
    rng = np.random.default_rng(seed)
    return [list(range(classes)), *(rng.permutation(classes).tolist() for _ in range(number - 1))]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program and return the written results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--weights", metavar="FILE", help="default: the configuration's weights")
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/name_order"))
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", default=[])
    args = parser.parse_args(arguments)
    cfg = get_cfg()
    add_hipie_config(cfg)
    file = str(model_zoo.get_config_file(args.config_file))
    merge(cfg, file, args.options)
    weights = args.weights or cfg.MODEL.WEIGHTS or model_zoo.get_weights(file)
    if not weights:
        sys.exit(
            "name_order.py: the package has no weights for this configuration; pass --weights FILE"
        )
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    register_all(cfg)
    model = build_model(cfg).eval()
    Checkpointer(model).load(str(weights))
    with tempfile.TemporaryDirectory() as folder:
        name = first_pages(DATASET, args.pages, Path(folder))
        number = len(MetadataCatalog.get(name).vocabulary.classes)
        qualities = []
        for order in orders(number, args.orders):
            qualities.append(panoptic_quality(model, cfg, name, order))
            print(f"order {len(qualities)}: PQ {qualities[-1]:.2f}", flush=True)
    results = {
        "PQ": {str(i): quality for i, quality in enumerate(qualities)},
        "PQ-range": max(qualities) - min(qualities),
    }
    print(f"range over {len(qualities)} orders: {results['PQ-range']:.2f}")
    print(f"written to {write_results(results, args.output)}")
    return results


if __name__ == "__main__":
    main()
