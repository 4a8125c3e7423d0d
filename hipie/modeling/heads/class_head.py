"""Class head: similarity of queries with text tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGIT_LIMIT = 50000.0
PRIOR_PROBABILITY = 0.01


class TextClassHead(nn.Module):
    """Dot products of queries with projected text tokens (GLIP's alignment head in HIPIE's form).

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
        self.bias0 = nn.Parameter(
            torch.full((1,), -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        )

    def forward(self, queries: Tensor, text: Tensor) -> Tensor:
        """Compute a logit for every query and token.

        Args:
            queries: [B, Q, width].
            text: [B, T, text_width].

        Returns:
            [B, Q, T] float32.
        """
        with torch.autocast(queries.device.type, enabled=False):
            embeddings = F.normalize(text.float(), dim=-1)
            keys = self.dot_product_projection_text(embeddings / 2)
            bias = embeddings @ self.bias_lang + self.bias0
            logits = queries.float() @ keys.transpose(1, 2) / self.log_scale.exp()
            return (logits + bias[:, None]).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
