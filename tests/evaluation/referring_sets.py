"""Small data sets of expressions with random masks, and random predictions for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Instances

KINDS = ("empty", "full", "some", "some", "some")


def random_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a mask, bool [H, W]: empty, full or a random rectangle with holes."""
    kind = KINDS[rng.integers(len(KINDS))]
    mask = np.full(size, kind == "full")
    if kind == "some":
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[top:, left:] = rng.random((size[0] - top, size[1] - left)) < 0.8
    return mask


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Encode a bool mask as compressed RLE."""
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def make_prediction(masks: list[np.ndarray], size: tuple[int, int], as_rle: bool) -> Instances:
    """Make the prediction of an expression from several masks, as arrays or RLEs."""
    instances = Instances(size)
    if as_rle:
        instances.pred_masks_rle = [encode_rle(mask) for mask in masks]
    else:
        instances.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    return instances


def random_set(seed: int, images: int = 24) -> tuple[list[dict], list[dict], list[tuple]]:
    """Draw a data set, predictions, and their masks.

    Returns:
        Records in four groups, one output dict a record, and for every expression (group, image,
        expression, predicted mask, target mask, whether it has a target), in order.
    """
    rng = np.random.default_rng(seed)
    records, outputs, pairs = [], [], []
    for number in range(images):
        size = (int(rng.integers(5, 30)), int(rng.integers(5, 30)))
        masks = [random_mask(rng, size) for _ in range(3)]
        record: dict[str, Any] = {
            "file_name": f"{number}.jpg",
            "image_id": number,
            "height": size[0],
            "width": size[1],
            "group_id": number % 4,
            "annotations": [{"id": i, "segmentation": encode_rle(m)} for i, m in enumerate(masks)],
            "expressions": [],
        }
        predictions = []
        for expression in range(4):
            targets = sorted(rng.permutation(3)[: rng.integers(0, 3)].tolist())
            record["expressions"].append(
                {"expression": "it", "sent_id": expression, "targets": targets}
            )
            predicted = [random_mask(rng, size) for _ in range(rng.integers(0, 3))]
            as_rle = bool(rng.integers(2))
            predictions.append(make_prediction(predicted, size, as_rle))
            empty = np.zeros(size, bool)
            prediction = np.any([empty, *predicted], axis=0)
            target = np.any([empty, *(masks[t] for t in targets)], axis=0)
            pairs.append((number % 4, number, expression, prediction, target, bool(targets)))
        records.append(record)
        outputs.append({"referring": predictions})
    return records, outputs, pairs
