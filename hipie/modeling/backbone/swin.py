"""Detectron2's Swin transformer (Liu et al., ICCV 2021) as a backbone of its registry."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import SwinTransformer
from torch import Tensor

from hipie.errors import InputError

STAGES = ("res2", "res3", "res4", "res5")


class SwinBackbone(SwinTransformer):
    """Swin transformer with the features res2 to res5, each with a layer norm of its own.

    Images may have any size: maps are padded to whole windows and whole patches. Parameters have
    the names of the released weights (`patch_embed`, `layers`), and `norm0` to `norm3` those of the
    released detectors.

    Args:
        out_features: some of res2, res3, res4 and res5, of strides 4, 8, 16 and 32.
        freeze_at: 1: freeze the patch embedding, 2: and the first stage, and so on; 0: nothing.
        swin_options: further arguments of `detectron2.modeling.backbone.swin.SwinTransformer`.

    Raises:
        InputError: if `out_features` has another name.
    """

    def __init__(
        self, *, out_features: tuple[str, ...] = STAGES, freeze_at: int = 0, **swin_options: Any
    ) -> None:
        unknown = [name for name in out_features if name not in STAGES]
        if unknown or not out_features:
            raise InputError(
                f"MODEL.SWIN.OUT_FEATURES is {tuple(out_features)}; it has to be some of "
                f"{', '.join(STAGES)}"
            )
        super().__init__(
            out_indices=tuple(STAGES.index(name) for name in out_features),
            frozen_stages=freeze_at or -1,
            **swin_options,
        )
        self._out_features = list(out_features)
        self._out_feature_strides = {name: 4 * 2 ** STAGES.index(name) for name in out_features}
        self._out_feature_channels = {
            name: self.num_features[STAGES.index(name)] for name in out_features
        }

    @property
    def size_divisibility(self) -> int:
        """Divisor of the sides of padded images; 0 = any size."""
        return 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute features [B, C, H / stride, W / stride], rounded up, of images [B, 3, H, W]."""
        features = super().forward(x)
        return {name: features[f"p{STAGES.index(name)}"] for name in self._out_features}

    def train(self, mode: bool = True) -> SwinBackbone:
        """Set the mode; frozen stages stay in evaluation mode, without stochastic depth."""
        super().train(mode)
        self._freeze_stages()
        return self

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of position embeddings and norms, as in the released training."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim == 1 or "absolute_pos_embed" in name or "position_bias" in name
        }


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinBackbone:
    """Build the backbone of `MODEL.SWIN` and `MODEL.BACKBONE.FREEZE_AT`."""
    keys = cfg.MODEL.SWIN
    return SwinBackbone(
        in_chans=input_shape.channels,
        embed_dim=keys.EMBED_DIM,
        depths=tuple(keys.DEPTHS),
        num_heads=tuple(keys.NUM_HEADS),
        window_size=keys.WINDOW_SIZE,
        drop_path_rate=keys.DROP_PATH_RATE,
        out_features=tuple(keys.OUT_FEATURES),
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
