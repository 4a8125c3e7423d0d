"""Neck of ETRIS: hierarchical alignment of three feature levels (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hipie_trained_clip.modeling.bridges import GatedAttention
from hipie_trained_clip.modeling.layers import Aggregation, conv_norm_relu, deconv_norm_relu


class HierarchicalNeck(nn.Module):
    """Levels at one resolution, each gated by the expression, in one map.

    Args:
        in_channels: of the three levels, the finest first.
        strides: of the convolutions of the first two levels, and of the transposed one of the last.
        text_channels: of the expression's feature.
        channels: C of the result.
        heads: number of attention heads.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        text_channels: int,
        channels: int,
        heads: int,
    ) -> None:
        super().__init__()
        fine, middle, coarse = in_channels
        self.text = nn.Linear(text_channels, channels)
        self.projections = nn.ModuleList(
            [
                conv_norm_relu(fine, channels, strides[0], strides[0]),
                conv_norm_relu(middle, channels, strides[1], strides[1]),
                deconv_norm_relu(coarse, channels, strides[2]),
            ]
        )
        self.gates = nn.ModuleList(GatedAttention(channels, heads) for _ in range(3))
        self.aggregate = Aggregation(channels)

    def forward(self, levels: Sequence[Tensor], text: Tensor) -> Tensor:
        """Fuse levels [B, C_i, h_i, w_i] and text [B, D]: [B, C, h, w]."""
        word = self.text(text)[:, None]
        fused = []
        for level, project, gate in zip(levels, self.projections, self.gates, strict=True):
            projected = project(level)
            gated = gate(projected.flatten(2).transpose(1, 2), word)
            fused.append(gated.transpose(1, 2).unflatten(2, projected.shape[-2:]))
        return self.aggregate(fused)
