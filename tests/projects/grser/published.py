"""Weights generated from the names of LAVT's tensors, and stored outputs of the published code.

The published code was run on CPU on noise with weights generated from each tensor's name.
Subsampled outputs of its stages and its decoder are stored in `tests/data/lavt/`.
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
SIDE, SEED, NUM_VALID_TOKENS, NUM_TOKENS = 480, 1, 7, 20
MAX_ENTRIES = 24


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of LAVT's state dict, with its text encoder if it is stored."""
    text = gzip.decompress((DATA / "official_names.tsv.gz").read_bytes()).decode()
    rows = (line.split("\t") for line in text.splitlines())
    return {key: tuple(json.loads(shape)) for key, shape, _ in rows}


def is_not_a_weight(name: str) -> bool:
    """Whether an entry is an index or a counter of batches instead of a weight."""
    return name.endswith(("relative_position_index", "num_batches_tracked"))


def tensor_from_name(name: str, shape: tuple[int, ...]) -> Tensor:
    """Generate a tensor from its official name."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.split(".")[-1]
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        values = 1 + np.abs(normal) / 50
    elif last == "relative_position_bias_table":
        values = normal / 2
    elif len(shape) < 2:
        values = normal / 50
    else:
        values = normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Image [1, 3, H, W], tokens [1, T, 768] and their mask [1, T]."""
    rng = np.random.default_rng(SEED)
    pixels = rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    tokens = rng.standard_normal((1, 768, NUM_TOKENS)).astype(np.float32)
    mask = torch.arange(NUM_TOKENS)[None] < NUM_VALID_TOKENS
    return torch.from_numpy(pixels), torch.from_numpy(tokens).transpose(1, 2), mask


def cut(array: Tensor) -> np.ndarray:
    """Subsample every axis to at most `MAX_ENTRIES` entries."""
    steps = tuple(slice(None, None, max(1, -(-n // MAX_ENTRIES))) for n in array.shape)
    return array[steps].numpy()
