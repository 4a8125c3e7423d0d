"""Multi-layer perceptron and projection of pooled text."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Multi-layer perceptron: linear layers with ReLU between them.

    Args:
        in_width, hidden_width, out_width: channels of the input, between layers, of the output.
        num_layers: at least 1.
    """

    def __init__(self, in_width: int, hidden_width: int, out_width: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_width, *[hidden_width] * (num_layers - 1), out_width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_width] -> [..., out_width]."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class TextProjection(nn.Module):
    """Project text features to the width of queries: a linear layer and a layer norm.

    Args:
        text_width: channels of the text features.
        width: channels of a query.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, text: Tensor) -> Tensor:
        """[B, N, text_width] -> [B, N, width]."""
        return self.norm(self.linear(text))
