"""Instance inference: Detectron2's `Instances` from selected (query, class) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from hipie.box_ops import box_cxcywh_to_xyxy
from hipie.modeling.device_transfer import to_device
from hipie.modeling.postprocessing.mask_upsampling import upsample_instance_masks
from hipie.structures import ImageQueries, Size


@dataclass(frozen=True)
class ImageFrame:
    """Sizes of an image.

    Attributes:
        input_size: (height, width) of the unpadded image as the model reads it.
        output_size: (height, width) of the results.
    """

    input_size: Size
    output_size: Size


class QueryMasks:
    """Mask logits of the queries of one image, for chosen queries or once for all.

    Args:
        queries: predictions of a decoder for one image.
    """

    def __init__(self, queries: ImageQueries) -> None:
        self._queries = queries
        self._all: Tensor | None = None

    def all(self) -> Tensor:
        """Mask logits [Q, h, w] of all queries; from now on, chosen ones are taken from these."""
        if self._all is None:
            boxes = self._queries.layer.boxes
            self._all = self._queries.masks(torch.arange(boxes.shape[1], device=boxes.device))
        return self._all

    @property
    def mask_features(self) -> Tensor:
        """Features [C, h, w] of which the masks are computed."""
        return self._queries.mask_features[0]

    def __call__(self, queries: Tensor) -> Tensor:
        """Mask logits of queries [n] -> [n, h, w] float32, at a quarter of the canvas."""
        return self._queries.masks(queries) if self._all is None else self._all[queries]


@dataclass(frozen=True)
class InstanceCandidates:
    """Selected (query, class) pairs before those with an empty box are left out.

    Attributes:
        queries: [n] row of the query of each pair; a query may occur several times.
        scores: [n].
        classes: [n].
        boxes: [n, 4] xyxy in pixels of the result, clipped to it.
        is_valid: [n, 2] bool: whether the unclipped box is finite, and the clipped one not empty.
    """

    queries: Tensor
    scores: Tensor
    classes: Tensor
    boxes: Tensor
    is_valid: Tensor

    @classmethod
    def from_pairs(
        cls, boxes: Tensor, queries: Tensor, scores: Tensor, classes: Tensor, frame: ImageFrame
    ) -> InstanceCandidates:
        """Compute the boxes of pairs.

        Args:
            boxes: [Q, 4] cxcywh in 0..1 of the image.
            queries: [n] row of `boxes` of each pair.
            scores: [n].
            classes: [n].
            frame: sizes of the image.
        """
        height, width = frame.output_size
        x0, y0, x1, y1 = box_cxcywh_to_xyxy(boxes[queries]).unbind(-1)
        unclipped = torch.stack([x0 * width, y0 * height, x1 * width, y1 * height], dim=-1)
        x0, y0, x1, y1 = unclipped.unbind(-1)
        x0, x1 = x0.clamp(0, width), x1.clamp(0, width)
        y0, y1 = y0.clamp(0, height), y1.clamp(0, height)
        finite, not_empty = unclipped.isfinite().all(-1), (x1 > x0) & (y1 > y0)
        return cls(
            queries=queries,
            scores=scores,
            classes=classes,
            boxes=torch.stack([x0, y0, x1, y1], dim=-1),
            is_valid=torch.stack([finite, not_empty], dim=-1),
        )


def kept_pairs(is_valid: Tensor) -> list[int]:
    """Pairs whose box is not empty.

    Args:
        is_valid: [n, 2] of `InstanceCandidates`, on the host.

    Raises:
        FloatingPointError: if a box is not finite.
    """
    flags = is_valid.tolist()
    if not all(finite for finite, _ in flags):
        raise FloatingPointError("the model predicted a box that is infinite or not a number")
    return [pair for pair, (_, not_empty) in enumerate(flags) if not_empty]


def instance_inference(
    candidates: InstanceCandidates,
    kept: Sequence[int],
    mask_logits: Tensor,
    mask_rows: Sequence[int],
    frame: ImageFrame,
) -> Instances:
    """Build the instances of an image. The mask of a query is upsampled once.

    Args:
        candidates: selected (query, class) pairs.
        kept: k of them, see `kept_pairs`.
        mask_logits: [m, h, w] at a quarter of the canvas.
        mask_rows: row of `mask_logits` of each of the k pairs.
        frame: sizes of the image.

    Returns:
        Instances with `pred_boxes`, `scores`, `pred_classes` and `pred_masks` at the output size.
    """
    device = mask_logits.device
    used = sorted(set(mask_rows))
    position = {row: index for index, row in enumerate(used)}
    index = torch.tensor([*kept, *(position[row] for row in mask_rows), *used], dtype=torch.long)
    pairs, inverse, rows = to_device(index, device).split([len(kept), len(kept), len(used)])
    masks = upsample_instance_masks(mask_logits[rows], frame.input_size, frame.output_size)
    instances = Instances(frame.output_size)
    instances.pred_boxes = Boxes(candidates.boxes[pairs])
    instances.scores = candidates.scores[pairs]
    instances.pred_classes = candidates.classes[pairs]
    instances.pred_masks = masks[inverse]
    return instances
