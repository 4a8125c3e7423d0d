"""Words as the classifier: a logit for every query and token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIMIT = 50000.0
PRIOR = 0.01


class TextClassHead(nn.Module):
    """Dot products of queries with projected words (GLIP's alignment head, as HIPIE uses it).

    With e = text / |text|, the logit is q . (W (e / 2) + b) / exp(log_scale) + e . bias_lang +
    bias0, clamped to +-50000. Queries are neither projected nor normalised.

    Args:
        width: channels of a query.
        text_width: channels of a token.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.dot_product_projection_text = nn.Linear(text_width, width)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_lang = nn.Parameter(torch.zeros(text_width))
        self.bias0 = nn.Parameter(torch.full((1,), -math.log((1 - PRIOR) / PRIOR)))

    def forward(self, queries: Tensor, text: Tensor) -> Tensor:
        """Queries [B, Q, width] and text [B, T, text_width] -> float32 [B, Q, T]."""
        with torch.autocast(queries.device.type, enabled=False):
            words = F.normalize(text.float(), dim=-1)
            keys = self.dot_product_projection_text(words / 2)
            bias = words @ self.bias_lang + self.bias0
            logits = queries.float() @ keys.transpose(1, 2) / self.log_scale.exp()
            return (logits + bias[:, None]).clamp(-LIMIT, LIMIT)
