"""Triphasic features of a group of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grser.hierarchizer import BY_DIFFERENCE, hierarchy
from grser.modeling.group_padding import split_and_pad
from grser.tqm import EPS, language_heatmap, prototypes, visual_heatmaps
from hipie.modeling.device_transfer import to_device

RANKED, POOLED, NONE = "ranked", "pooled", "none"
HEATMAP_KINDS = (RANKED, POOLED, NONE)


@dataclass(frozen=True)
class HeatmapConfig:
    """Heatmap channels of the triphasic features; see `MODEL.GRSER`.

    Attributes:
        group_size: number of heatmap channels.
        kind: "ranked" gives one channel for each image, so that groups are split and padded to
            `group_size` images. "pooled" averages the ranked heatmaps of a group of any size into
            `group_size` channels of neighbouring ranks; for `group_size` images both are equal.
        hierarchizer: sort the heatmaps by `grser.hierarchizer`; else they keep the group's order.
        language_channel: concatenate the language heatmap as well.
        ties: see `hierarchy`.
        eps: lower bound of vector norms in cosine similarities.
    """

    group_size: int = 8
    kind: str = RANKED
    hierarchizer: bool = True
    language_channel: bool = False
    ties: str = BY_DIFFERENCE
    eps: float = EPS


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
        self.channels = heatmaps.group_size + heatmaps.language_channel + width
        self.text_projection = nn.Linear(text_width, width)
        self.output_projection = nn.Conv2d(self.channels, width, 1)
        with torch.no_grad():  # training starts close to LAVT without a group
            self.output_projection.weight[:, -width:, 0, 0] = torch.eye(width)
            self.output_projection.bias.zero_()

    def forward(
        self, features: Tensor, expression: Tensor, anti_expression: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the triphasic features of a group, in float32 also under autocast.

        Args:
            features: [N, C, H, W] feature maps of the group's images.
            expression: [W].
            anti_expression: [W].

        Returns:
            z [N, group_size (+ 1) + C, H, W], and the language heatmaps [N, H, W].
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            text = self.text_projection(expression.float())
            anti_text = self.text_projection(anti_expression.float())
            language = language_heatmap(features, text, self.heatmaps.eps)
            p = prototypes(features, language)
            parts = [(slice(0, len(features)), list(range(len(features))))]
            if self.heatmaps.kind == RANKED:
                parts = list(split_and_pad(len(features), self.heatmaps.group_size))
            visual = [
                self._visual_heatmaps(features[outputs], _select(p, members), text, anti_text)
                for outputs, members in parts
            ]
            channels = [torch.cat(visual)]
            if self.heatmaps.language_channel:
                channels.append(language[:, None])
            return torch.cat([*channels, features], 1), language

    def _visual_heatmaps(
        self, features: Tensor, p: Tensor, text: Tensor, anti_text: Tensor
    ) -> Tensor:
        """Features [n, C, H, W] and prototypes [K, C] -> [n, group_size, H, W], sorted."""
        if self.heatmaps.hierarchizer:
            p = p[hierarchy(p, text, anti_text, self.heatmaps.ties)]
        heatmaps = visual_heatmaps(features, p, self.heatmaps.eps)
        if self.heatmaps.kind == RANKED:
            return heatmaps
        by_rank = heatmaps.permute(0, 2, 3, 1).flatten(1, 2)
        pooled = F.adaptive_avg_pool1d(by_rank, self.heatmaps.group_size)
        return pooled.unflatten(1, heatmaps.shape[-2:]).permute(0, 3, 1, 2)


def _select(p: Tensor, members: list[int]) -> Tensor:
    """Prototypes [N, C] of some images, [K, C]."""
    if members == list(range(len(p))):
        return p
    return p[to_device(torch.tensor(members), p.device)]
