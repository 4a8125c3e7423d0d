"""Plain vision transformer with three feature scales from its last block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.utils import get_abs_pos
from detectron2.modeling.backbone.vit import ViT
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.backbone.vit_attention import GridAttention


class ViTPyramid(ViT):
    """ViTDet's plain backbone (Li et al., 2022) as the published HIPIE uses it.

    The blocks are Detectron2's with memory-efficient attention. All three scales are computed from
    the last block, without norms: res3 by a transposed convolution (half the channels, stride 8),
    res4 unchanged (stride 16), res5 by 2 x 2 max pooling (stride 32). In the published ViT-H only 8
    of the 32 blocks have window attention (`window_block_indexes`).

    With `feature_blocks` the scales are computed from the outputs of three blocks instead.

    Args:
        width: channels.
        feature_blocks: indices of the blocks of res3, res4 and res5; () = the last one for all.
        vit_options: further arguments of `detectron2.modeling.backbone.vit.ViT`.
    """

    def __init__(
        self, *, width: int, feature_blocks: Sequence[int] = (), **vit_options: Any
    ) -> None:
        super().__init__(
            embed_dim=width,
            use_rel_pos=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            **vit_options,
        )
        depth = len(self.blocks)
        if feature_blocks and (
            len(feature_blocks) != 3 or not all(0 <= block < depth for block in feature_blocks)
        ):
            raise InputError(
                f"MODEL.VIT.FEATURE_BLOCKS is {tuple(feature_blocks)}; it has to be empty or three "
                f"blocks of 0 to {depth - 1} (MODEL.VIT.DEPTH is {depth})"
            )
        self.feature_blocks = tuple(feature_blocks) or (depth - 1,) * 3
        for block in self.blocks:
            block.attn = GridAttention.from_attention(block.attn)
        self.finer = nn.ConvTranspose2d(width, width // 2, 2, 2)
        stride = next(iter(super().output_shape().values())).stride
        self._out_features = ["res3", "res4", "res5"]
        self._out_feature_strides = {"res3": stride // 2, "res4": stride, "res5": stride * 2}
        self._out_feature_channels = {"res3": width // 2, "res4": width, "res5": width}

    @property
    def size_divisibility(self) -> int:
        """Divisor of the sides of padded images."""
        return self._out_feature_strides["res5"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute res3 [B, C/2, H/8, W/8], res4 [B, C, H/16, W/16] and res5 [B, C, H/32, W/32].

        Args:
            x: [B, 3, H, W] normalized images.

        Raises:
            ValueError: if a side is no multiple of 32.
        """
        if x.shape[-2] % self.size_divisibility or x.shape[-1] % self.size_divisibility:
            raise ValueError(
                f"the sides of images for a ViT are multiples of {self.size_divisibility}, "
                f"not {x.shape[-2]} x {x.shape[-1]}"
            )
        tokens = self.patch_embed(x)
        tokens = tokens + get_abs_pos(
            self.pos_embed, self.pretrain_use_cls_token, tokens.shape[1:3]
        )
        outputs = {}
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            if i in self.feature_blocks:
                outputs[i] = tokens.permute(0, 3, 1, 2)
        fine, middle, coarse = (outputs[i] for i in self.feature_blocks)
        return {"res3": self.finer(fine), "res4": middle, "res5": F.max_pool2d(coarse, 2)}


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTPyramid:
    """Build the backbone of `MODEL.VIT`."""
    keys = cfg.MODEL.VIT
    return ViTPyramid(
        width=keys.EMBED_DIM,
        feature_blocks=tuple(keys.FEATURE_BLOCKS),
        depth=keys.DEPTH,
        num_heads=keys.NUM_HEADS,
        img_size=keys.IMAGE_SIZE,
        pretrain_img_size=keys.PRETRAIN_IMAGE_SIZE,
        window_size=keys.WINDOW_SIZE,
        window_block_indexes=tuple(keys.WINDOW_BLOCKS),
        drop_path_rate=keys.DROP_PATH,
        in_chans=input_shape.channels,
    )
