"""Neck of CRIS: three feature levels and the expression in one map (section 3.1, eq. 1 to 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import InputError
from hipie_trained_clip.modeling.layers import Aggregation, conv_norm_relu, upsample


class CrossModalNeck(nn.Module):
    """Fusion of the coarsest level with the expression, then of all levels at stride 16.

    Args:
        in_channels: of the levels with strides 8, 16 and 32.
        text_channels: of the expression's feature.
        channels: C of the result.
    """

    def __init__(self, in_channels: Sequence[int], text_channels: int, channels: int) -> None:
        super().__init__()
        fine, middle, coarse = in_channels
        self.text = nn.Sequential(
            nn.Linear(text_channels, 2 * channels, bias=False),
            nn.BatchNorm1d(2 * channels),
            nn.ReLU(),
        )
        self.project_coarse = conv_norm_relu(coarse, 2 * channels)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.project_middle = conv_norm_relu(middle, channels, 3)
        self.merge_middle = conv_norm_relu(3 * channels, channels)
        self.project_fine = conv_norm_relu(fine, channels // 2, 3)
        self.merge_fine = conv_norm_relu(channels // 2 + channels, channels)
        self.refine_coarse = conv_norm_relu(2 * channels, channels, 3)
        self.refine_middle = conv_norm_relu(channels, channels, 3)
        self.refine_fine = conv_norm_relu(channels, channels, 3)
        self.aggregate = Aggregation(channels)

    def forward(self, levels: Sequence[Tensor], text: Tensor) -> Tensor:
        """Fuse levels and text.

        Args:
            levels: [B, C_i, H / s, W / s] for s = 8, 16, 32.
            text: [B, D] features of the expressions.

        Returns:
            [B, C, H / 16, W / 16].

        Raises:
            InputError: for a single expression in training, for which batch norms have no variance.
        """
        if self.training and len(text) < 2:
            raise InputError(
                "CRIS needs at least two expressions in a training batch of a process: raise "
                "SOLVER.IMS_PER_BATCH or INPUT.EXPRESSIONS_PER_IMAGE"
            )
        fine, middle, coarse = levels
        gate = self.text(text)[:, :, None, None]
        coarse = F.relu(self.norm(self.project_coarse(coarse) * gate))
        middle = torch.cat([self.project_middle(middle), upsample(coarse)], dim=1)
        middle = self.merge_middle(middle)
        fine = F.avg_pool2d(self.project_fine(fine), 2, 2)
        fine = self.merge_fine(torch.cat([fine, middle], dim=1))
        return self.aggregate(
            [
                self.refine_fine(fine),
                self.refine_middle(middle),
                upsample(self.refine_coarse(coarse)),
            ]
        )
