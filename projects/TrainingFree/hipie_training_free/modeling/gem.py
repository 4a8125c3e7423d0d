"""GEM: a side path of self-self attention along CLIP's last blocks.

Bousselham, Petersen, Ferrari, Kuehne, "Grounding Everything: Emerging Localization Properties in
Vision-Language Transformers", CVPR 2024, section 3. In every changed block, with u = LN(x) of the
plain path and for each s of queries, keys and values by head:

    repeated: s <- softmax(t s' s'^T) s',  s' = s / |s|;    then o_s = softmax(t s' s'^T) v

The mean of the three, through the output projection, is added to the side path, which has no MLP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from hipie_training_free.modeling.clip_blocks import joined, queries_keys_values


def gem_tokens(
    blocks: Sequence[ResidualAttentionBlock],
    x: Tensor,
    iterations: int = 1,
    temperature: float | None = None,
) -> Tensor:
    """[B, n, C] tokens of the side path after the last block.

    Args:
        blocks: the changed ones, in order; the last six of a ViT in the released default.
        x: [B, n, C] what enters the first of them; the side path starts there.
        iterations: of self-self attention before it falls on the values.
        temperature: t; by default of every image the mean length of u over the tokens, divided
            by the root of a head's width.
    """
    side = x
    for block in blocks:
        parts = queries_keys_values(block, x)
        if temperature is None:
            lengths = block.ln_1(x).float().norm(dim=-1).mean(-1)
            scale = lengths.view(-1, 1, 1, 1) * parts[0].shape[-1] ** -0.5
        else:
            scale = torch.tensor(temperature, device=x.device)
        found = sum(self_self(part, parts[2], scale, iterations) for part in parts) / 3
        side = side + block.ls_1(joined(block, found))
        x = block(x)
    return side


def self_self(rows: Tensor, values: Tensor, scale: Tensor, iterations: int = 1) -> Tensor:
    """Attention of rows [..., n, d] to their like, in turns, and last to `values` [..., n, d]."""
    for _ in range(iterations):
        unit = F.normalize(rows, dim=-1)
        rows = _alike(unit, scale).to(unit.dtype) @ unit
    return _alike(F.normalize(rows, dim=-1), scale).to(values.dtype) @ values


def min_max(maps: Tensor) -> Tensor:
    """Every map [..., H, W] stretched to 0..1; one that is the same everywhere becomes 0."""
    low = maps.amin((-2, -1), keepdim=True)
    width = maps.amax((-2, -1), keepdim=True) - low
    return (maps - low) / width.masked_fill(width == 0, 1.0)


def _alike(unit: Tensor, scale: Tensor) -> Tensor:
    return (scale * (unit @ unit.transpose(-1, -2))).softmax(-1)
