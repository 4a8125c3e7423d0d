"""Weights generated from tensor names, and stored features of the authors' network.

ReferSAM's authors published the network without weights. It was run on CPU on a photograph with
weights generated from each tensor's name; subsampled features are stored in `tests/data/refersam/`.
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
EMBEDDINGS = re.compile(
    r".*(embeddings|not_a_point_embed|no_mask_embed|iou_token|mask_tokens|lang_prompts"
    r"|sparse_prompts|prompt_pos|point_embeddings\.\d)\.weight|.*(pos_embed|level_embed)(_prompter)?"
)


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' state dict for "vit_b" or "vit_h"."""
    text = gzip.decompress((DATA / f"official_{name}_names.tsv.gz").read_bytes()).decode()
    rows = (line.split("\t") for line in text.splitlines())
    return {key: tuple(json.loads(shape)) for key, shape in rows}


def tensor_from_name(name: str, shape: tuple[int, ...]) -> Tensor:
    """Generate a tensor from its official name."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.split(".")[-1]
    if last.startswith("gamma") or (last == "weight" and len(shape) == 1):
        values = 1 + 0.02 * np.abs(normal)
    elif last == "positional_encoding_gaussian_matrix":
        values = normal
    elif name.endswith("sampling_offsets.bias"):
        values = 2 * normal
    elif name == "mask_scaling.weight":
        values = 1 + 0.02 * np.abs(normal)
    elif name == "mask_scaling.bias":
        values = 0.02 * normal - 21
    elif EMBEDDINGS.fullmatch(name) and "LayerNorm" not in name:
        values = 0.2 * normal
    elif len(shape) < 2:
        values = 0.02 * normal
    else:
        values = normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def weights_from_names(name: str) -> dict[str, Tensor]:
    """Generate the state dict."""
    return {key: tensor_from_name(key, shape) for key, shape in official_shapes(name).items()}


def photograph(pixels: np.ndarray, rows: int) -> Tensor:
    """Normalise a photograph [H, W, 3] uint8 and repeat it: [rows, 3, H, W]."""
    normalised = (pixels / 255.0 - np.array(MEAN)) / np.array(STD)
    image = torch.from_numpy(normalised.transpose(2, 0, 1).astype(np.float32))
    return image.expand(rows, -1, -1, -1).contiguous()


def cut(array: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Subsample features as the stored ones: to `limits` entries an axis, then to five."""
    for limit in (limits, [5] * array.ndim if array.ndim != 3 or limits[-1] != 64 else limits):
        array = array[
            tuple(slice(None, None, max(1, -(-n // m))) for n, m in zip(array.shape, limit))
        ]
    return array
