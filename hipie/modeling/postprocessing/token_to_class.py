"""Conversion of token logits to class logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hipie.modeling.device_transfer import to_device

MASKED_LOGIT = -9999.0
POOLINGS = ("mean", "max")


def pool_token_logits(
    token_logits: Tensor, token_spans: Sequence[Sequence[int]], pooling: str = "mean"
) -> Tensor:
    """Pool the logits of each class's tokens.

    Args:
        token_logits: [..., T].
        token_spans: K non-empty tuples of token positions below T.
        pooling: "mean" or "max".

    Returns:
        [..., K] float32.

    Raises:
        ValueError: for another pooling, a class without tokens, or a position beyond T.
    """
    if pooling not in POOLINGS:
        raise ValueError(f'token pooling "{pooling}" is none of {", ".join(POOLINGS)}')
    lengths = [len(span) for span in token_spans]
    if 0 in lengths:
        raise ValueError(f"class {lengths.index(0)} of the vocabulary has no token")
    positions = [position for span in token_spans for position in span]
    if max(positions, default=0) >= token_logits.shape[-1]:
        raise ValueError(
            f"a class has token {max(positions)}, but there are logits for "
            f"{token_logits.shape[-1]} tokens only"
        )
    device = token_logits.device
    owners = [index for index, length in enumerate(lengths) for _ in range(length)]
    counts = to_device(torch.tensor(lengths, dtype=torch.long), device)
    class_index = to_device(torch.tensor(owners, dtype=torch.long), device)
    logits = token_logits[..., to_device(torch.tensor(positions, dtype=torch.long), device)].float()
    pooled = logits.new_zeros(*logits.shape[:-1], len(lengths))
    if pooling == "mean":
        return pooled.index_add(-1, class_index, logits) / counts
    return pooled.scatter_reduce(
        -1, class_index.expand_as(logits), logits, "amax", include_self=False
    )


def mask_stuff_classes(class_logits: Tensor, is_thing: Sequence[bool]) -> Tensor:
    """Set the logits of stuff classes to -9999, for thing queries.

    Logits of a vocabulary without things are returned unchanged, since thing queries then predict
    stuff.

    Args:
        class_logits: [..., K].
        is_thing: [K].
    """
    if not any(is_thing):
        return class_logits
    things = to_device(torch.tensor(is_thing, dtype=torch.bool), class_logits.device)
    return class_logits.masked_fill(~things, MASKED_LOGIT)


def mask_thing_classes(class_logits: Tensor, is_thing: Sequence[bool]) -> Tensor:
    """Set the logits of thing classes to -9999, for stuff queries.

    Args:
        class_logits: [..., K].
        is_thing: [K].
    """
    things = to_device(torch.tensor(is_thing, dtype=torch.bool), class_logits.device)
    return class_logits.masked_fill(things, MASKED_LOGIT)
