"""Small data sets of expressions with random masks, and random answers to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Instances

KINDS = ("empty", "full", "some", "some", "some")


def random_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Bool [H, W]: empty, full or a random rectangle with holes."""
    kind = KINDS[rng.integers(len(KINDS))]
    mask = np.full(size, kind == "full")
    if kind == "some":
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[top:, left:] = rng.random((size[0] - top, size[1] - left)) < 0.8
    return mask


def runs(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths of a bool mask."""
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def answer(masks: list[np.ndarray], size: tuple[int, int], as_runs: bool) -> Instances:
    """An answer of several masks, drawn or as run lengths."""
    found = Instances(size)
    if as_runs:
        found.pred_masks_rle = [runs(mask) for mask in masks]
    else:
        found.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    return found


def random_set(seed: int, images: int = 24) -> tuple[list[dict], list[dict], list[tuple]]:
    """A data set, answers, and the truth of it.

    Returns:
        (records in four groups, one output dict a record, and for every expression (group, image,
        expression, answer mask, target mask, whether something is meant), in order).
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
            "annotations": [{"id": i, "segmentation": runs(m)} for i, m in enumerate(masks)],
            "expressions": [],
        }
        answers = []
        for expression in range(4):
            targets = sorted(rng.permutation(3)[: rng.integers(0, 3)].tolist())
            record["expressions"].append(
                {"expression": "it", "sent_id": expression, "targets": targets}
            )
            found = [random_mask(rng, size) for _ in range(rng.integers(0, 3))]
            answers.append(answer(found, size, as_runs=bool(rng.integers(2))))
            empty = np.zeros(size, bool)
            drawn = np.any([empty, *found], axis=0)
            wanted = np.any([empty, *(masks[t] for t in targets)], axis=0)
            pairs.append((number % 4, number, expression, drawn, wanted, bool(targets)))
        records.append(record)
        outputs.append({"referring": answers})
    return records, outputs, pairs
