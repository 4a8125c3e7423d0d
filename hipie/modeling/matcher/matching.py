"""Result and interface of matchers, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from hipie.modeling.device_transfer import HostSteps, run, to_device
from hipie.structures import BatchedTargets, DenoisingLayout, LayerOutput, MaskContext

MATCHER_REGISTRY = Registry("MATCHER")
MATCHER_REGISTRY.__doc__ = """
Matchers by name, chosen by `MODEL.HIPIE.LOSS.THING_MATCHER` and `STUFF_MATCHER`. An entry is a
class whose instances are a `Matcher` and that is built from a configuration: `MyMatcher(cfg)`; or
by its class method `for_branch(cfg, branch)`, if it has one, for "THING" or "STUFF". The costs of a
`CostMatcher` are copied to the host together with those of other layers and matchers.
"""

# Query and target index of the pairs of one image.
Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Matching:
    """n pairs of a query and a ground-truth object, image by image.

    Attributes:
        image_index: [n] image of the pair.
        query_index: [n] query within the image.
        target_index: [n] object within the `BatchedTargets`.
        counts: number of pairs of every image; None = not known on the host.
    """

    image_index: Tensor
    query_index: Tensor
    target_index: Tensor
    counts: tuple[int, ...] | None = None

    @classmethod
    def concatenate(cls, pairs: Sequence[Pairs]) -> Matching:
        """Matching from (query_index, target_index) of every image in order."""
        return cls(
            torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(pairs)]),
            torch.cat([query for query, _ in pairs]),
            torch.cat([target for _, target in pairs]),
            tuple(len(query) for query, _ in pairs),
        )

    def __len__(self) -> int:
        return len(self.query_index)

    def select(self, pairs: Tensor) -> Matching:
        """Some of the pairs, by [n] bool."""
        return Matching(self.image_index[pairs], self.query_index[pairs], self.target_index[pairs])


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


class CostMatcher(ABC):
    """Matcher that decides on the host, from costs that the device has computed."""

    @abstractmethod
    def costs(
        self,
        layers: Sequence[LayerOutput],
        targets: BatchedTargets,
        masks: MaskContext | None = None,
    ) -> list[Tensor]:
        """Compute on the device what the decision needs.

        Args:
            layers: predictions of B images, with the same number of tokens.
            targets: their objects.
            masks: for costs of masks.

        Returns:
            Tensors of any shape, finite where the predictions are.
        """

    @abstractmethod
    def assign(
        self, costs: Sequence[Tensor], num_queries: Sequence[int], targets: BatchedTargets
    ) -> list[list[Pairs]]:
        """Assign queries to objects, whatever the costs are.

        Args:
            costs: of `costs`, on the host.
            num_queries: queries of every layer.
            targets: as for `costs`; its tensors may be on the device.

        Returns:
            On the host, for every layer, the pairs of every image.
        """

    def __call__(
        self,
        layer: LayerOutput,
        targets: BatchedTargets,
        masks: MaskContext | None = None,
        name: str = "a layer",
    ) -> Matching:
        """Match one layer; see `Matcher`."""
        (matching,), _ = run(match_layers(self, [layer], targets, masks, [name]))
        return matching


def build_matcher(name: str, cfg: CfgNode, branch: str = "STUFF") -> Matcher:
    """Build the matcher that is registered as `name`.

    Args:
        name: of the registry.
        cfg: the configuration.
        branch: whose decoder it matches, "THING" or "STUFF".

    Raises:
        KeyError: if there is none.
    """
    matcher = MATCHER_REGISTRY.get(name)
    built: Matcher = (
        matcher.for_branch(cfg, branch) if hasattr(matcher, "for_branch") else matcher(cfg)
    )
    return built


@torch.no_grad()
def match_layers(
    matcher: Matcher,
    layers: Sequence[LayerOutput],
    targets: BatchedTargets,
    masks: MaskContext | None,
    names: Sequence[str],
) -> HostSteps[tuple[list[Matching], bool]]:
    """Match several layers, with one transfer where the matcher is a `CostMatcher`.

    Args:
        matcher: any.
        layers: predictions of B images.
        targets: their objects.
        masks: for costs of masks.
        names: of the layers.

    Returns:
        The matchings, and whether all costs are finite.
    """
    if not isinstance(matcher, CostMatcher):
        matchings = [
            matcher(layer, targets, masks, name) for layer, name in zip(layers, names, strict=True)
        ]
        return matchings, True
    costs = yield matcher.costs(layers, targets, masks)
    num_queries = [layer.boxes.shape[1] for layer in layers]
    pairs = matcher.assign(costs, num_queries, targets)
    finite = all(bool(cost.isfinite().all()) for cost in costs if cost.is_floating_point())
    matchings = [Matching.concatenate(of_layer) for of_layer in pairs]
    return matchings_to_device(matchings, targets.boxes.device), finite


def matchings_to_device(matchings: Sequence[Matching], device: torch.device) -> list[Matching]:
    """Copy matchings to a device in one transfer.

    Args:
        matchings: on the host.
        device: of the results.
    """
    indices = [
        torch.stack([matching.image_index, matching.query_index, matching.target_index])
        for matching in matchings
    ]
    copied = to_device(torch.cat(indices, dim=1), device)
    columns = copied.split([len(matching) for matching in matchings], dim=1)
    return [
        Matching(index[0], index[1], index[2], matching.counts)
        for index, matching in zip(columns, matchings, strict=True)
    ]


def denoising_matching(layout: DenoisingLayout, targets: BatchedTargets) -> Matching:
    """Pairs of denoising queries: each noised copy with its own object."""
    first = torch.arange(layout.num_groups)[:, None] * layout.group_size
    pairs = []
    for image in range(targets.num_images):
        objects = targets.of_image(image)
        offset = torch.arange(min(objects.stop - objects.start, layout.max_objects))
        query_index = (first + offset).flatten()
        pairs.append((query_index, (objects.start + offset).repeat(layout.num_groups)))
    (matching,) = matchings_to_device([Matching.concatenate(pairs)], targets.boxes.device)
    return matching
