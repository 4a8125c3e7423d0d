"""Denoising queries: noised copies of the annotated objects that a decoder learns to clean up.

Groups of copies do not see each other, and the matching queries see none of them, so nothing
leaks (DN-DETR; DINO's contrastive form adds negatives, which must be recognised as no object).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hipie.model.references import inverse_sigmoid
from hipie.training.predictions import DenoisingLayout
from hipie.training.targets import Targets


@dataclass
class DenoisingQueries:
    """D noised copies for each of B pictures.

    Attributes:
        references: [B, D, 4] noised boxes, cxcywh in 0..1 (0.5 in unused places).
        used: [B, D] bool, False where a picture has no object for the place.
        layout: which copy stands where.
    """

    references: Tensor
    used: Tensor
    layout: DenoisingLayout


def denoising_queries(
    targets: Sequence[Targets],
    boxes: Sequence[Tensor],
    budget: int,
    noise: Callable[[Tensor, Tensor], Tensor],
    *,
    negatives: bool,
) -> DenoisingQueries | None:
    """Copy every object as often as a budget allows, and move the copies' boxes.

    Args:
        targets: B pictures.
        boxes: [N, 4] of each, cxcywh in the frame that the decoder counts in.
        budget: about how many queries; at least one group is made.
        noise: moves boxes [n, 4], given which are negatives [n] bool.
        negatives: whether every group has a negative twin of each object.

    Returns:
        The queries, or None where no picture has an object or the budget is 0.
    """
    most = max(len(one) for one in targets)
    if most == 0 or budget == 0:
        return None
    copies = 2 if negatives else 1
    layout = DenoisingLayout(max(1, budget // (copies * most)), most, negatives)
    device = boxes[0].device
    place = torch.arange(layout.num_queries, device=device)
    object_of = place % most
    negative = (place % layout.group_size) >= most
    counts = torch.tensor([len(one) for one in targets], device=device)
    used = object_of < counts[:, None]
    padded = torch.stack(
        [torch.cat([one.float(), one.new_full((most - len(one), 4), 0.5)]) for one in boxes]
    )
    copied = padded[:, object_of]
    moved = noise(copied.flatten(0, 1), negative.repeat(len(targets))).view_as(copied)
    references = torch.where(used[..., None], moved, 0.5)
    return DenoisingQueries(inverse_sigmoid(references).sigmoid(), used, layout)


def move_corners(boxes: Tensor, negative: Tensor) -> Tensor:
    """Move both corners by up to half the size; negatives by half to the whole of it (DINO).

    Args:
        boxes: [n, 4] cxcywh in 0..1.
        negative: [n] bool.
    """
    half = boxes[:, 2:] / 2
    corners = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
    sign = torch.randint(0, 2, corners.shape, device=boxes.device) * 2.0 - 1
    amount = torch.rand(corners.shape, device=boxes.device) + negative[:, None].float()
    corners = (corners + sign * amount * half.repeat(1, 2)).clamp(0, 1)
    first, second = corners[:, :2], corners[:, 2:]
    return torch.cat([(first + second) / 2, second - first], dim=1)


def jitter(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A noise that moves centres by up to scale * half the size and sizes by scale * the size."""

    def move(boxes: Tensor, _negative: Tensor) -> Tensor:
        reach = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
        amount = torch.rand(boxes.shape, device=boxes.device) * 2 - 1
        return (boxes + amount * reach * scale).clamp(0, 1)

    return move


def group_attention_mask(layout: DenoisingLayout, matching: int, device: torch.device) -> Tensor:
    """[D + matching, D + matching] bool, True where a query (row) must not look (column)."""
    noised = layout.num_queries
    group = torch.arange(noised, device=device) // layout.group_size
    mask = torch.zeros(noised + matching, noised + matching, dtype=torch.bool, device=device)
    mask[:noised, :noised] = group[:, None] != group
    mask[noised:, :noised] = True
    return mask
