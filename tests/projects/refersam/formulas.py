"""Reference implementation of ReferSAM's modules in NumPy, float64."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf
from torch import nn

Parameters = dict[str, np.ndarray]
Sizes = list[tuple[int, int]]


def parameters(module: nn.Module) -> Parameters:
    return {k: v.detach().numpy().astype(np.float64) for k, v in module.state_dict().items()}


def submodule(p: Parameters, start: str) -> Parameters:
    return {k[len(start) + 1 :]: v for k, v in p.items() if k.startswith(start + ".")}


def linear(p: Parameters, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def norm(p: Parameters, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * p[name + ".weight"] + p[name + ".bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def mlp(p: Parameters, name: str, x: np.ndarray) -> np.ndarray:
    inner = linear(p, name + ".fc1", x)
    return linear(p, name + ".fc2", inner * 0.5 * (1 + erf(inner / math.sqrt(2))))


def attend(p, q, k, v, heads, mask=None, lengths=None):
    """Attention of one image: q [Q, C], k and v [S, C]; by level if there are `lengths`."""
    queries, keys, values = linear(p, "q_proj", q), linear(p, "k_proj", k), linear(p, "v_proj", v)
    width = queries.shape[1] // heads
    parts = []
    for h in range(heads):
        at = slice(h * width, (h + 1) * width)
        scores = (queries[:, at] / math.sqrt(width)) @ keys[:, at].T
        if mask is not None:
            scores = np.where(mask[None], scores, -np.inf)
        if lengths is None:
            parts.append(softmax(scores) @ values[:, at])
            continue
        levels = len(lengths)
        share = softmax(linear(p, "level_weights", q)[:, h * levels : (h + 1) * levels])
        total, start = 0.0, 0
        for level, length in enumerate(lengths):
            of_level = slice(start, start + length)
            inside = softmax(scores[:, of_level]) @ values[of_level, at]
            total = total + share[:, [level]] * inside
            start += length
        parts.append(total)
    return linear(p, "out_proj", np.concatenate(parts, 1))


def exchange(p, maps, positions, lengths, text, mask, heads):
    attended = attend(submodule(p, "text_self"), text, text, text, heads, mask)
    text = norm(p, "norm_text_self", text + attended)
    attended = attend(
        submodule(p, "text_to_vision"), text, maps + positions, maps, heads, lengths=lengths
    )
    text = norm(p, "norm_text_vision", text + p["gamma_text"][0] * attended)
    text = norm(p, "norm_text_mlp", text + mlp(p, "text_mlp", text))
    attended = attend(submodule(p, "vision_to_text"), maps + positions, text, text, heads, mask)
    maps = norm(p, "norm_vision_text", maps + p["gamma_vision"][0] * attended)
    return norm(p, "norm_vision_mlp", maps + mlp(p, "vision_mlp", maps)), text


def prompt_block(p, tokens, token_positions, maps, map_positions, lengths, text, mask):
    queries = tokens + token_positions
    attended = attend(submodule(p, "self_attention"), queries, queries, tokens, 8)
    tokens = norm(p, "norm_self", tokens + attended)
    queries = tokens + token_positions
    attended = attend(
        submodule(p, "to_vision"), queries, maps + map_positions, maps, 8, lengths=lengths
    )
    tokens = norm(p, "norm_vision", tokens + attended)
    attended = attend(submodule(p, "to_text"), tokens + token_positions, text, text, 8, mask)
    tokens = norm(p, "norm_text", tokens + attended)
    return norm(p, "norm_mlp", tokens + mlp(p, "mlp", tokens))


def bilinear(feature_map: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear sample of [h, w, C] at pixel coordinates with integer centres, 0 outside."""
    height, width = feature_map.shape[:2]
    left, top = math.floor(x), math.floor(y)
    total = np.zeros(feature_map.shape[2])
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * feature_map[row, column]
    return total


def sample(p: Parameters, query, centres, value, sizes: Sizes, heads: int, points: int = 4):
    """Deformable attention of one image; offsets are in pixels of their level."""
    values = linear(p, "value_proj", value)
    width = values.shape[1] // heads
    levels = len(sizes)
    offsets = linear(p, "sampling_offsets", query).reshape(len(query), heads, levels, points, 2)
    weights = softmax(linear(p, "attention_weights", query).reshape(len(query), heads, -1))
    attended = np.zeros((len(query), heads * width))
    start = 0
    for level, (h, w) in enumerate(sizes):
        feature_map = values[start : start + h * w].reshape(h, w, -1)
        start += h * w
        for q, (cx, cy) in enumerate(centres):
            for head in range(heads):
                at = slice(head * width, (head + 1) * width)
                for point in range(points):
                    dx, dy = offsets[q, head, level, point]
                    part = bilinear(feature_map[:, :, at], cx * w - 0.5 + dx, cy * h - 0.5 + dy)
                    attended[q, at] += weights[q, head, level * points + point] * part
    return linear(p, "output_proj", attended)


def centres(sizes: Sizes) -> list[tuple[float, float]]:
    return [((x + 0.5) / w, (y + 0.5) / h) for h, w in sizes for y in range(h) for x in range(w)]


def sine(height: int, width: int, channels: int) -> np.ndarray:
    """Sine positions [h * w, C], rows first, sine and cosine alternating."""
    half = channels // 2

    def waves(number: int, count: int) -> list[float]:
        angle = number / (count + 1e-6) * 2 * math.pi
        return [
            (math.cos if i % 2 else math.sin)(angle / 10000 ** (2 * (i // 2) / half))
            for i in range(half)
        ]

    return np.array(
        [waves(y + 1, height) + waves(x + 1, width) for y in range(height) for x in range(width)]
    )
