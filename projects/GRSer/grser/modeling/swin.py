"""Swin's trunk, stage by stage; its blocks, patches and merging are timm's.

Liu et al., ICCV 2021. In the released Swin a map is padded to whole windows first and shifted
afterwards, and odd blocks are always shifted; timm shifts first and leaves out what seems needless.
The two differ wherever a map is no multiple of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

PATCH = 4


@dataclass(frozen=True)
class SwinVariant:
    """Shape of a Swin; `width` doubles and the map halves from stage to stage."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int


SWINS = {
    "swin_b": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin_t": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_nano": SwinVariant(32, (1, 1, 2, 1), (1, 2, 4, 8), 4),
}


class PaddedBlock(SwinTransformerBlock):
    """timm's block with the released order of padding and shifting."""

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
        down, right = -height % self.window_size[0], -width % self.window_size[1]
        seen = super()._attn(F.pad(x, (0, 0, 0, right, 0, down)))
        return seen[:, :height, :width].contiguous()


class SwinTrunk(nn.Module):
    """Images to maps, with a pause after each stage.

    Args:
        variant: a name of `SWINS`.
        drop_path: chance that the last block is skipped in training; earlier ones less, down to 0.
    """

    def __init__(self, variant: str, drop_path: float = 0.0) -> None:
        super().__init__()
        shape = SWINS[variant]
        self.widths = tuple(shape.width * 2**i for i in range(len(shape.depths)))
        self.embed = PatchEmbed(
            None, PATCH, embed_dim=shape.width, norm_layer=nn.LayerNorm,
            output_fmt="NHWC", dynamic_img_pad=True,
        )  # fmt: skip
        last = max(sum(shape.depths) - 1, 1)
        rates = iter(drop_path * number / last for number in range(sum(shape.depths)))
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
        self.apply(_initialise)

    def start(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the first stage takes."""
        return self.embed(pixels)

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Stage 0..3 of what the one before gave -> [B, h, w, C]."""
        return self.stages[number](self.merges[number - 1](x) if number else x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
