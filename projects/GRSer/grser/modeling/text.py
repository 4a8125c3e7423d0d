"""Encoder of expressions and anti-expressions.

The anti-expression is the expression with the prefix `<no>` (Wu et al., ICCV 2023), which BERT's
tokenizer splits into three tokens. Anti-expressions may be longer by the prefix, so that both are
truncated after the same word.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hipie.errors import InputError, printable
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.caption import (
    MAX_EXPRESSION_CHARACTERS,
    Caption,
    expression_caption,
)

PREFIX = "<no>"
NUM_MARKERS = 2
CLS, MEAN = "cls", "mean"
POOLINGS = (CLS, MEAN)


@dataclass(frozen=True)
class ExpressionFeatures:
    """Features of B expressions.

    Attributes:
        tokens: [B, T, W] hidden states of the expressions' tokens.
        mask: [B, T] bool, True for tokens that are not padding.
        expression: [B, W] pooled features.
        anti_expression: [B, W] likewise; None without anti-expressions.
    """

    tokens: Tensor
    mask: Tensor
    expression: Tensor
    anti_expression: Tensor | None


class ExpressionEncoder(BertTextEncoder):
    """BERT for expressions and anti-expressions, without lowercasing or cleaning as in LAVT."""

    pooling = CLS
    anti_prefix = PREFIX
    max_expression_tokens = 0

    @classmethod
    def build(
        cls,
        source: str,
        *,
        frozen: bool,
        max_tokens: int,
        pooling: str = CLS,
        anti_prefix: str = PREFIX,
    ) -> ExpressionEncoder:
        """Build an encoder by name; the arguments are the keys of `MODEL.GRSER.TEXT`.

        Raises:
            ValueError: if there is no such encoder, if `max_tokens` leaves no token for text, or if
                the prefix has no token.
        """
        if max_tokens < NUM_MARKERS + 1:
            raise InputError(
                f"MODEL.GRSER.TEXT.MAX_TOKENS must be at least {NUM_MARKERS + 1} (two markers and "
                f"a token), and is {max_tokens}"
            )
        encoder = cls.from_source(source, frozen=frozen)
        prefix_tokens = len(encoder.tokenizer(anti_prefix, add_special_tokens=False)["input_ids"])
        if anti_prefix and not prefix_tokens:
            raise InputError(
                f'MODEL.GRSER.TEXT.ANTI_PREFIX is "{printable(anti_prefix)}", which has no token; '
                "an empty text turns anti-expressions off"
            )
        encoder.window = min(encoder.window, max_tokens + prefix_tokens)
        encoder.max_expression_tokens = encoder.window - prefix_tokens - NUM_MARKERS
        encoder.pooling, encoder.anti_prefix = pooling, anti_prefix
        return encoder

    def encode(self, expressions: Sequence[str]) -> ExpressionFeatures:
        """Encode expressions and anti-expressions in one batch; equal expressions only once.

        Raises:
            ValueError: for an expression without a word.
        """
        texts = [self._truncate(expression) for expression in expressions]
        anti_texts = [f"{self.anti_prefix} {text}" for text in texts] if self.anti_prefix else []
        features = self([_caption(text) for text in (*texts, *anti_texts)])
        count, pooled = len(texts), self._pool(features.hidden, features.mask)
        return ExpressionFeatures(
            features.hidden[:count],
            features.mask[:count],
            pooled[:count],
            pooled[count:] if anti_texts else None,
        )

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[B, T, W] and [B, T] -> [B, W]."""
        if self.pooling == CLS:
            return hidden[:, 0]
        weights = mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)

    def _truncate(self, expression: str) -> str:
        """Cut an expression after `max_expression_tokens` tokens, with a warning."""
        expression_caption(expression)  # raises for expressions without a word
        text = " ".join(expression[:MAX_EXPRESSION_CHARACTERS].split())
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        limit = self.max_expression_tokens
        if len(offsets) <= limit:
            return text
        warnings.warn(
            f'the expression "{printable(text, 40)}" has {len(offsets)} tokens; '
            f"only the first {limit} are used",
            stacklevel=3,
        )
        return text[: offsets[limit - 1][1]]


def _caption(text: str) -> Caption:
    return Caption(text, ((0, len(text)),), expression=True)
