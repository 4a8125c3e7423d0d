"""Masks of things: a small network whose weights a query decides (CondInst)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.heads.mlp import MLP

STRIDE = 8
# What an image's layers make for so many queries stays in the processor's cache.
QUERIES_AT_ONCE = 32


class MaskFeatures(nn.Module):
    """Three levels of encoder memory -> a few channels at stride 8.

    Args:
        width: channels of the memory.
        out_channels: channels of the result.
    """

    def __init__(self, width: int, out_channels: int = 8) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(width, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.narrow = nn.Conv2d(width, width // 4, 3, padding=1)
        self.out = nn.Conv2d(width // 4, out_channels, 3, padding=1)
        for layer in self.children():
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[B, width, ...] of strides 8, 16, 32 -> [B, out_channels, H/8, W/8]."""
        x = self.coarse(levels[2]).relu()
        x = self.middle(levels[1] + F.interpolate(x, size=levels[1].shape[-2:])).relu()
        x = self.fine(levels[0] + F.interpolate(x, size=levels[0].shape[-2:])).relu()
        return self.out(self.narrow(x).relu()).relu()


class DynamicMaskHead(nn.Module):
    """Three 1x1 convolutions a query, over mask features and coordinates relative to the query.

    The controller's numbers are the weights of all layers, then all biases; relative coordinates
    (x, y in input pixels: reference minus pixel centre) come before the features.

    Args:
        width: channels of a query.
        channels: channels of the mask features and of the hidden layers.
    """

    def __init__(self, width: int, channels: int = 8) -> None:
        super().__init__()
        self.channels = channels
        c = channels
        self.sizes = [(c + 2) * c, c * c, c, c, c, 1]
        self.controller = MLP(width, width, sum(self.sizes), 3)
        for layer in self.controller.layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, queries: Tensor, centres: Tensor, image: Tensor) -> Tensor:
        """Masks of n chosen queries, in float32.

        Args:
            features: [B, channels, h, w] at stride 8.
            queries: [n, width].
            centres: [n, 2] reference centres (x, y) in input pixels.
            image: [n] int64, which of the B images each query looks at.

        Returns:
            [n, 2 h, 2 w] logits at stride 4.
        """
        numbers = self.controller(queries)
        order = image.argsort(stable=True)
        counts = torch.bincount(image, minlength=len(features)).tolist()
        step = max(1, len(queries)) if torch.is_grad_enabled() else QUERIES_AT_ONCE
        shares = (numbers[order].float().split(counts), centres[order].float().split(counts))
        with torch.autocast(features.device.type, enabled=False):
            drawn = [
                self._convolve(one.float(), *some)
                for one, *share in zip(features, *shares, strict=True)
                for some in zip(*(each.split(step) for each in share), strict=True)
            ]
        masks = torch.cat(drawn)
        return masks if len(features) == 1 else masks[order.argsort()]

    def _convolve(self, features: Tensor, numbers: Tensor, centres: Tensor) -> Tensor:
        """The three layers on one image [channels, h, w].

        Centres only shift the first bias: w (centre - x) = w centre - w x. So the first layer of
        all n queries is one product with the same inputs.
        """
        n, c = len(numbers), self.channels
        height, width = features.shape[-2:]
        parts = numbers.split(self.sizes, dim=1)
        first = parts[0].view(n, c, c + 2)
        bias = parts[3].view(n, c, 1) + first[:, :, :2] @ centres[:, :, None]
        first = torch.cat([-first[:, :, :2], first[:, :, 2:]], dim=2)
        grid = pixel_centres(height, width, features.device)
        inputs = torch.cat([grid, features.flatten(1)])
        x = torch.addmm(bias.view(n * c, 1), first.view(n * c, c + 2), inputs).relu_()
        x = torch.baddbmm(
            parts[4].view(n, c, 1), parts[1].view(n, c, c), x.view(n, c, height * width)
        ).relu_()
        x = torch.baddbmm(parts[5].view(n, 1, 1), parts[2].view(n, 1, c), x)
        return aligned_upsample(x.view(n, 1, height, width))[:, 0]


def pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """[2, height * width] (x, y) of the cells' centres at stride 8, in input pixels."""
    columns = torch.arange(width, device=device) * STRIDE + STRIDE // 2
    rows = torch.arange(height, device=device) * STRIDE + STRIDE // 2
    grid = torch.meshgrid(columns, rows, indexing="xy")
    return torch.stack(grid).flatten(1).float()


def aligned_upsample(maps: Tensor, factor: int = 2) -> Tensor:
    """Upsample so that old pixel centres stay where they were (CondInst's aligned bilinear).

    Args:
        maps: [n, c, h, w].
        factor: a whole number.

    Returns:
        [n, c, factor * h, factor * w].
    """
    height, width = maps.shape[-2:]
    maps = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    size = (factor * height + 1, factor * width + 1)
    maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    before = factor // 2
    maps = F.pad(maps, (before, 0, before, 0), mode="replicate")
    return maps[:, :, : factor * height, : factor * width]
