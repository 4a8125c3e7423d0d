"""Rejection of negative images by the distances of their features to the two expressions.

Wu et al., ICCV 2023: an image is positive if d(z, l) + m < d(z, l_anti). The paper does not state
how a feature map and a text vector are compared. Here each is projected by a linear layer (the map
after average pooling, or after average and maximum pooling) and normalised by a layer norm without
affine parameters, so that one margin is valid for every group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Default of m in training and at test: the triplet loss is 0 where the rule holds with it.
MARGIN = 1.0
MEAN, MEAN_MAX = "mean", "mean_max"
POOLINGS = (MEAN, MEAN_MAX)


class NegativeRejectionHead(nn.Module):
    """Distances between triphasic features and expressions in a common embedding space.

    Args:
        feature_width: channels of the triphasic features.
        text_width: size of an expression's feature.
        width: size of the common embedding space.
        pooling: pooling of the map over its positions, "mean" or "mean_max" (both, concatenated;
            small targets hardly change the mean).
    """

    def __init__(
        self, feature_width: int, text_width: int, width: int = 256, pooling: str = MEAN
    ) -> None:
        super().__init__()
        self.pooling = pooling
        pooled_width = feature_width * (2 if pooling == MEAN_MAX else 1)
        self.visual_projection = nn.Linear(pooled_width, width)
        self.text_projection = nn.Linear(text_width, width)
        self.width = width

    def forward(
        self, z: Tensor, expression: Tensor, anti_expression: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the Euclidean distances of N images to both expressions.

        Args:
            z: [N, C, H, W] triphasic features.
            expression: [N, W] or [1, W].
            anti_expression: likewise.

        Returns:
            [N] distances to the expression, and [N] to the anti-expression.
        """
        pooled = z.mean((-2, -1))
        if self.pooling == MEAN_MAX:
            pooled = torch.cat([pooled, z.amax((-2, -1))], 1)
        visual = self._normalize(self.visual_projection(pooled))
        text = self._normalize(self.text_projection(expression))
        anti_text = self._normalize(self.text_projection(anti_expression))
        return (visual - text).norm(dim=-1), (visual - anti_text).norm(dim=-1)

    def _normalize(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), (self.width,))


def is_positive(distance: Tensor, anti_distance: Tensor, margin: float) -> Tensor:
    """Return where distance + margin < anti_distance."""
    return distance + margin < anti_distance


def positive_probability(distance: Tensor, anti_distance: Tensor, margin: float) -> Tensor:
    """Return a score in 0..1 that is above 0.5 where `is_positive`; not part of the paper."""
    return (anti_distance - distance - margin).sigmoid()
