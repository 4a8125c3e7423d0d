"""LAVT's fusion of words into pixels (Yang et al., CVPR 2022).

With v the pixels, w the words (keys and values multiplied by their mask), IN the instance norm over
pixels without learned scales, and C the channels of v:

    q = IN(W_q v)   k = m (W_k w)   u = m (W_u w)
    a = softmax(q k / sqrt(C) + 1e4 (m - 1)) u
    r = GELU(W_r (GELU(W_v v) * IN(W_o a)))

What goes on to the next stage is v + tanh(W_2 relu(W_1 r)) * r; the decoder gets LayerNorm(r).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FAR_OFF = 1e4


class PixelWordAttention(nn.Module):
    """Every pixel asks the words, with one head.

    Args:
        width: C of the pixels.
        word_width: of the words.
    """

    def __init__(self, width: int, word_width: int) -> None:
        super().__init__()
        self.visual = nn.Conv1d(width, width, 1)
        self.query = nn.Conv1d(width, width, 1)
        self.key = nn.Conv1d(word_width, width, 1)
        self.value = nn.Conv1d(word_width, width, 1)
        self.out = nn.Conv1d(width, width, 1)
        self.joined = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Pixels [B, P, C], words [B, T, W] and their mask [B, T] -> r [B, P, C]."""
        pixels = x.transpose(1, 2)
        said, real = words.transpose(1, 2), mask.to(words.dtype)[:, None]
        query = F.instance_norm(self.query(pixels)).transpose(1, 2)
        key, value = self.key(said) * real, self.value(said) * real
        weights = (query @ key) * x.shape[-1] ** -0.5 + FAR_OFF * (real - 1)
        found = weights.softmax(-1) @ value.transpose(1, 2)
        found = F.instance_norm(self.out(found.transpose(1, 2)))
        return F.gelu(self.joined(F.gelu(self.visual(pixels)) * found)).transpose(1, 2)


class LanguageGate(nn.Sequential):
    """How much of r each pixel and channel takes on: tanh(W_2 relu(W_1 r)), no biases."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width, bias=False),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.Tanh(),
        )
        for layer in (self[0], self[2]):
            nn.init.trunc_normal_(layer.weight, std=0.02)
