"""The two-stage start of a decoder: every token of the memory proposes a box."""

from __future__ import annotations

import torch
from torch import Tensor

from hipie.modeling.pixel_decoder.multi_scale_features import Levels

BASE_SIZE = 0.05


def anchor_boxes(levels: Levels) -> tuple[Tensor, Tensor]:
    """A box around every token, in logits, and which of them may propose.

    The centre is the token's pixel centre over the valid area, the side 0.05 * 2^level, with
    levels counted as they are flattened. Boxes with a number outside (0.01, 0.99), and padded
    tokens, are +inf (Deformable DETR, appendix A.4).

    Returns:
        [B, S, 4] logits and [B, S] bool, True for valid.
    """
    boxes = []
    for level, (height, width) in enumerate(levels.sizes):
        valid = levels.ratios[:, level] * levels.ratios.new_tensor([width, height])
        y, x = torch.meshgrid(
            torch.arange(height, device=valid.device) + 0.5,
            torch.arange(width, device=valid.device) + 0.5,
            indexing="ij",
        )
        centre = torch.stack([x, y], dim=-1).view(1, -1, 2) / valid.round()[:, None]
        boxes.append(torch.cat([centre, torch.full_like(centre, BASE_SIZE * 2**level)], dim=-1))
    anchors = torch.cat(boxes, dim=1)
    usable = ((anchors > 0.01) & (anchors < 0.99)).all(-1) & ~levels.padding_mask
    logits = torch.log(anchors / (1 - anchors))
    return logits.masked_fill(~usable[..., None], float("inf")), usable


def gather_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows [B, Q] of [B, S, C] -> [B, Q, C]."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
