"""The plain vision transformer of HIPIE with three scales from its last block."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.utils import get_abs_pos
from detectron2.modeling.backbone.vit import ViT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hipie.modeling.backbone.vit_attention import GridAttention


class ViTPyramid(ViT):
    """ViTDet's plain backbone (Li et al., 2022) as the published HIPIE uses it.

    Detectron2's blocks, with attention that needs little memory. The three scales all come from
    the last block, without norms: res3 by a transposed convolution (half the channels, stride 8),
    res4 as it is (stride 16), res5 by a maximum over 2 x 2 (stride 32). The fact that makes the
    published ViT-H what it is stands in `window_block_indexes`: only 8 of its 32 blocks look
    through windows.

    Args:
        width: channels.
        checkpoint_activations: forget what the blocks compute and compute it again for gradients.
        others: as `detectron2.modeling.backbone.vit.ViT` takes them.
    """

    def __init__(self, *, width: int, checkpoint_activations: bool = False, **others) -> None:
        super().__init__(
            embed_dim=width,
            use_rel_pos=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            **others,
        )
        self.checkpoint_activations = checkpoint_activations
        for block in self.blocks:
            block.attn = GridAttention.in_place_of(block.attn)
        self.finer = nn.ConvTranspose2d(width, width // 2, 2, 2)
        self._out_features = ["res3", "res4", "res5"]
        stride = self._out_feature_strides.popitem()[1]
        self._out_feature_strides = {"res3": stride // 2, "res4": stride, "res5": stride * 2}
        self._out_feature_channels = {"res3": width // 2, "res4": width, "res5": width}

    @property
    def size_divisibility(self) -> int:
        """Sides of the canvas must be multiples of this."""
        return self._out_feature_strides["res5"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] -> res3 [B, C/2, H/8, W/8], res4 [B, C, H/16, W/16], res5.

        Raises:
            ValueError: if a side is no multiple of 32.
        """
        if x.shape[-2] % self.size_divisibility or x.shape[-1] % self.size_divisibility:
            raise ValueError(
                f"a ViT's images have sides that are multiples of {self.size_divisibility}, "
                f"not {x.shape[-2]} x {x.shape[-1]}"
            )
        tokens = self.patch_embed(x)
        tokens = tokens + get_abs_pos(
            self.pos_embed, self.pretrain_use_cls_token, tokens.shape[1:3]
        )
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        last = tokens.permute(0, 3, 1, 2)
        return {"res3": self.finer(last), "res4": last, "res5": F.max_pool2d(last, 2)}


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTPyramid:
    """The backbone that `MODEL.VIT` describes."""
    keys = cfg.MODEL.VIT
    return ViTPyramid(
        width=keys.EMBED_DIM,
        depth=keys.DEPTH,
        num_heads=keys.NUM_HEADS,
        img_size=keys.IMAGE_SIZE,
        pretrain_img_size=keys.PRETRAIN_IMAGE_SIZE,
        window_size=keys.WINDOW_SIZE,
        window_block_indexes=tuple(keys.WINDOW_BLOCKS),
        drop_path_rate=keys.DROP_PATH,
        in_chans=input_shape.channels,
        checkpoint_activations=keys.CHECKPOINT_ACTIVATIONS,
    )
