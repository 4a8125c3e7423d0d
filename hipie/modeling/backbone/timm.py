"""Any timm network with features at strides 4 to 32 as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.backbone.depthwise import use_depthwise_gradient
from hipie.modeling.backbone.frozen_batch_norm import freeze_norms
from hipie.modeling.backbone.timm_checkpoint import read_timm_weights

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """Features `res2` to `res5` of a timm model, those of them that it has.

    Images are normalized with the mean and standard deviation of the weights, which timm's
    `default_cfg` of a model states. For `tf_efficientnet_lite*` both are 0.5 in 0..1, so
    `PIXEL_MEAN` and `PIXEL_STD` are 127.5 each.

    Args:
        name: of the timm model.
        weights: "" (random), "package" (ImageNet weights of `tf_efficientnet_lite0` or
            `tf_efficientnet_lite2` from an installed package), or a file with a timm state dict.
        freeze_norm: batch norms keep their statistics, scales and shifts. Those that follow a
            convolution are fused into it, and its weight stays trainable.
        freeze_at: freeze all layers up to stride 2**freeze_at (1: stride 2, 2: stride 4); 0: none.

    Raises:
        ValueError: if timm has no such model, if the model has none of the strides or is not
            channels-first, or if the weights belong to another model.
    """

    @configurable
    def __init__(
        self, name: str, weights: str = "", freeze_norm: bool = True, freeze_at: int = 0
    ) -> None:
        super().__init__()
        self.has_pretrained_weights = bool(weights)
        self.net = _build_feature_network(name, weights)
        info: Any = self.net.feature_info
        index_of = {stride: index for index, stride in enumerate(info.reduction())}
        self._indices = {
            key: index_of[stride] for key, stride in STRIDES.items() if stride in index_of
        }
        if not self._indices:
            raise InputError(
                f"MODEL.TIMM.NAME: {name} has features at the strides {sorted(index_of)}, and at "
                "none of 4, 8, 16 and 32"
            )
        self._shapes = {
            key: ShapeSpec(channels=info.channels()[index], stride=STRIDES[key])
            for key, index in self._indices.items()
        }
        if freeze_norm:
            default_cfg: Any = self.net.default_cfg
            freeze_norms(self.net, default_cfg["input_size"])
        use_depthwise_gradient(self.net)
        if freeze_at:
            if 2**freeze_at not in index_of:
                raise InputError(
                    f"MODEL.BACKBONE.FREEZE_AT {freeze_at}: {name} has no features at stride "
                    f"{2**freeze_at}"
                )
            freeze_up_to(self.net, info.module_name(index_of[2**freeze_at]))

    @classmethod
    def from_config(
        cls, cfg: CfgNode, _input_shape: Sequence[ShapeSpec] | None = None
    ) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TIMM` and `MODEL.BACKBONE.FREEZE_AT`."""
        keys = cfg.MODEL.TIMM
        return {
            "name": keys.NAME,
            "weights": keys.WEIGHTS,
            "freeze_norm": keys.FREEZE_NORM,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute features [B, C, H / stride, W / stride] of images [B, 3, H, W], by name."""
        if not (pixels.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            features = self.net(pixels)
            return {key: features[index] for key, index in self._indices.items()}
        # Half-precision convolutions of a CPU are several times faster with channels last.
        features = self.net(pixels.contiguous(memory_format=torch.channels_last))
        return {key: features[index].contiguous() for key, index in self._indices.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature."""
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        """Divisor of the sides of padded images."""
        return 32


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the backbone of `MODEL.TIMM`."""
    return TimmBackbone(cfg, input_shape)


def freeze_up_to(net: nn.Module, last: str) -> None:
    """Freeze all modules registered before the module named `last`, and that module."""
    reached_last = False
    for name, module in net.named_modules():
        inside = name == last or name.startswith(f"{last}.")
        if reached_last and not inside:
            break
        reached_last = reached_last or inside
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _build_feature_network(name: str, weights: str) -> nn.Module:
    """Build timm's network that returns feature maps, with weights of the complete model."""
    if not timm.is_model(name):
        raise InputError(f"MODEL.TIMM.NAME: timm {timm.__version__} has no model {name!r}")
    net = timm.create_model(name, features_only=True, pretrained=False)
    if getattr(net, "output_fmt", "NCHW") != "NCHW":
        raise InputError(f"MODEL.TIMM.NAME: the features of {name} are not channels-first")
    if weights:
        complete = timm.create_model(name, pretrained=False)
        state = read_timm_weights(complete.state_dict(), name, weights)
        # A feature network has the stages as top-level modules: stages.0 is stages_0.
        flat = {key.replace(".", "_"): value for key, value in state.items()}
        net.load_state_dict({key: flat[key.replace(".", "_")] for key in net.state_dict()})
    return net
