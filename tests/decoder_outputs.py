"""Small random decoder outputs and ground truth, as the criteria take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.structures import DecoderOutput, DenoisingLayout, LayerOutput, Targets

CANVAS = (64, 96)
MASK_SIZE = (16, 24)
TOKENS = 9


class StoredMasks:
    """Mask head whose mask embeddings are the flattened masks themselves."""

    def __init__(self, size: tuple[int, int] = MASK_SIZE) -> None:
        self.size = size
        self.queries: list[int] = []

    def logits(
        self,
        layer: LayerOutput,
        _mask_features: Sequence[Tensor],
        image_index: Tensor,
        query_index: Tensor,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Masks of chosen queries."""
        assert counts is None or sum(counts) == len(image_index)
        self.queries = query_index.tolist()
        return layer.mask_embeddings[image_index, query_index].unflatten(1, self.size)

    def logits_at_points(
        self, layers: Sequence[LayerOutput], _mask_features: Tensor, image: int, points: Tensor
    ) -> Iterator[Tensor]:
        """Samples of the masks of all queries of an image at points."""
        grid = (2 * points - 1)[None, None]
        for layer in layers:
            masks = layer.mask_embeddings[image].unflatten(1, self.size)
            yield F.grid_sample(masks[None], grid, align_corners=False)[0, :, 0]


@dataclass
class Batch:
    """Leaves that require gradients, the output made of them, and its ground truth."""

    output: DecoderOutput
    targets: list[Targets]
    text_mask: Tensor
    leaves: list[Tensor]
    mask_head: StoredMasks

    def run(self, criterion: torch.nn.Module) -> dict[str, Tensor]:
        """Losses of the batch."""
        return criterion(self.output, self.targets, self.mask_head, self.text_mask)

    def replace_layers(self, change: Callable[[LayerOutput], LayerOutput]) -> None:
        """Replace every supervised layer by `change(layer)`."""
        self.output = replace(
            self.output,
            layers=tuple(map(change, self.output.layers)),
            proposals=change(self.output.proposals),
            denoising=tuple(map(change, self.output.denoising)),
        )

    def replace_denoising_boxes(self, boxes: Tensor) -> None:
        """Give the denoising queries of all layers these boxes [B, D, 4]."""
        denoising = tuple(replace(layer, boxes=boxes) for layer in self.output.denoising)
        self.output = replace(self.output, denoising=denoising)

    def replace_target(self, image: int, **changes: Any) -> None:
        """Change the ground truth of an image."""
        self.targets[image] = replace(self.targets[image], **changes)


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


def random_layer(
    leaves: list[Tensor],
    images: int,
    queries: int,
    generator: torch.Generator,
    tokens: int = TOKENS,
) -> LayerOutput:
    """A layer of random leaves, which are appended to `leaves`: logits, boxes, IoU, masks."""

    def leaf(*size: int) -> Tensor:
        value = torch.randn(*size, generator=generator).requires_grad_()
        leaves.append(value)
        return value

    logits = leaf(images, queries, tokens)
    boxes = leaf(images, queries, 4)
    iou = leaf(images, queries, 1)
    masks = leaf(images, queries, *MASK_SIZE)
    return LayerOutput(
        boxes=boxes.sigmoid(), logits=logits, mask_embeddings=masks.flatten(2), iou_logits=iou
    )


def build_batch(
    kinds: list[list[bool]],
    *,
    layers: int = 3,
    queries: int = 14,
    groups: int = 2,
    negatives: bool = True,
    proposal_tokens: int = 1,
    seed: int = 0,
) -> Batch:
    """Objects of the given kinds (True: thing) in every image, and predictions of them."""
    generator = torch.Generator().manual_seed(seed)
    leaves: list[Tensor] = []
    images = len(kinds)
    most = max(len(k) for k in kinds)
    layout = DenoisingLayout(groups, most, negatives) if groups and most else None
    decoded = tuple(random_layer(leaves, images, queries, generator) for _ in range(layers))
    proposals = random_layer(leaves, images, 30, generator, proposal_tokens)
    denoising = ()
    if layout:
        denoising = tuple(
            random_layer(leaves, images, layout.num_queries, generator) for _ in range(layers)
        )
    output = DecoderOutput(
        layers=decoded,
        mask_features=tuple(torch.zeros(1, *MASK_SIZE) for _ in range(images)),
        references=torch.zeros(images, queries, 4),
        proposal_index=torch.zeros(images, queries, dtype=torch.long),
        proposals=proposals,
        denoising=denoising,
        denoising_layout=layout,
    )
    text_mask = torch.ones(images, TOKENS, dtype=torch.bool)
    text_mask[0, 7:] = False
    targets = [image_targets(k, generator) for k in kinds]
    return Batch(output, targets, text_mask, leaves, StoredMasks())


@pytest.fixture
def make_batch():
    """`build_batch`: `make_batch(kinds an image, layers=, queries=, groups=, ...)`."""
    return build_batch


@pytest.fixture
def make_stuff_batch(make_batch):
    """`make_batch` in the form of the stuff decoder: no negatives, text in the proposals."""

    def make(kinds: list[list[bool]], **options: int) -> Batch:
        return make_batch(kinds, negatives=False, proposal_tokens=TOKENS, **options)

    return make
