"""Masks of objects of which only boxes, points or scribbles are annotated, with a confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from scipy import ndimage

from hipie.box_ops import masks_to_boxes
from hipie.data.dataset_mappers.annotations import instance_masks
from hipie.data.dataset_mappers.weak_objects import WeakAnnotations, weak_annotations
from hipie.data.supervision import BOXES, POINTS, SCRIBBLES, WeakLabels
from hipie.errors import InputError
from hipie.refinement import refine_masks

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam

PAMR, SAM = "pamr", "sam"
METHODS = (PAMR, SAM)
SAM_POINTS = 5
"""Points of an object, and beside it, that SAM is given at most."""


def pseudo_label(
    image: NDArray[np.uint8],
    record: Mapping[str, Any],
    labels: WeakLabels,
    sam: Sam | None = None,
) -> list[dict[str, Any]]:
    """Turn what is annotated of the objects of an image into masks.

    Without SAM, a mask starts as the filled box, or as the pixels whose nearest labelled one is on
    the object (of points, in the box), and follows the colours of the image by PAMR. Its confidence
    is the share of labelled points on the right side of it, times the IoU of its box and that of
    the object. With SAM the box and up to ten points are the prompt, and the confidence is the
    predicted IoU.

    Args:
        image: [H, W, 3] uint8 RGB.
        record: with `annotations` in COCO's format, and `image_id`.
        labels: what is read of the annotations, or derived from their masks.
        sam: the model; None = PAMR.

    Returns:
        The annotations without crowds, each with `segmentation` (compressed RLE), its `bbox` and
        `area`, and `score` in 0..1; those whose mask is empty are left out.
    """
    entries = [entry for entry in record["annotations"] if not entry.get("iscrowd", 0)]
    masks, _ = instance_masks(entries, image.shape[0], image.shape[1], T.NoOpTransform())
    kept = np.flatnonzero(masks.any(axis=(1, 2)))
    entries = [entries[i] for i in kept]
    if not entries:
        return []
    boxes, weak = weak_annotations(
        masks[kept], entries, T.NoOpTransform(), labels, record["image_id"]
    )
    if sam is None:
        masks = refine_masks(image, _first_masks(boxes, weak.points, labels.kind), PAMR)
        if labels.kind != SCRIBBLES:
            masks &= boxes
        scores = _agreement(masks, boxes, weak.points, labels.kind)
    else:
        masks, scores = _prompted(image, sam, boxes, weak, labels.kind)
    return [
        _annotation(entry, mask, score)
        for entry, mask, score in zip(entries, masks, scores, strict=True)
        if mask.any()
    ]


def require_kind(kind: str) -> None:
    """Check that masks can be made from a kind of supervision.

    Raises:
        InputError: if they cannot.
    """
    if kind not in (BOXES, POINTS, SCRIBBLES):
        raise InputError(f"masks are made from {BOXES}, {POINTS} or {SCRIBBLES}, not from {kind}")


def _first_masks(
    boxes: NDArray[np.bool_], points: NDArray[np.float32], kind: str
) -> NDArray[np.bool_]:
    """Masks [N, H, W] before their refinement; the arguments are those of `WeakAnnotations`."""
    if kind == BOXES:
        return boxes
    first = np.zeros_like(boxes)
    for place, box, of_object in zip(first, boxes, points, strict=True):
        labels = np.full(box.shape, -1)
        x, y, label = of_object[of_object[:, 2] >= 0].astype(int).T
        labels[y, x] = label
        nearest = ndimage.distance_transform_edt(
            labels < 0, return_distances=False, return_indices=True
        )
        place[:] = labels[tuple(nearest)] == 1
        if kind == POINTS:
            place &= box
    return first


def _agreement(
    masks: NDArray[np.bool_], boxes: NDArray[np.bool_], points: NDArray[np.float32], kind: str
) -> list[float]:
    """Confidence of refined masks, see `pseudo_label`."""
    scores = []
    for mask, box, of_object in zip(masks, boxes, points, strict=True):
        score = 1.0
        labelled = of_object[of_object[:, 2] >= 0].astype(int)
        if len(labelled):
            x, y, label = labelled.T
            score = float((mask[y, x] == (label == 1)).mean())
        if kind != SCRIBBLES and mask.any():
            extent = np.zeros_like(box)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            extent[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
            score *= float((extent & box).sum() / (extent | box).sum())
        scores.append(score)
    return scores


def _prompted(
    image: NDArray[np.uint8],
    sam: Sam,
    boxes: NDArray[np.bool_],
    weak: WeakAnnotations,
    kind: str,
) -> tuple[NDArray[np.bool_], list[float]]:
    """SAM's masks [N, H, W] of boxes and points, and the IoUs that it predicts."""
    encoded = sam.encode(image)
    corners = masks_to_boxes(torch.from_numpy(boxes))
    masks, scores = [], []
    for box, of_object in zip(corners, weak.points, strict=True):
        prompt: dict[str, Any] = {} if kind == SCRIBBLES else {"boxes": box[None]}
        by_label = [of_object[of_object[:, 2] == label] for label in (1, 0)]
        chosen = np.concatenate(
            [part[:: max(1, len(part) // SAM_POINTS)][:SAM_POINTS] for part in by_label]
        )
        if len(chosen):
            prompt |= {"points": chosen[None, :, :2], "labels": chosen[None, :, 2].astype(int)}
        result = encoded.predict(**prompt, multimask=kind == SCRIBBLES).best()
        masks.append(result.masks[0, 0].cpu().numpy())
        scores.append(float(result.scores[0, 0].clamp(0, 1)))
    return np.stack(masks), scores


def _annotation(entry: Mapping[str, Any], mask: NDArray[np.bool_], score: float) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "category_id": entry["category_id"],
        "bbox": [float(side) for side in mask_util.toBbox(rle)],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
        "score": round(score, 4),
    }


def coco_content(
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Sequence[dict[str, Any]]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Build the content of a COCO instance file; ids count from 1.

    Args:
        images: `file_name`, `height` and `width` of every image.
        annotations: of every image, with class indices as `category_id`.
        names: of the classes.
    """
    numbered: list[dict[str, Any]] = []
    for number, entries in enumerate(annotations, 1):
        for entry in entries:
            identity = {"id": len(numbered) + 1, "image_id": number}
            numbered.append({**entry, **identity, "category_id": entry["category_id"] + 1})
    return {
        "images": [{"id": number, **image} for number, image in enumerate(images, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": numbered,
    }
