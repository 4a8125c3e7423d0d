"""Soft masks with parameters, smoothed by an image's colours (Peekaboo).

Burgert, Ranasinghe, Li, Ryoo, "Peekaboo: Text to Image Diffusion Models are Zero-Shot Segmentors",
2022, section 3.2. The Fourier features are those of Tancik et al., NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.open_vocabulary.error import unknown_name

# Neighbours of the smoothing and its standard deviations, in pixels and in the distance of colours
# in 0..1, as in the released program.
KERNEL_SIZE = 3
SPATIAL_STD = 5.0
COLOUR_STD = 0.08
# Features, standard deviation of the frequencies and width of the network, as released.
FEATURES = 128
FREQUENCY_STD = 10.0
WIDTH = 256


class RasterLogits(nn.Module):
    """One logit a pixel, from a normal distribution.

    Args:
        size: side S of the square.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(size, size))

    def forward(self) -> Tensor:
        """Return the logits [S, S]."""
        return self.logits


class FourierLogits(nn.Module):
    """Logits of a network of a pixel's coordinates.

    The coordinates in 0..1 are multiplied with random frequencies; sines and cosines of the
    products are the input of three layers with batch norms over the pixels, and a last layer.

    Args:
        size: side S of the square.
        features: number of frequencies.
        frequency_std: their standard deviation.
        width: channels of the layers.
    """

    features: Tensor

    def __init__(
        self,
        size: int,
        features: int = FEATURES,
        frequency_std: float = FREQUENCY_STD,
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        axis = torch.arange(size) / size
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
        frequencies = torch.randn(features, 2) * frequency_std
        angles = 2 * math.pi * torch.einsum("fc,chw->fhw", frequencies, grid)
        self.register_buffer("features", torch.cat([angles.sin(), angles.cos()]), False)
        layers: list[nn.Module] = []
        for channels in (2 * features, width, width):
            layers += [nn.Conv2d(channels, width, 1), nn.ReLU(), nn.BatchNorm2d(width)]
        self.network = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def forward(self) -> Tensor:
        """Return the logits [S, S]."""
        logits: Tensor = self.network(self.features[None])
        return logits[0, 0]


class ColourSmoothing:
    """Repeated weighted means over the 3x3 neighbours, with larger weights of similar colours.

    The weight of a neighbour is exp(-d² / 2·5²) exp(-c² / 2·0.08²) for a distance of d pixels and a
    distance c of the colours; the weights of a pixel's neighbours inside the image sum to 1.

    Args:
        image: [3, S, S] in 0..1.
        steps: number of repetitions; 0 changes nothing.
    """

    def __init__(self, image: Tensor, steps: int) -> None:
        self.steps = steps
        size = image.shape[-2:]
        neighbours = _neighbours(image)
        distances = (neighbours - image.reshape(3, 1, -1)).square().sum(0)
        offsets = torch.arange(KERNEL_SIZE, device=image.device) - KERNEL_SIZE // 2
        squares = offsets.square()
        spatial = (squares[:, None] + squares).reshape(-1, 1)
        weights = torch.exp(-spatial / (2 * SPATIAL_STD**2) - distances / (2 * COLOUR_STD**2))
        weights = weights * _neighbours(torch.ones_like(image[:1]))[0]
        self.weights = (weights / weights.sum(0)).reshape(-1, *size)

    def __call__(self, values: Tensor) -> Tensor:
        """Smooth values [S, S]."""
        for _ in range(self.steps):
            neighbours = _neighbours(values[None]).reshape(self.weights.shape)
            values = (self.weights * neighbours).sum(0)
        return values


LOGITS: dict[str, Callable[[int], nn.Module]] = {"fourier": FourierLogits, "raster": RasterLogits}


def check_kind(kind: str) -> None:
    """Check the kind of an `AlphaMask`.

    Raises:
        OpenVocabularyError: if there is none such, with similar names.
    """
    if kind not in LOGITS:
        raise unknown_name("kind of soft mask", kind, tuple(LOGITS))


class AlphaMask(nn.Module):
    """Soft mask of an image: the sigmoid of smoothed logits.

    Args:
        kind: "fourier" (`FourierLogits`) or "raster" (`RasterLogits`).
        image: [3, S, S] in 0..1.
        smoothing_steps: of `ColourSmoothing`.
    """

    def __init__(self, kind: str, image: Tensor, smoothing_steps: int) -> None:
        super().__init__()
        self.logits = LOGITS[kind](image.shape[-1])
        self.smoothing = ColourSmoothing(image, smoothing_steps)

    def forward(self) -> Tensor:
        """Return the mask [S, S] in 0..1."""
        smoothed: Tensor = self.smoothing(self.logits()).sigmoid()
        return smoothed


def _neighbours(values: Tensor) -> Tensor:
    """Values [C, S, S] of every pixel's 3x3 neighbours [C, 9, S·S], 0 outside the image."""
    columns = F.unfold(values[None], KERNEL_SIZE, padding=KERNEL_SIZE // 2)
    return columns.reshape(len(values), KERNEL_SIZE**2, -1)
