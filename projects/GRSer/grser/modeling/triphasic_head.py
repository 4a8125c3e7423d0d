"""From the maps of a group and its expression to triphasic features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grser.data.group_padding import chunks
from grser.hierarchizer import BY_DIFFERENCE, hierarchy
from grser.tqm import SHORTEST, language_heatmap, prototypes, visual_heatmaps

RANKED, POOLED, NONE = "ranked", "pooled", "none"
KINDS = (RANKED, POOLED, NONE)


class TriphasicHead(nn.Module):
    """z_n = the visual heatmaps of image n in their order of trust, and its own map.

    A "ranked" head has one channel an image, so that a group has to be cut and filled to `size`
    images. A "pooled" head averages the ordered heatmaps of a group of any size into `size`
    summaries of neighbouring ranks; for `size` images the two are the same.

    Args:
        width: C, channels of the images' maps.
        word_width: of the expression's vector.
        size: images of a group, or summaries.
        kind: "ranked" or "pooled".
        ordered: bring heatmaps into the hierarchizer's order; else they stay in the group's.
        language_channel: also give the language heatmap to the decoder.
        ties: see `hierarchy`.
        shortest: length that vectors are taken to have at least.
    """

    def __init__(
        self,
        width: int,
        word_width: int,
        size: int,
        *,
        kind: str = RANKED,
        ordered: bool = True,
        language_channel: bool = False,
        ties: str = BY_DIFFERENCE,
        shortest: float = SHORTEST,
    ) -> None:
        super().__init__()
        self.size, self.kind, self.ordered = size, kind, ordered
        self.language_channel, self.ties, self.shortest = language_channel, ties, shortest
        self.channels = size + language_channel + width
        self.words = nn.Linear(word_width, width)
        self.narrow = nn.Conv2d(self.channels, width, 1)
        with torch.no_grad():  # so that training starts near what LAVT does without a group
            self.narrow.weight[:, -width:, 0, 0] = torch.eye(width)
            self.narrow.bias.zero_()

    def forward(self, maps: Tensor, expression: Tensor, anti: Tensor) -> tuple[Tensor, Tensor]:
        """Ask a group.

        Args:
            maps: [N, C, H, W] of its images.
            expression, anti: [W].

        Returns:
            z [N, size (+ 1) + C, H, W], and the language heatmaps [N, H, W].
        """
        with torch.autocast(maps.device.type, enabled=False):
            maps, said, denied = (
                maps.float(), self.words(expression.float()), self.words(anti.float())
            )  # fmt: skip
            language = language_heatmap(maps, said, self.shortest)
            found = prototypes(maps, language)
            parts = [(slice(0, len(maps)), list(range(len(maps))))]
            if self.kind == RANKED:
                parts = list(chunks(len(maps), self.size))
            heat = [
                self._heatmaps(maps[own], found[members], said, denied) for own, members in parts
            ]
            extra = [language[:, None]] if self.language_channel else []
            return torch.cat([torch.cat(heat), *extra, maps], 1), language

    def _heatmaps(self, maps: Tensor, found: Tensor, said: Tensor, denied: Tensor) -> Tensor:
        """Maps [n, C, H, W] against prototypes [K, C] -> [n, size, H, W], most trusted first."""
        if self.ordered:
            found = found[hierarchy(found, said, denied, self.ties)]
        heat = visual_heatmaps(maps, found, self.shortest)
        if self.kind == RANKED:
            return heat
        by_rank = heat.permute(0, 2, 3, 1).flatten(1, 2)
        pooled = F.adaptive_avg_pool1d(by_rank, self.size)
        return pooled.unflatten(1, heat.shape[-2:]).permute(0, 3, 1, 2)
