"""Memory-efficient attention over a grid with decomposed relative position embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.vit import Attention
from torch import Tensor

from hipie.modeling.chunking import concatenate, working_bytes

# Memory on a CPU for the scores of queries that are processed together.
WORKING_BYTES = 32 * 2**20


class GridAttention(Attention):
    """Detectron2's attention, computed on a CPU for a few rows of queries at a time.

    The score of the query q at row i, column j and the key at row k, column l, head width d, is
    q . key / sqrt(d) + q . height[i - k] + q . width[j - l] (Li et al., 2022, MViTv2, equation 4).
    Parameters and results are those of `detectron2.modeling.backbone.vit.Attention` with
    `use_rel_pos`.
    """

    @classmethod
    def from_attention(cls, attention: Attention) -> GridAttention:
        """Copy an attention module with its weights; SAM's has the same attributes."""
        input_size = tuple(
            (len(embedding) + 1) // 2 for embedding in (attention.rel_pos_h, attention.rel_pos_w)
        )
        width = attention.proj.in_features
        new = cls(width, attention.num_heads, use_rel_pos=True, input_size=input_size)
        new.load_state_dict(attention.state_dict())
        return new

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention to a grid of tokens [B, H, W, C], returned in the same shape."""
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).unflatten(3, (3, self.num_heads, -1))
        query, key, value = (tensor.permute(0, 3, 1, 2, 4) for tensor in qkv.unbind(3))
        # Queries stay in grid rows; all of them attend to all keys and values.
        key, value = key.flatten(2, 3), value.flatten(2, 3)
        by_row = relative_positions(height, self.rel_pos_h).to(query.dtype)
        by_column = relative_positions(width, self.rel_pos_w).to(query.dtype)
        row_bytes = batch * self.num_heads * width * height * width * query.element_size()
        step = max(1, working_bytes(x.device, WORKING_BYTES) // row_bytes)
        attended = []
        for rows, offsets in zip(query.split(step, dim=2), by_row.split(step), strict=True):
            vertical = torch.einsum("bnhwc,hkc->bnhwk", rows, offsets)
            horizontal = torch.einsum("bnhwc,wkc->bnhwk", rows, by_column)
            bias = vertical[..., :, None] + horizontal[..., None, :]
            attended.append(
                F.scaled_dot_product_attention(
                    rows.flatten(2, 3), key, value, bias.flatten(4, 5).flatten(2, 3)
                )
            )
        joined = concatenate(attended, dim=2).transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj(joined)


def relative_positions(size: int, table: Tensor) -> Tensor:
    """Embeddings of the distances between the positions of an axis.

    As `get_rel_pos` of Detectron2 and SAM, whose index is copied from the host in every call.

    Args:
        size: number of positions.
        table: [L, C] embeddings of the distances -(L - 1) / 2 to (L - 1) / 2, interpolated if
            `size` has others.

    Returns:
        [size, size, C], of the distance of the first position from the second.
    """
    length = 2 * size - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], size=length, mode="linear")[0].T
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position + (size - 1)]
