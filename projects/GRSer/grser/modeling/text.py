"""An expression and its anti-expression, both read once for a whole group.

The anti-expression is the expression after the prefix `<no>`, which BERT's tokens spell in three;
it may be that much longer, so that both are cut after the same word.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hipie.modeling.text_encoder.bert import TextEncoder
from hipie.modeling.text_encoder.caption import Caption, expression_caption

PREFIX = "<no> "
MARKERS = 2
CLS, MEAN = "cls", "mean"
POOLINGS = (CLS, MEAN)


@dataclass(frozen=True)
class ReadExpressions:
    """Features of B expressions.

    Attributes:
        words: [B, T, W]; mask: [B, T] bool, real tokens.
        expression, anti: [B, W] one feature of expression and anti-expression.
    """

    words: Tensor
    mask: Tensor
    expression: Tensor
    anti: Tensor


class ExpressionPairs(TextEncoder):
    """BERT, reading expressions as people wrote them, as LAVT does."""

    pooling = CLS

    @classmethod
    def build(
        cls, source: str, *, frozen: bool, max_tokens: int, pooling: str = CLS
    ) -> ExpressionPairs:
        """Build by name; see `MODEL.GRSER.TEXT`.

        Raises:
            ValueError: if there is no such encoder, or expressions could have no word.
        """
        if max_tokens < MARKERS + 1:
            raise ValueError(
                f"MODEL.GRSER.TEXT.MAX_TOKENS is {max_tokens}; two markers and a word are 3"
            )
        encoder = cls.from_source(source, frozen=frozen)
        prefix = len(encoder.tokenizer(PREFIX, add_special_tokens=False)["input_ids"])
        encoder.window = min(encoder.window, max_tokens + prefix)
        encoder.pieces = encoder.window - prefix - MARKERS
        encoder.pooling = pooling
        return encoder

    def read(self, expressions: Sequence[str]) -> ReadExpressions:
        """Read expressions and anti-expressions in one batch; equal expressions once.

        Raises:
            ValueError: for an expression without a word.
        """
        texts = [self._cut(one) for one in expressions]
        found = self([_caption(one) for one in (*texts, *(PREFIX + one for one in texts))])
        count, vectors = len(texts), self._pooled(found.hidden, found.mask)
        return ReadExpressions(
            found.hidden[:count], found.mask[:count], vectors[:count], vectors[count:]
        )

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[B, T, W] and [B, T] -> [B, W]."""
        if self.pooling == CLS:
            return hidden[:, 0]
        real = mask[..., None].to(hidden.dtype)
        return (hidden * real).sum(1) / real.sum(1)

    def _cut(self, expression: str) -> str:
        """An expression without the tokens that are too many."""
        expression_caption(expression)  # refuses what has no word
        text = " ".join(expression.split())
        ends = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        if len(ends) <= self.pieces:
            return text
        warnings.warn(
            f'the expression "{text[:40]}..." has {len(ends)} tokens; '
            f"only the first {self.pieces} are read",
            stacklevel=3,
        )
        return text[: ends[self.pieces - 1][1]]


def _caption(text: str) -> Caption:
    return Caption(text, ((0, len(text)),), expression=True)
