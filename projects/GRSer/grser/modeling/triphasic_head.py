"""Triphasic features of a group of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grser.hierarchizer import BOTH, BY_DIFFERENCE, hierarchy
from grser.modeling.group_padding import split_and_pad
from grser.tqm import EPS, language_heatmap, prototypes, visual_heatmaps
from hipie.modeling.device_transfer import to_device

RANKED, POOLED, LANGUAGE, NONE = "ranked", "pooled", "language", "none"
HEATMAP_KINDS = (RANKED, POOLED, LANGUAGE, NONE)


@dataclass(frozen=True)
class HeatmapConfig:
    """Heatmap channels of the triphasic features; see `MODEL.GRSER`.

    Attributes:
        group_size: number of heatmap channels.
        kind: "ranked" gives one channel for each image, so that groups are split and padded to
            `group_size` images. "pooled" averages the ranked heatmaps of a group of any size into
            `group_size` channels of neighbouring ranks; for `group_size` images both are equal.
            "language" has the language heatmap only: no image depends on the others.
        hierarchizer: sort the heatmaps by `grser.hierarchizer`; else they keep the group's order.
        language_channel: concatenate the language heatmap as well.
        ties, ranks: see `hierarchy`.
        eps: lower bound of vector norms in cosine similarities.
    """

    group_size: int = 8
    kind: str = RANKED
    hierarchizer: bool = True
    language_channel: bool = False
    ties: str = BY_DIFFERENCE
    ranks: str = BOTH
    eps: float = EPS

    @property
    def visual_channels(self) -> int:
        """Number of visual heatmaps in the triphasic features."""
        return 0 if self.kind == LANGUAGE else self.group_size

    @property
    def has_language_channel(self) -> bool:
        """Whether the triphasic features have the language heatmap."""
        return self.language_channel or self.kind == LANGUAGE

    @property
    def is_sorted(self) -> bool:
        """Whether the visual heatmaps are sorted by the hierarchizer."""
        return self.hierarchizer and self.kind in (RANKED, POOLED)


class TriphasicFeatures(NamedTuple):
    """Triphasic features of a group of N images and the heatmaps in them.

    Attributes:
        z: [N, K (+ 1) + C, H, W].
        language: [N, H, W] language heatmaps.
        visual: [N, K, H, W] visual heatmaps, the most reliable first if they are sorted.
        sources: [N, K] int64, index of the image of which each visual heatmap has the prototype;
            None for pooled heatmaps, which have several.
    """

    z: Tensor
    language: Tensor
    visual: Tensor
    sources: Tensor | None


class TriphasicHead(nn.Module):
    """z_n: the concatenation of the sorted visual heatmaps of image n and its feature map.

    Args:
        width: C, channels of the feature maps.
        text_width: W, size of an expression's feature.
        heatmaps: the heatmap channels.
    """

    def __init__(self, width: int, text_width: int, heatmaps: HeatmapConfig) -> None:
        super().__init__()
        self.heatmaps = heatmaps
        self.channels = heatmaps.visual_channels + heatmaps.has_language_channel + width
        self.text_projection = nn.Linear(text_width, width)
        self.output_projection = nn.Conv2d(self.channels, width, 1)
        with torch.no_grad():  # training starts close to LAVT without a group
            self.output_projection.weight[:, -width:, 0, 0] = torch.eye(width)
            self.output_projection.bias.zero_()

    def forward(
        self, features: Tensor, expression: Tensor, anti_expression: Tensor | None
    ) -> TriphasicFeatures:
        """Compute the triphasic features of a group, in float32 also under autocast.

        Args:
            features: [N, C, H, W] feature maps of the group's images.
            expression: [W].
            anti_expression: [W]; None if the order of the heatmaps does not depend on it.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            text = self.text_projection(expression.float())
            anti_text = None
            if anti_expression is not None:
                anti_text = self.text_projection(anti_expression.float())
            language = language_heatmap(features, text, self.heatmaps.eps)
            visual, sources = self._visual_heatmaps(features, language, text, anti_text)
            channels = [visual]
            if self.heatmaps.has_language_channel:
                channels.append(language[:, None])
            return TriphasicFeatures(torch.cat([*channels, features], 1), language, visual, sources)

    def _visual_heatmaps(
        self, features: Tensor, language: Tensor, text: Tensor, anti_text: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Visual heatmaps of a group and their sources; see `TriphasicFeatures`."""
        count = len(features)
        if self.heatmaps.kind == LANGUAGE:
            empty = features.new_empty(count, 0, *features.shape[-2:])
            return empty, torch.empty(count, 0, dtype=torch.long, device=features.device)
        p = prototypes(features, language)
        parts = [(slice(0, count), list(range(count)))]
        if self.heatmaps.kind == RANKED:
            parts = list(split_and_pad(count, self.heatmaps.group_size))
        visual, sources = [], []
        for outputs, members in parts:
            order, part_p = to_device(torch.tensor(members), p.device), _select(p, members)
            if self.heatmaps.hierarchizer:
                by_rank = hierarchy(
                    part_p, text, anti_text, self.heatmaps.ties, self.heatmaps.ranks
                )
                order, part_p = order[by_rank], part_p[by_rank]
            visual.append(visual_heatmaps(features[outputs], part_p, self.heatmaps.eps))
            sources.append(order.expand(len(visual[-1]), -1))
        heatmaps = torch.cat(visual)
        if self.heatmaps.kind == RANKED:
            return heatmaps, torch.cat(sources)
        by_rank = heatmaps.permute(0, 2, 3, 1).flatten(1, 2)
        pooled = F.adaptive_avg_pool1d(by_rank, self.heatmaps.group_size)
        return pooled.unflatten(1, heatmaps.shape[-2:]).permute(0, 3, 1, 2), None


def _select(p: Tensor, members: list[int]) -> Tensor:
    """Prototypes [N, C] of some images, [K, C]."""
    if members == list(range(len(p))):
        return p
    return p[to_device(torch.tensor(members), p.device)]
