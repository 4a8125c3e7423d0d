"""Spatial prior module after ViT-Adapter (Chen et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from refersam.modeling.multi_scale_geometry import STRIDES

STEM_WIDTH, STEM_STRIDE = 64, 4


class SpatialPrior(nn.Module):
    """Convolutional stem at stride 4 and stages at strides 8, 16 and 32.

    Differences to ViT-Adapter: norms are over the whole map (one group), and the map at stride 4
    has no projection. Padding of an image therefore changes all features.

    Args:
        width: D, channels of the projected maps.
        strides: strides of the projected maps, ascending; there are no stages after the last.
    """

    def __init__(self, width: int, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        num_stages = STRIDES.index(strides[-1]) + 1
        self.projected_stages = [STRIDES.index(stride) for stride in strides]
        self.stem = nn.Sequential(
            *_conv_norm_relu(3, STEM_WIDTH, 2),
            *_conv_norm_relu(STEM_WIDTH, STEM_WIDTH, 1),
            *_conv_norm_relu(STEM_WIDTH, STEM_WIDTH, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = (2 * STEM_WIDTH, 4 * STEM_WIDTH, 4 * STEM_WIDTH)[:num_stages]
        self.stages = nn.ModuleList(
            nn.Sequential(*_conv_norm_relu(in_channels, out_channels, 2))
            for in_channels, out_channels in zip((STEM_WIDTH, *widths[:-1]), widths, strict=True)
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(widths[stage], width, 1) for stage in self.projected_stages
        )

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images [N, 3, H, W] -> map [N, 64, H/4, W/4], and tokens [N, S, D] of each level."""
        fine = x = self.stem(images)
        maps = [x := stage(x) for stage in self.stages]
        levels = [
            projection(maps[stage]).flatten(2).transpose(1, 2)
            for stage, projection in zip(self.projected_stages, self.projections, strict=True)
        ]
        return fine, levels


def global_norm(channels: int) -> nn.GroupNorm:
    """Build a norm over all channels and positions of a map."""
    return nn.GroupNorm(1, channels, eps=1e-6)


def tokens_to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens [B, h * w, C] -> map [B, C, h, w]."""
    return tokens.transpose(1, 2).unflatten(2, size)


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return [conv, global_norm(out_channels), nn.ReLU()]
