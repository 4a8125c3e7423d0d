"""Weights, images and objects that a rule makes, and what the published program said of them.

The published HIPIE was run on CPU with these weights; what it computed lies, cut to fit, in
`tests/data/published/`. Nothing large needs to be stored: a tensor's values follow from its name.
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
# The first row that fits a name: noise as it is, times this.
PLAIN_NOISE = (
    (r"(word|position|token_type)_embeddings\.weight", 0.2),
    (r"(level|pos)_embed", 0.2),
    (r"tgt_embed(_bg)?\.weight", 1.0),
    (r"bg_query_refs\.weight", 0.5),
    (r"sampling_offsets\.bias", 2.0),
)
# Likewise: noise that keeps a layer's scale, times this; 1 where none fits.
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


def ruled_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The checkpoint that the rule makes; tensors of the same content are the same tensor."""
    made: dict[str, Tensor] = {}
    state = {}
    for name, shape in shapes.items():
        source = name
        for copy, original in SAME_TENSOR:
            source = re.sub(f"^{copy}$", original, source)
        if source not in made:
            made[source] = torch.from_numpy(_ruled_tensor(source, shape))
        state[name] = made[source]
    return state


def _ruled_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
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


def waves(height: int, width: int, seed: int) -> Tensor:
    """[3, height, width] uint8: waves of colour with noise."""
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


def ellipses(height: int, width: int, rows: list[list[float]]) -> Instances:
    """Objects (class, centre x, y, radius x, y); later ones hide earlier ones."""
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((len(rows), height, width), bool)
    for i, (_, cx, cy, rx, ry) in enumerate(rows):
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
        masks[:i] &= ~inside
        masks[i] = inside
    found = Instances((height, width))
    found.gt_classes = torch.tensor([row[0] for row in rows])
    found.gt_masks = BitMasks(torch.from_numpy(masks))
    found.gt_boxes = found.gt_masks.get_bounding_boxes()
    return found


def fixed_uniform(shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """What stood for uniform random numbers of a shape in the published training step."""
    return np.random.default_rng([salt, *shape]).random(shape)


class Case:
    """One run of the published program: what it was asked, and what it answered."""

    def __init__(self, name: str) -> None:
        cases = json.loads((DATA / "published" / "cases.json").read_text())
        self.asked: dict[str, Any] = cases[name]
        with np.load(DATA / "published" / f"{name}.npz") as arrays:
            self.answers = {key: arrays[key] for key in arrays.files}

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary([VocabularyClass(*one) for one in self.asked["classes"]])

    def inputs(self) -> list[dict[str, Any]]:
        """The batch as HIPIE takes it."""
        items = []
        for one in self.asked["inputs"]:
            height, width = one.get("output_size", one["size"])
            item = {"image": waves(*one["size"], one["seed"]), "height": height, "width": width}
            expressions = one.get("expressions", self.asked.get("expressions"))
            if expressions:
                item["expressions"] = expressions
            else:
                item["vocabulary"] = self.vocabulary
            if "objects" in one:
                item["instances"] = ellipses(*one["size"], one["objects"])
                item["task"] = self.asked.get("task", "detection")
            items.append(item)
        return items

    def error(self, key: str, array: Tensor | np.ndarray) -> float:
        """The largest difference, relative to the spread of the whole published array.

        The stored array is the whole one cut by equal steps; `array` is cut likewise.
        """
        array = np.asarray(array, np.float64)
        stored = self.answers[key].astype(np.float64)
        shape = self.answers[f"{key}/shape"]
        assert array.shape == tuple(shape), f"{key}: {array.shape}, published {tuple(shape)}"
        cut = tuple(
            slice(None, None, -(-whole // part))
            for whole, part in zip(shape, stored.shape, strict=True)
        )
        mine = array[cut]
        finite = np.isfinite(stored)
        assert (np.isfinite(mine) == finite).all(), f"{key}: other entries are infinite"
        spread = self.answers[f"{key}/stats"][1]
        return float(np.abs(mine[finite] - stored[finite]).max() / spread)

    def cut(self, key: str, array: Tensor | np.ndarray) -> np.ndarray:
        """`array` cut as the stored one, for answers that must be equal."""
        stored, shape = self.answers[key], self.answers[f"{key}/shape"]
        array = np.asarray(array)
        assert array.shape == tuple(shape), f"{key}: {array.shape}, published {tuple(shape)}"
        steps = (-(-whole // part) for whole, part in zip(shape, stored.shape, strict=True))
        return array[tuple(slice(None, None, step) for step in steps)]
