"""Denoising queries: noised copies of ground-truth boxes that a decoder learns to reconstruct.

Groups of copies do not attend to each other, and matching queries attend to none of them
(DN-DETR; DINO's contrastive form adds negatives, which must be classified as no object).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hipie.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from hipie.modeling.device_transfer import to_device
from hipie.modeling.transformer_decoder.proposals import inverse_sigmoid
from hipie.structures import DenoisingLayout, Targets

BoxNoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DenoisingConfig:
    """Denoising in training.

    Attributes:
        num_queries: about how many noised copies an image gets; 0 = no denoising.
        noise: scale of the box noise relative to the object; of stuff only.
        official_frames: as the published training code does by mistake, noise the stuff boxes in
            the frame of the unpadded image although the decoder uses the padded canvas, and centre
            the masks of denoising query i of the things on the reference logits of matching query
            i, read as pixels. Inference does not depend on it.
    """

    num_queries: int = 100
    noise: float = 0.4
    official_frames: bool = False


@dataclass(frozen=True)
class DenoisingQueries:
    """D noised copies for each of B images.

    Attributes:
        references: [B, D, 4] noised boxes, cxcywh in 0..1 (0.5 where unused).
        is_used: [B, D] bool, False where an image has no object for the query.
        layout: order of the copies.
    """

    references: Tensor
    is_used: Tensor
    layout: DenoisingLayout


def build_denoising_queries(
    targets: Sequence[Targets],
    boxes: Sequence[Tensor],
    num_queries: int,
    noise: BoxNoise,
    *,
    negatives: bool,
    max_objects: int | None = None,
    max_queries: int | None = None,
) -> DenoisingQueries | None:
    """Repeat every object as often as the number of queries allows, and add noise to its box.

    Args:
        targets: B images.
        boxes: [N, 4] of each, cxcywh in the frame of the decoder.
        num_queries: about how many queries; at least one group is made.
        noise: noised boxes from boxes [n, 4] and which of them are negatives [n] bool.
        negatives: whether every group also has a negative of each object.
        max_objects: objects of an image that a group has queries for, at least as many as any of
            these images has; None = the largest number of these images.
        max_queries: bound of the number of queries: where it is too small for one group, the first
            objects of each image are used only. None = no bound.

    Returns:
        The queries, or None if `num_queries` is 0. Where no image has an object, there are zero
        queries, so that the losses are the same ones in every batch.

    Raises:
        ValueError: if an image has more objects than `max_objects`.
    """
    if num_queries == 0:
        return None
    most = max(len(target) for target in targets)
    if max_objects is None:
        max_objects = most
    if most > max_objects:
        raise ValueError(f"an image has {most} objects, more than max_objects, {max_objects}")
    copies = 2 if negatives else 1
    if max_queries is not None:
        num_queries = min(num_queries, max_queries)
        max_objects = min(max_objects, max_queries // copies)
    num_groups = max(1, num_queries // (copies * max(1, max_objects)))
    layout = DenoisingLayout(num_groups, max_objects, negatives)
    device = boxes[0].device
    counts = [min(len(target), max_objects) for target in targets]
    boxes = [image_boxes[:count] for image_boxes, count in zip(boxes, counts, strict=True)]
    image_index = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)]).long()
    object_index = torch.tensor([i for count in counts for i in range(count)]).long()
    copy = torch.arange(layout.num_groups * copies)
    query_index = (copy[:, None] * max_objects + object_index).flatten()
    is_negative = (copy % copies == 1).repeat_interleave(len(object_index))
    columns = [image_index.repeat(len(copy)), query_index, is_negative]
    image_index, query_index, is_negative = to_device(torch.stack(columns), device).unbind(0)
    index = (image_index, query_index)
    originals = torch.cat([image_boxes.float() for image_boxes in boxes]).repeat(len(copy), 1)
    references = originals.new_full((len(counts), layout.num_queries, 4), 0.5)
    is_used = torch.zeros(references.shape[:2], dtype=torch.bool, device=device)
    references[index] = inverse_sigmoid(noise(originals, is_negative.bool())).sigmoid()
    is_used[index] = True
    return DenoisingQueries(references, is_used, layout)


def corner_noise(boxes: Tensor, negative: Tensor) -> Tensor:
    """Shift both corners by up to half the size; those of negatives by half to all of it (DINO).

    Args:
        boxes: [n, 4] cxcywh in 0..1.
        negative: [n] bool.
    """
    half = boxes[:, 2:] / 2
    corners = box_cxcywh_to_xyxy(boxes)
    sign = torch.randint_like(corners, 0, 2) * 2 - 1
    amount = torch.rand_like(corners) + negative[:, None]
    corners = (corners + sign * amount * half.repeat(1, 2)).clamp(0, 1)
    return box_xyxy_to_cxcywh(corners)


def center_size_noise(scale: float) -> BoxNoise:
    """Noise that shifts centres by scale / 2 of the size at most, and sizes by scale (DN-DETR)."""
    return partial(_shift_center_and_size, scale=scale)


def _shift_center_and_size(boxes: Tensor, _negative: Tensor, *, scale: float) -> Tensor:
    reach = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
    amount = torch.rand_like(boxes) * 2 - 1
    return (boxes + amount * reach * scale).clamp(0, 1)


def denoising_attention_mask(
    layout: DenoisingLayout, num_matching: int, device: torch.device
) -> Tensor | None:
    """[D + M, D + M] bool for D denoising and M matching queries; True = row must not attend.

    None if there are no denoising queries.
    """
    count = layout.num_queries
    if count == 0:
        return None
    group = torch.arange(count, device=device) // layout.group_size
    size = count + num_matching
    mask = torch.zeros(size, size, dtype=torch.bool, device=device)
    mask[:count, :count] = group[:, None] != group
    mask[count:, :count] = True
    return mask
