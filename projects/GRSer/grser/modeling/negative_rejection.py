"""Does an image show what the expression says? Its triphasic feature, the expression, the anti-one.

Wu et al., ICCV 2023: yes if d(z, l) + m < d(z, l_anti). How a map and a vector are compared is not
published; here each goes through a linear layer (a map as its mean over places, or its mean and
its maximum) and a layer norm without scales, so that one margin fits every group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, MEAN_MAX = "mean", "mean_max"
POOLINGS = (MEAN, MEAN_MAX)


class Comparison(nn.Module):
    """Distances between images and expressions in a space of their own.

    Args:
        feature_width: channels of the triphasic feature.
        word_width: of the expression's vector.
        width: of the common space.
        pooling: what a map becomes: "mean", in which a small target hardly shows, or "mean_max".
    """

    def __init__(
        self, feature_width: int, word_width: int, width: int = 256, pooling: str = MEAN
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.image = nn.Linear(feature_width * (2 if pooling == MEAN_MAX else 1), width)
        self.expression = nn.Linear(word_width, width)
        self.width = width

    def forward(self, z: Tensor, expression: Tensor, anti: Tensor) -> tuple[Tensor, Tensor]:
        """z [N, C, H, W], vectors [N, W] -> [N] distances to expression and anti-expression."""
        pooled = z.mean((-2, -1))
        if self.pooling == MEAN_MAX:
            pooled = torch.cat([pooled, z.amax((-2, -1))], 1)
        seen = self._common(self.image(pooled))
        said, denied = (self._common(self.expression(one)) for one in (expression, anti))
        return (seen - said).norm(dim=-1), (seen - denied).norm(dim=-1)

    def _common(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), (self.width,))


def is_positive(to_sentence: Tensor, to_anti: Tensor, margin: float) -> Tensor:
    """The rule: nearer to the expression than to the anti-expression by more than the margin."""
    return to_sentence + margin < to_anti


def confidence(to_sentence: Tensor, to_anti: Tensor, margin: float) -> Tensor:
    """0..1, above 0.5 where `is_positive`; ours, for people to read."""
    return (to_anti - to_sentence - margin).sigmoid()
