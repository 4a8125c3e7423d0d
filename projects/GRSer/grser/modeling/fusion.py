"""LAVT's fusion of language into visual features (Yang et al., CVPR 2022).

With v the pixels, w the tokens (keys and values multiplied by their mask m), IN the instance norm
over pixels without affine parameters, and C the channels of v:

    q = IN(W_q v)   k = m (W_k w)   u = m (W_u w)
    a = softmax(q k / sqrt(C) + 1e4 (m - 1)) u
    r = GELU(W_r (GELU(W_v v) * IN(W_o a)))

The next stage receives v + tanh(W_2 relu(W_1 r)) * r; the decoder receives LayerNorm(r).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

MASKED_LOGIT = 1e4


class PixelWordAttention(nn.Module):
    """Pixel-word attention module (PWAM): single-head attention of pixels to tokens.

    Args:
        width: C, channels of the pixels.
        text_width: W, channels of the tokens.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.visual = nn.Conv1d(width, width, 1)
        self.query = nn.Conv1d(width, width, 1)
        self.key = nn.Conv1d(text_width, width, 1)
        self.value = nn.Conv1d(text_width, width, 1)
        self.out = nn.Conv1d(width, width, 1)
        self.joined = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pixels [B, P, C], tokens [B, T, W] and their mask [B, T] -> r [B, P, C]."""
        pixels = x.transpose(1, 2)
        text, valid = tokens.transpose(1, 2), mask.to(tokens.dtype)[:, None]
        query = F.instance_norm(self.query(pixels)).transpose(1, 2)
        key, value = self.key(text) * valid, self.value(text) * valid
        weights = (query @ key) * x.shape[-1] ** -0.5 + MASKED_LOGIT * (valid - 1)
        attended = weights.softmax(-1) @ value.transpose(1, 2)
        attended = F.instance_norm(self.out(attended.transpose(1, 2)))
        return F.gelu(self.joined(F.gelu(self.visual(pixels)) * attended)).transpose(1, 2)


class LanguageGate(nn.Sequential):
    """Element-wise gate of r: tanh(W_2 relu(W_1 r)), without biases."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width, bias=False),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.Tanh(),
        )
        for layer in (self[0], self[2]):
            nn.init.trunc_normal_(layer.weight, std=0.02)
