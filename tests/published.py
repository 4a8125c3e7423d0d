"""Deterministic weights, images and objects, and the outputs of the published program for them.

The published HIPIE was run on CPU with these weights; its outputs are stored, subsampled, in
`tests/data/published/`. No weights are stored: a tensor's values follow from its name.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

DATA = Path(__file__).parent / "data"
SAME_TENSOR = (
    (r"(detr\.detr\.)transformer\.decoder\.((?:bbox|class)_embed\..+)", r"\1\2"),
    (r"(detr\.mask_dino\.predictor\.)(?:decoder\.)?bbox_embed\.\d+\.(.+)", r"\1_bbox_embed.\2"),
    (r"(detr\.mask_dino\.predictor\.)decoder\.norm\.(.+)", r"\1decoder_norm.\2"),
)
# Noise times this factor; the first pattern that matches a name counts.
PLAIN_NOISE = (
    (r"(word|position|token_type)_embeddings\.weight", 0.2),
    (r"(level|pos)_embed", 0.2),
    (r"tgt_embed(_bg)?\.weight", 1.0),
    (r"bg_query_refs\.weight", 0.5),
    (r"sampling_offsets\.bias", 2.0),
)
# Noise scaled by the fan-in, times this factor; 1 where no pattern matches.
LAYER_GAINS = (
    (r"dot_product_projection_text\.weight", 5.0),
    (r"(mask_embed|bbox_embed(\.\d+)?|detr\.controller)\.layers\.2\.weight", 0.3),
    (r"layer\.\d+\.(attention\.)?output\.dense\.weight", 0.2),
    (
        r"(transformer\.(en|de)coder|predictor\.decoder)\.layers\..+"
        r"\.(output_proj|out_proj|linear2)\.weight",
        0.3,
    ),
    (r"iou_head\.\d+\.weight", 2.0),
)


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint: "r50" or "vit_h"."""
    text = gzip.decompress((DATA / "checkpoint" / f"official_{name}_names.tsv.gz").read_bytes())
    rows = (line.split("\t") for line in text.decode().splitlines())
    return {key: tuple(json.loads(shape)) for key, shape in rows}


def deterministic_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Deterministic checkpoint; tensors of the same content are the same tensor."""
    made: dict[str, Tensor] = {}
    state = {}
    for name, shape in shapes.items():
        source = name
        for copy, original in SAME_TENSOR:
            source = re.sub(f"^{copy}$", original, source)
        if source not in made:
            made[source] = torch.from_numpy(_deterministic_tensor(source, shape))
        state[name] = made[source]
    return state


def _deterministic_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.split(".")[-1]
    for pattern, scale in PLAIN_NOISE:
        if re.search(pattern + "$", name):
            return np.float32(scale * normal)
    if last in ("gamma_v", "gamma_l"):
        return np.float32(0.5 + 0.01 * np.abs(normal))
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        return np.float32(1 + 0.02 * np.abs(normal))
    if last == "bias0":
        return np.float32(0.02 * normal - 1)
    if len(shape) < 2:
        return np.float32(0.02 * normal)
    gain = next((gain for pattern, gain in LAYER_GAINS if re.search(pattern + "$", name)), 1.0)
    if ("backbone" in name and len(shape) == 4) or "detr.controller" in name:
        normal -= normal.mean(tuple(range(1, len(shape))), keepdims=True)
    return np.float32(gain * normal / np.sqrt(np.prod(shape[1:])))


def wave_image(height: int, width: int, seed: int) -> Tensor:
    """[3, height, width] uint8: colour waves with noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    image = np.zeros((3, height, width))
    for channel in image:
        for _ in range(6):
            rise, run = random.uniform(-0.08, 0.08, 2)
            phase, strength = random.uniform(0, [6.283, 40])
            channel += strength * np.sin(rise * y + run * x + phase)
        channel += 110 + 30 * random.standard_normal()
    image += 8 * random.standard_normal(image.shape)
    return torch.from_numpy(np.clip(np.rint(image), 0, 255).astype(np.uint8))


def ellipse_instances(height: int, width: int, rows: list[list[float]]) -> Instances:
    """Objects (class, centre x, y, radius x, y); later ones hide earlier ones."""
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((len(rows), height, width), bool)
    for i, (_, cx, cy, rx, ry) in enumerate(rows):
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
        masks[:i] &= ~inside
        masks[i] = inside
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor([row[0] for row in rows])
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return instances


def fixed_uniform(shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """Numbers that replaced uniform random numbers of a shape in the published training step."""
    return np.random.default_rng([salt, *shape]).random(shape)


class Case:
    """Inputs and outputs of one run of the published program."""

    def __init__(self, name: str) -> None:
        cases = json.loads((DATA / "published" / "cases.json").read_text())
        self.settings: dict[str, Any] = cases[name]
        with np.load(DATA / "published" / f"{name}.npz") as arrays:
            self.outputs = {key: arrays[key] for key in arrays.files}

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary([VocabularyClass(*entry) for entry in self.settings["classes"]])

    def inputs(self) -> list[dict[str, Any]]:
        """Batched inputs of HIPIE."""
        items = []
        for image in self.settings["inputs"]:
            height, width = image.get("output_size", image["size"])
            item = {
                "image": wave_image(*image["size"], image["seed"]),
                "height": height,
                "width": width,
            }
            expressions = image.get("expressions", self.settings.get("expressions"))
            if expressions:
                item["expressions"] = expressions
            else:
                item["vocabulary"] = self.vocabulary
            if "objects" in image:
                item["instances"] = ellipse_instances(*image["size"], image["objects"])
                item["task"] = self.settings.get("task", "detection")
            items.append(item)
        return items

    def error(self, key: str, array: Tensor | np.ndarray) -> float:
        """Largest difference, relative to the standard deviation of the published array.

        The stored array is a strided subsample of the full one; `array` is subsampled likewise.
        """
        array = np.asarray(array, np.float64)
        stored = self.outputs[key].astype(np.float64)
        shape = self.outputs[f"{key}/shape"]
        assert array.shape == tuple(shape), f"{key}: {array.shape}, published {tuple(shape)}"
        strides = tuple(
            slice(None, None, -(-full // part))
            for full, part in zip(shape, stored.shape, strict=True)
        )
        sampled = array[strides]
        finite = np.isfinite(stored)
        assert (np.isfinite(sampled) == finite).all(), f"{key}: other entries are infinite"
        deviation = self.outputs[f"{key}/stats"][1]
        return float(np.abs(sampled[finite] - stored[finite]).max() / deviation)

    def subsample(self, key: str, array: Tensor | np.ndarray) -> np.ndarray:
        """Subsample `array` like the stored one, for outputs that must be equal."""
        stored, shape = self.outputs[key], self.outputs[f"{key}/shape"]
        array = np.asarray(array)
        assert array.shape == tuple(shape), f"{key}: {array.shape}, published {tuple(shape)}"
        steps = (-(-full // part) for full, part in zip(shape, stored.shape, strict=True))
        return array[tuple(slice(None, None, step) for step in steps)]
