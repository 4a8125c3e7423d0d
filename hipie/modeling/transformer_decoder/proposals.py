"""Two-stage proposals: anchor boxes of encoder tokens and selection of the best tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hipie.modeling.heads.mlp import MLP
from hipie.structures import FeatureLevels

BASE_SIZE = 0.05


def anchor_boxes(levels: FeatureLevels) -> tuple[Tensor, Tensor]:
    """Compute an anchor box for every token (Deformable DETR, appendix A.4).

    The centre is the token's pixel centre over the valid area, the side 0.05 * 2^level, with
    levels counted as they are flattened. Boxes with a coordinate outside (0.01, 0.99), and padded
    tokens, are +inf.

    Returns:
        [B, S, 4] cxcywh before the sigmoid and [B, S] bool, True for valid.
    """
    boxes = []
    for level, (height, width) in enumerate(levels.sizes):
        valid_size = levels.valid_size(level)
        y, x = torch.meshgrid(
            torch.arange(height, device=valid_size.device) + 0.5,
            torch.arange(width, device=valid_size.device) + 0.5,
            indexing="ij",
        )
        center = torch.stack([x, y], dim=-1).view(1, -1, 2) / valid_size.round()[:, None]
        boxes.append(torch.cat([center, torch.full_like(center, BASE_SIZE * 2**level)], dim=-1))
    anchors = torch.cat(boxes, dim=1)
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1) & ~levels.padding_mask
    logits = torch.log(anchors / (1 - anchors))
    return logits.masked_fill(~valid[..., None], float("inf")), valid


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, Q] of [B, S, C] -> [B, Q, C]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def topk_tokens(scores: Tensor, count: int) -> Tensor:
    """[B, S] scores -> [B, min(count, S)] token indices by falling score."""
    return torch.topk(scores, min(count, scores.shape[1]), dim=1)[1]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of values in 0..1, float32; values outside are clamped, both sides kept above `eps`."""
    x = x.float().clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def build_box_head(width: int) -> MLP:
    """Three-layer box regression head in logit space, initialised to a zero offset."""
    head = MLP(width, width, 4, 3)
    for parameter in head.layers[-1].parameters():
        nn.init.zeros_(parameter)
    return head
