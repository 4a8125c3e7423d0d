"""Result and interface of matchers, and their registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from hipie.structures import BatchedTargets, DenoisingLayout, LayerOutput, MaskContext

MATCHER_REGISTRY = Registry("MATCHER")
MATCHER_REGISTRY.__doc__ = """
Matchers by name, chosen by `MODEL.HIPIE.LOSS.THING_MATCHER` and `STUFF_MATCHER`. An entry is a
class whose instances are a `Matcher` and that is built from a configuration: `MyMatcher(cfg)`.
"""


@dataclass(frozen=True)
class Matching:
    """n pairs of a query and a ground-truth object, image by image.

    Attributes:
        image_index: [n] image of the pair.
        query_index: [n] query within the image.
        target_index: [n] object within the `BatchedTargets`.
    """

    image_index: Tensor
    query_index: Tensor
    target_index: Tensor

    @classmethod
    def concatenate(cls, pairs: Sequence[tuple[Tensor, Tensor]]) -> Matching:
        """Matching from (query_index, target_index) of every image in order."""
        return cls(
            torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(pairs)]),
            torch.cat([query for query, _ in pairs]),
            torch.cat([target for _, target in pairs]),
        )

    def __len__(self) -> int:
        return len(self.query_index)


class Matcher(Protocol):
    """Assigns queries of a layer to ground-truth objects, without gradient."""

    def __call__(
        self,
        layer: LayerOutput,
        targets: BatchedTargets,
        masks: MaskContext | None = None,
        name: str = "a layer",
    ) -> Matching:
        """Match one layer.

        Args:
            layer: predictions of B images.
            targets: their objects.
            masks: for costs of masks.
            name: of the layer, for error messages.
        """
        ...


def build_matcher(name: str, cfg: CfgNode) -> Matcher:
    """Build the matcher that is registered as `name`.

    Raises:
        KeyError: if there is none.
    """
    return MATCHER_REGISTRY.get(name)(cfg)


def denoising_matching(layout: DenoisingLayout, targets: BatchedTargets) -> Matching:
    """Pairs of denoising queries: each noised copy with its own object."""
    device = targets.boxes.device
    first = torch.arange(layout.num_groups, device=device)[:, None] * layout.group_size
    pairs = []
    for image in range(targets.num_images):
        objects = targets.of_image(image)
        offset = torch.arange(objects.stop - objects.start, device=device)
        query_index = (first + offset).flatten()
        pairs.append((query_index, (objects.start + offset).repeat(layout.num_groups)))
    return Matching.concatenate(pairs)
