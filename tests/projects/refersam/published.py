"""Weights that a rule makes for the authors' network, and what it computed with them.

ReferSAM's authors published the network without weights. It was run on CPU on a photograph with
weights drawn from each tensor's own name; what it computed lies, cut to fit, in
`tests/data/refersam/`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[2] / "data/refersam"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TABLES = re.compile(
    r".*(embeddings|not_a_point_embed|no_mask_embed|iou_token|mask_tokens|lang_prompts"
    r"|sparse_prompts|prompt_pos|point_embeddings\.\d)\.weight|.*(pos_embed|level_embed)(_prompter)?"
)


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' state dict: "vit_b" or "vit_h"."""
    text = gzip.decompress((DATA / f"official_{name}_names.tsv.gz").read_bytes()).decode()
    rows = (line.split("\t") for line in text.splitlines())
    return {key: tuple(json.loads(shape)) for key, shape in rows}


def ruled_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """What the rule makes of an official name."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.split(".")[-1]
    if last.startswith("gamma") or (last == "weight" and len(shape) == 1):
        made = 1 + 0.02 * np.abs(normal)
    elif last == "positional_encoding_gaussian_matrix":
        made = normal
    elif name.endswith("sampling_offsets.bias"):
        made = 2 * normal
    elif name == "mask_scaling.weight":
        made = 1 + 0.02 * np.abs(normal)
    elif name == "mask_scaling.bias":
        made = 0.02 * normal - 21
    elif TABLES.fullmatch(name) and "LayerNorm" not in name:
        made = 0.2 * normal
    elif len(shape) < 2:
        made = 0.02 * normal
    else:
        made = normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(made.astype(np.float32))


def ruled_weights(name: str) -> dict[str, Tensor]:
    """The whole state dict."""
    return {key: ruled_tensor(key, shape) for key, shape in official_shapes(name).items()}


def photograph(pixels: np.ndarray, rows: int) -> Tensor:
    """A photograph [H, W, 3] uint8 as the network takes it, repeated."""
    found = (pixels / 255.0 - np.array(MEAN)) / np.array(STD)
    one = torch.from_numpy(found.transpose(2, 0, 1).astype(np.float32))
    return one.expand(rows, -1, -1, -1).contiguous()


def cut(array: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """An activation cut as the stored one was: at most so many entries an axis, then five."""
    for most in (limits, [5] * array.ndim if array.ndim != 3 or limits[-1] != 64 else limits):
        array = array[
            tuple(slice(None, None, max(1, -(-n // m))) for n, m in zip(array.shape, most))
        ]
    return array
