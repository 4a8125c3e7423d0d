"""Weights that a rule makes for LAVT's published network, and what it computed with them.

The published code was run on CPU on noise with weights drawn from each tensor's own name; what its
stages and its decoder computed lies, cut to fit, in `tests/data/lavt/`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[2] / "data/lavt"
SIDE, SEED, REAL_WORDS, WORDS = 480, 1, 7, 20
MOST = 24


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of LAVT's state dict, its text encoder included where it is there."""
    text = gzip.decompress((DATA / "official_names.tsv.gz").read_bytes()).decode()
    rows = (line.split("\t") for line in text.splitlines())
    return {key: tuple(json.loads(shape)) for key, shape, _ in rows}


def is_counted(name: str) -> bool:
    """Whether an entry follows from shapes, or counts batches, and has no weights."""
    return name.endswith(("relative_position_index", "num_batches_tracked"))


def ruled_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """What the rule makes of an official name."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.split(".")[-1]
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        made = 1 + np.abs(normal) / 50
    elif last == "relative_position_bias_table":
        made = normal / 2
    elif len(shape) < 2:
        made = normal / 50
    else:
        made = normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(made.astype(np.float32))


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Image [1, 3, H, W], words [1, T, 768] and their mask [1, T]."""
    rng = np.random.default_rng(SEED)
    pixels = rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    words = rng.standard_normal((1, 768, WORDS)).astype(np.float32)
    mask = torch.arange(WORDS)[None] < REAL_WORDS
    return torch.from_numpy(pixels), torch.from_numpy(words).transpose(1, 2), mask


def cut(array: Tensor) -> np.ndarray:
    """Every axis in equal steps, to at most `MOST` entries."""
    steps = tuple(slice(None, None, max(1, -(-n // MOST))) for n in array.shape)
    return array[steps].numpy()
