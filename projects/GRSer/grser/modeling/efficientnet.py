"""EfficientNet of timm as a backbone that runs stage by stage."""

from __future__ import annotations

from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.backbone.timm import TimmBackbone

STRIDES = (4, 8, 16, 32)


class EfficientNetBackbone(nn.Module):
    """EfficientNet with features at strides 4, 8, 16 and 32.

    Args:
        name: name of an EfficientNet in timm.
        weights: see `TimmBackbone`.
        freeze_norm: keep the statistics, scales and shifts of the batch norms.

    Raises:
        ValueError: if timm has no such model, or if it is not an EfficientNet.
    """

    def __init__(self, name: str, weights: str = "", freeze_norm: bool = True) -> None:
        super().__init__()
        net = TimmBackbone(name, weights, freeze_norm).net
        if not hasattr(net, "conv_stem") or not hasattr(net, "blocks"):
            raise InputError(f"MODEL.TIMM.NAME: {name} is not an EfficientNet")
        self.stem = nn.Sequential(net.conv_stem, net.bn1)
        self.stages = nn.ModuleList()
        widths, first = [], 0
        for info in net.feature_info.get_dicts():
            last = int(info["module"].rpartition(".")[2]) + 1
            if info["reduction"] in STRIDES:
                self.stages.append(nn.Sequential(*net.blocks[first:last]))
                widths.append(info["num_chs"])
                first = last
        self.widths = tuple(widths)

    def forward_stem(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> input of the first stage, [B, h, w, C]."""
        return self.stem(images).permute(0, 2, 3, 1)

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        """Run stage 0..3 on the output of the one before -> [B, h, w, C]."""
        return self.stages[index](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
