"""Layers that CRIS and ETRIS have in common."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.transformer_decoder.position_encoding import sine_box_embedding


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1
) -> nn.Sequential:
    """Build a convolution without bias, batch norm and ReLU; with stride 1 the size stays."""
    padding = kernel_size // 2 if stride == 1 else 0
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def deconv_norm_relu(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Build a transposed convolution with kernel = stride, batch norm and ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, stride, stride, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class CoordinateConv(nn.Module):
    """Convolution 3x3 of features and pixel coordinates in -1..1 (Liu et al., NeurIPS 2018).

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu(channels + 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape; coordinates are appended as x, y."""
        height, width = x.shape[-2:]
        columns = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
        rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
        y, x_grid = torch.meshgrid(rows, columns, indexing="ij")
        coordinates = torch.stack([x_grid, y]).expand(len(x), -1, -1, -1)
        return self.conv(torch.cat([x, coordinates], dim=1))


class Aggregation(nn.Module):
    """Merge three maps of the same size, with coordinates.

    Args:
        channels: C of each map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = conv_norm_relu(3 * channels, channels)
        self.coordinates = CoordinateConv(channels)
        self.smooth = conv_norm_relu(channels, channels, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Merge three maps [B, C, h, w] to one."""
        return self.smooth(self.coordinates(self.merge(torch.cat(maps, dim=1))))


class TextConditionedProjector(nn.Module):
    """Mask logits by a convolution whose kernel and bias are made of the text (CRIS, eq. 7).

    The map is upsampled four times before; the kernel is 3x3.

    Args:
        text_channels: of the expression's feature.
        channels: C of the map.
    """

    kernel_size = 3

    def __init__(self, text_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels // 2
        self.first = conv_norm_relu(channels, channels, 3)
        self.second = conv_norm_relu(channels, self.channels, 3)
        self.last = nn.Conv2d(self.channels, self.channels, 1)
        self.kernel = nn.Linear(text_channels, self.channels * self.kernel_size**2 + 1)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Compute logits.

        Args:
            features: [B, C, h, w].
            text: [B, D] features of the expressions.

        Returns:
            [B, 4 h, 4 w].
        """
        x = self.first(upsample(features))
        x = self.last(self.second(upsample(x)))
        parameters = self.kernel(text)
        shape = (self.channels, self.kernel_size, self.kernel_size)
        kernels = parameters[:, :-1].unflatten(1, shape)
        batch = len(x)
        logits = F.conv2d(
            x.flatten(0, 1)[None],
            kernels,
            parameters[:, -1],
            padding=self.kernel_size // 2,
            groups=batch,
        )
        return logits[0]


def upsample(features: Tensor) -> Tensor:
    """Upsample [B, C, h, w] bilinearly by 2."""
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)


def map_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Sine embeddings of the positions of a map, [h w, channels], x in the first half.

    Sine and cosine alternate; positions are counted from 0, not normalized.
    """
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    points = torch.stack([rows, columns], dim=-1).flatten(0, 1) / (2 * math.pi)
    return sine_box_embedding(points, channels // 2)


def token_positions(length: int, channels: int, device: torch.device) -> Tensor:
    """Sine embeddings of the positions of tokens, [length, channels], counted from 0."""
    index = torch.arange(length, device=device) / (2 * math.pi)
    return sine_box_embedding(torch.stack([index, index], dim=-1), channels)[:, :channels]
