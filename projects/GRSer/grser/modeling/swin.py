"""Swin transformer (Liu et al., ICCV 2021) as a backbone that runs stage by stage.

Blocks, patch embedding and patch merging are timm's. The released Swin pads a map to a multiple of
the window before shifting, and always shifts odd blocks; timm shifts first and omits shifts of maps
that fit into one window. The two differ where a map is no multiple of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

PATCH_SIZE = 4


@dataclass(frozen=True)
class SwinVariant:
    """Shape of a Swin transformer; `width` doubles and the map halves from stage to stage."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int


SWIN_VARIANTS = {
    "swin_b": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin_t": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_nano": SwinVariant(32, (1, 1, 2, 1), (1, 2, 4, 8), 4),
}


class PaddedBlock(SwinTransformerBlock):
    """timm's Swin block with the released order of padding and shifting."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__(
            width,
            input_resolution=(window, window),
            num_heads=heads,
            window_size=window,
            shift_size=shift,
            always_partition=True,
            dynamic_mask=True,
            drop_path=drop_path,
        )

    def _attn(self, x: Tensor) -> Tensor:
        """Window attention of a map [B, H, W, C]."""
        height, width = x.shape[1:3]
        bottom, right = -height % self.window_size[0], -width % self.window_size[1]
        attended = super()._attn(F.pad(x, (0, 0, 0, right, 0, bottom)))
        return attended[:, :height, :width].contiguous()


class SwinBackbone(nn.Module):
    """Swin transformer with features at strides 4, 8, 16 and 32.

    Args:
        variant: a name of `SWIN_VARIANTS`.
        drop_path: stochastic depth rate of the last block, growing linearly from 0.
    """

    def __init__(self, variant: str, drop_path: float = 0.0) -> None:
        super().__init__()
        shape = SWIN_VARIANTS[variant]
        self.widths = tuple(shape.width * 2**i for i in range(len(shape.depths)))
        self.embed = PatchEmbed(
            None, PATCH_SIZE, embed_dim=shape.width, norm_layer=nn.LayerNorm,
            output_fmt="NHWC", dynamic_img_pad=True,
        )  # fmt: skip
        last = max(sum(shape.depths) - 1, 1)
        rates = iter(drop_path * index / last for index in range(sum(shape.depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    PaddedBlock(width, heads, shape.window, i % 2 * (shape.window // 2), rate)
                    for i, rate in zip(range(depth), rates, strict=False)
                )
            )
            for width, depth, heads in zip(self.widths, shape.depths, shape.heads, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(width) for width in self.widths[:-1])
        self.apply(_init_weights)

    def forward_stem(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> input of the first stage, [B, h, w, C]."""
        return self.embed(images)

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        """Run stage 0..3 on the output of the one before -> [B, h, w, C]."""
        return self.stages[index](self.merges[index - 1](x) if index else x)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
