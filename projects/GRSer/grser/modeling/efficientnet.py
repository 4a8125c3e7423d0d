"""A timm EfficientNet's trunk, stage by stage, for a model that is small and knows ImageNet."""

from __future__ import annotations

from torch import Tensor, nn

from hipie.modeling.backbone.timm import TimmBackbone

STRIDES = (4, 8, 16, 32)


class EfficientNetTrunk(nn.Module):
    """Images to maps at strides 4, 8, 16 and 32, with a pause after each.

    Args:
        name: of a timm EfficientNet.
        weights: see `TimmBackbone`.
        freeze_norm: batch norms keep their statistics, scales and shifts.

    Raises:
        ValueError: if timm lacks the model or it is of another kind.
    """

    def __init__(self, name: str, weights: str = "", freeze_norm: bool = True) -> None:
        super().__init__()
        net = TimmBackbone(name, weights, freeze_norm).net
        if not hasattr(net, "conv_stem") or not hasattr(net, "blocks"):
            raise ValueError(f"MODEL.TIMM.NAME: {name} is no EfficientNet")
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

    def start(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the first stage takes."""
        return self.stem(pixels).permute(0, 2, 3, 1)

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Stage 0..3 of what the one before gave -> [B, h, w, C]."""
        return self.stages[number](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
