"""Small random predictions and objects, in the form that the criteria read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hipie.modeling.criterion.predictions import DenoisingLayout, LayerPrediction
from hipie.modeling.criterion.targets import Targets

CANVAS = (64, 96)
TOKENS = 9


@dataclass
class Output:
    """What both branches hand to their criteria."""

    layers: list[LayerPrediction]
    proposals: LayerPrediction
    num_background: int
    denoising: list[LayerPrediction] | None
    denoising_layout: DenoisingLayout | None


@dataclass
class Batch:
    """Leaves that require gradients, the output made of them, and its targets."""

    output: Output
    targets: list[Targets]
    text_mask: torch.Tensor
    leaves: list[torch.Tensor]


def image_targets(kinds: list[bool], generator: torch.Generator) -> Targets:
    """Random rectangles, a thing for True and stuff for False."""
    n = len(kinds)
    size = 0.15 + 0.4 * torch.rand(n, 2, generator=generator)
    centre = size / 2 + (1 - size) * torch.rand(n, 2, generator=generator)
    masks = torch.zeros(n, *CANVAS, dtype=torch.bool)
    for i in range(n):
        left, top = ((centre[i] - size[i] / 2) * torch.tensor([96.0, 64.0])).int().tolist()
        right, bottom = ((centre[i] + size[i] / 2) * torch.tensor([96.0, 64.0])).int().tolist()
        masks[i, top : bottom + 1, left : right + 1] = True
    positive_map = torch.zeros(n, TOKENS, dtype=torch.bool)
    for i in range(n):
        positive_map[i, i % 6] = positive_map[i, (i + 1) % 6] = True
    return Targets(
        labels=torch.arange(n),
        boxes=torch.cat([centre, size], dim=1),
        masks=masks,
        is_thing=torch.tensor(kinds, dtype=torch.bool),
        positive_map=positive_map,
        image_size=CANVAS,
    )


def layer_of(leaves: list[torch.Tensor], images: int, queries: int, **shape: object) -> object:
    """A prediction of random leaves, which are appended to `leaves`."""
    generator = shape["generator"]

    def leaf(*size: int) -> torch.Tensor:
        value = torch.randn(*size, generator=generator).requires_grad_()
        leaves.append(value)
        return value

    logits = leaf(images, queries, shape.get("tokens", TOKENS))
    boxes = leaf(images, queries, 4)
    quality = leaf(images, queries, 1)
    masks = leaf(images, queries, CANVAS[0] // 4, CANVAS[1] // 4)

    def at_points(image: int, points: torch.Tensor) -> torch.Tensor:
        grid = (2 * points - 1)[None, None]
        found = torch.nn.functional.grid_sample(masks[image][None], grid, align_corners=False)
        return found[0, :, 0]

    return LayerPrediction(
        token_logits=logits,
        boxes=boxes.sigmoid(),
        iou_logits=quality,
        masks=lambda image, query: masks[image, query],
        point_masks=at_points,
    )


def build_batch(
    kinds: list[list[bool]],
    *,
    layers: int = 3,
    queries: int = 14,
    background: int = 2,
    groups: int = 2,
    negatives: bool = True,
    proposal_tokens: int = 1,
    seed: int = 0,
) -> Batch:
    """Objects of the given kinds (True: thing) in every image, and predictions of them."""
    generator = torch.Generator().manual_seed(seed)
    leaves: list[torch.Tensor] = []
    images = len(kinds)
    most = max(len(k) for k in kinds)
    layout = DenoisingLayout(groups, most, negatives) if groups and most else None
    output = Output(
        layers=[
            layer_of(leaves, images, background + queries, generator=generator)
            for _ in range(layers)
        ],
        proposals=layer_of(leaves, images, 30, generator=generator, tokens=proposal_tokens),
        num_background=background,
        denoising=layout
        and [
            layer_of(leaves, images, layout.num_queries, generator=generator) for _ in range(layers)
        ],
        denoising_layout=layout,
    )
    text_mask = torch.ones(images, TOKENS, dtype=torch.bool)
    text_mask[0, 7:] = False
    targets = [image_targets(k, generator) for k in kinds]
    return Batch(output, targets, text_mask, leaves)


@pytest.fixture
def make_batch():
    """`build_batch`: `make_batch(kinds an image, layers, queries, background, ...)`."""
    return build_batch


@pytest.fixture
def make_stuff_batch(make_batch):
    """`make_batch` in the stuff branch's form: no background, positives only, words everywhere."""

    def make(kinds: list[list[bool]], **options: int) -> Batch:
        return make_batch(kinds, background=0, negatives=False, proposal_tokens=TOKENS, **options)

    return make
