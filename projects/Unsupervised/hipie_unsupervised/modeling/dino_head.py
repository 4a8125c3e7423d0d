"""DINO's projection head (Caron et al., ICCV 2021, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02


class DINOHead(nn.Module):
    """Three linear layers, a unit vector, and cosines with unit prototypes.

    The published last layer is a linear one with weight normalisation and a fixed length of 1,
    which is the same function.

    Args:
        in_dim: width of the class token.
        out_dim: number of outputs.
        hidden_dim: width of the hidden layers.
        bottleneck_dim: width of the unit vector.
    """

    def __init__(
        self, in_dim: int, out_dim: int, hidden_dim: int = 2048, bottleneck_dim: int = 256
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=INIT_STD)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(bottleneck_dim, out_dim, bias=False)

    def forward(self, tokens: Tensor, fixed_prototypes: bool = False) -> Tensor:
        """Compute outputs [N, K] of class tokens [N, C].

        Args:
            tokens: of the vision transformer.
            fixed_prototypes: whether the last layer gets no gradient.
        """
        features, weight = self.mlp(tokens), self.prototypes.weight
        # In float32: the temperatures multiply the cosines' rounding by 25.
        with torch.autocast(tokens.device.type, enabled=False):
            prototypes = F.normalize(weight.detach() if fixed_prototypes else weight)
            return F.linear(F.normalize(features.float(), dim=-1), prototypes)
