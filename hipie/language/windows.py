"""Captions longer than BERT's 512 positions, cut at class borders and joined again.

Windows are encoded as one batch. The separator at a cut is read as [SEP], and keeps that feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hipie.language.tokens import CLS, PAD, SEP, STOP

WINDOW = 512
LAST_CUT = 510


def cut_windows(ids: Sequence[int]) -> list[list[int]]:
    """Cut the word pieces of one caption into windows, each ending in [SEP].

    A cut falls after the last "." or [SEP] below position 510 of what is left.

    Raises:
        ValueError: if a single class name is longer than a window.
    """
    rest, windows = list(ids), []
    while rest:
        borders = [i for i, piece in enumerate(rest[:LAST_CUT]) if piece in (STOP, SEP)]
        if not borders:
            raise ValueError(f"a name of more than {LAST_CUT} word pieces does not fit the encoder")
        cut = borders[-1] + 1
        windows.append([*rest[: cut - 1], SEP])
        rest = rest[cut:]
    return windows


def encode_in_windows(encode: Callable[[Tensor, Tensor], Tensor], ids: Sequence[int]) -> Tensor:
    """Features of one long caption.

    Args:
        encode: (ids [W, 512], mask [W, 512]) -> [W, 512, C].
        ids: T word pieces.

    Returns:
        [T, C].
    """
    windows = cut_windows(ids)
    batch = torch.full((len(windows), WINDOW), PAD)
    mask = torch.zeros_like(batch)
    for row, window in enumerate(windows):
        shown = window if row == 0 else [CLS, *window]
        batch[row, : len(shown)] = torch.tensor(shown)
        mask[row, : len(shown)] = 1
        if row:
            batch[row, len(shown)] = STOP
    features = encode(batch, mask)
    return torch.cat(
        [
            features[row, (row > 0) : len(window) + (row > 0)]
            for row, window in enumerate(windows)
        ]
    )
