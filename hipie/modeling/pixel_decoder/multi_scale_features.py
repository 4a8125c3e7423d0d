"""Multi-scale image features: projection to one width and flattening to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.device_transfer import to_device
from hipie.structures import FeatureLevels, Size

NORM_GROUPS = 32


class InputProjections(nn.Module):
    """Project backbone features to one width, and add coarser levels.

    A 1x1 convolution and a group norm for each feature map. Further levels halve the size by
    convolutions of stride 2: the first one of the coarsest feature map, the others of the level
    before (Deformable DETR, section 4.1).

    Args:
        in_channels: channels of the feature maps, the finest first; as published res3, res4, res5.
        width: channels of the results, divisible by 32.
        num_levels: levels of the result; None = one more than there are feature maps.
    """

    def __init__(
        self, in_channels: Sequence[int], width: int, num_levels: int | None = None
    ) -> None:
        super().__init__()
        extra = 1 if num_levels is None else num_levels - len(in_channels)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(NORM_GROUPS, width))
            for channels in in_channels
        )
        self.num_maps = len(in_channels)
        self.levels.extend(
            nn.Sequential(
                nn.Conv2d(width if index else in_channels[-1], width, 3, stride=2, padding=1),
                nn.GroupNorm(NORM_GROUPS, width),
            )
            for index in range(extra)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps [B, C_i, h_i, w_i] -> levels [B, width, ...], the finest first."""
        levels = [level(x) for level, x in zip(self.levels[: self.num_maps], features, strict=True)]
        coarsest = features[-1]
        for level in self.levels[self.num_maps :]:
            coarsest = level(coarsest)
            levels.append(coarsest)
        return levels


def level_strides(strides: Sequence[int], num_levels: int | None = None) -> tuple[int, ...]:
    """Strides of the levels of `InputProjections`.

    Args:
        strides: of the feature maps, the finest first.
        num_levels: see `InputProjections`.
    """
    extra = 1 if num_levels is None else num_levels - len(strides)
    return (*strides, *(strides[-1] * 2 ** (index + 1) for index in range(extra)))


def flatten_levels(
    maps: Sequence[Tensor], position_embeddings: Sequence[Tensor], padding_masks: Sequence[Tensor]
) -> FeatureLevels:
    """Flatten and concatenate L maps [B, C, h, w], their positions and masks [B, h, w], in order.

    Args:
        maps: L tensors [B, C, h, w].
        position_embeddings: L tensors of the same shapes.
        padding_masks: L tensors [B, h, w] bool, True where padded.
    """
    sizes = tuple((level.shape[-2], level.shape[-1]) for level in maps)
    areas = [height * width for height, width in sizes]
    rows = [(*size, sum(areas[:i])) for i, size in enumerate(sizes)]
    tables = to_device(_integer_table(rows), maps[0].device)
    return FeatureLevels(
        tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1),
        position_embeddings=torch.cat(
            [level.flatten(2).transpose(1, 2) for level in position_embeddings], dim=1
        ),
        padding_mask=torch.cat([mask.flatten(1) for mask in padding_masks], dim=1),
        spatial_shapes=tables[:, :2].contiguous(),
        level_start_index=tables[:, 2].contiguous(),
        valid_ratios=torch.stack([valid_ratios(mask) for mask in padding_masks], dim=1),
        sizes=sizes,
    )


def _integer_table(rows: Sequence[Sequence[int]]) -> Tensor:
    """Tensor int64 of numbers, which are symbols while a model is exported."""
    if not torch.compiler.is_exporting():
        return torch.tensor(rows)
    scalars = [[torch.scalar_tensor(value, dtype=torch.long) for value in row] for row in rows]
    return torch.stack([torch.stack(row) for row in scalars])


def valid_ratios(padding_mask: Tensor) -> Tensor:
    """Share of the canvas that each image covers.

    Args:
        padding_mask: [B, h, w] bool of one level, True where padded.

    Returns:
        [B, 2] (x, y) in 0..1.
    """
    valid = ~padding_mask
    height, width = padding_mask.shape[1:]
    return torch.stack([valid[:, 0].sum(1) / width, valid[:, :, 0].sum(1) / height], dim=-1)


def resize_padding_mask(padding_mask: Tensor, size: Size) -> Tensor:
    """A padding mask [B, H, W] at another size, by the nearest pixel."""
    return F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool()
