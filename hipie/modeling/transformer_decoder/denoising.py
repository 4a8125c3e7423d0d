"""Denoising queries: noised copies of the annotated objects that a decoder learns to clean up.

Groups of copies do not see each other, and the matching queries see none of them, so nothing
leaks (DN-DETR; DINO's contrastive form adds negatives, which must be recognised as no object).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hipie.modeling.criterion.predictions import DenoisingLayout
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.transformer_decoder.reference_points import inverse_sigmoid


@dataclass
class DenoisingQueries:
    """D noised copies for each of B images.

    Attributes:
        references: [B, D, 4] noised boxes, cxcywh in 0..1 (0.5 in unused places).
        used: [B, D] bool, False where an image has no object for the place.
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
        targets: B images.
        boxes: [N, 4] of each, cxcywh in the frame that the decoder counts in.
        budget: about how many queries; at least one group is made.
        noise: moves boxes [n, 4], given which are negatives [n] bool.
        negatives: whether every group has a negative twin of each object.

    Returns:
        The queries, or None where no image has an object or the budget is 0.
    """
    most = max(len(one) for one in targets)
    if most == 0 or budget == 0:
        return None
    copies = 2 if negatives else 1
    layout = DenoisingLayout(max(1, budget // (copies * most)), most, negatives)
    device = boxes[0].device
    counts = [len(one) for one in targets]
    image = torch.repeat_interleave(
        torch.arange(len(counts), device=device), torch.tensor(counts, device=device)
    )
    slot = torch.cat([torch.arange(count, device=device) for count in counts])
    copy = torch.arange(layout.num_groups * copies, device=device)
    place = (copy[:, None] * most + slot).flatten()
    negative = (copy % copies == 1).repeat_interleave(len(slot))
    originals = torch.cat([one.float() for one in boxes]).repeat(len(copy), 1)
    references = originals.new_full((len(counts), layout.num_queries, 4), 0.5)
    used = torch.zeros(references.shape[:2], dtype=torch.bool, device=device)
    where = (image.repeat(len(copy)), place)
    references[where] = inverse_sigmoid(noise(originals, negative)).sigmoid()
    used[where] = True
    return DenoisingQueries(references, used, layout)


def move_corners(boxes: Tensor, negative: Tensor) -> Tensor:
    """Move both corners by up to half the size; negatives by half to the whole of it (DINO).

    Args:
        boxes: [n, 4] cxcywh in 0..1.
        negative: [n] bool.
    """
    half = boxes[:, 2:] / 2
    corners = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
    sign = torch.randint_like(corners, 0, 2) * 2 - 1
    amount = torch.rand_like(corners) + negative[:, None]
    corners = (corners + sign * amount * half.repeat(1, 2)).clamp(0, 1)
    first, second = corners[:, :2], corners[:, 2:]
    return torch.cat([(first + second) / 2, second - first], dim=1)


def jitter(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A noise that moves centres by up to scale * half the size and sizes by scale * the size."""

    def move(boxes: Tensor, _negative: Tensor) -> Tensor:
        reach = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
        amount = torch.rand_like(boxes) * 2 - 1
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
