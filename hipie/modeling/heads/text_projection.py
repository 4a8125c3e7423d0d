"""An expression's vector brought to the width of a query."""

from __future__ import annotations

from torch import Tensor, nn


class TextResizer(nn.Module):
    """A linear layer and a layer norm: the content of denoising queries."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, text: Tensor) -> Tensor:
        """[B, N, text_width] -> [B, N, width]."""
        return self.norm(self.linear(text))
