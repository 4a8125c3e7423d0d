"""PerSAM's first look: where in an image it looks like the examples' masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from hipie.modeling.sam.predictor import Sam, SamImage
from hipie_fewshot.support_set import Example

# In the published program a mask's pixels are the red of its annotations, and go through SAM's
# normalisation of red as if they were an image; above 0 they count. So a cell counts that lies
# inside but for the softest edge.
MASK_VALUE = 128


class Prior(NamedTuple):
    """Where an object may be.

    Attributes:
        points: [2, 2] x and y of the most and of the least similar pixel.
        guidance: [g * g] 0..1, how much attention each cell shall get.
    """

    points: np.ndarray
    guidance: Tensor


def target_feature(sam: Sam, examples: Sequence[Example]) -> Tensor:
    """The mean of SAM's features [C] under the examples' masks."""
    return covered_features([sam.encode(one.image) for one in examples], examples).mean(1)


def covered_features(images: Sequence[SamImage], examples: Sequence[Example]) -> Tensor:
    """[C, n] SAM's features under the masks of examples whose images are encoded."""
    chosen = []
    for picture, example in zip(images, examples, strict=True):
        grid = picture.features[0]
        cells = covered_cells(picture.sam, example.mask, grid.shape[-2:]).to(grid.device)
        chosen.append(grid[:, cells])
    return torch.cat(chosen, dim=1)


def covered_cells(sam: Sam, mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The cells [g, g] of SAM's grid that a mask covers, as PerSAM counts them.

    Where a mask is too thin for that, the cells that have the most of it.
    """
    red = np.repeat(mask[..., None].astype(np.uint8) * MASK_VALUE, 3, axis=2)
    resized = ResizeLongestSide(sam.image_size).apply_image(red)
    pixels = torch.from_numpy(resized[..., 0].astype(np.float32))
    mean, std = (float(value.flatten()[0]) for value in (sam.model.pixel_mean, sam.model.pixel_std))
    height, width = pixels.shape
    rest = (0, sam.image_size - width, 0, sam.image_size - height)
    cells = F.interpolate(F.pad((pixels - mean) / std, rest)[None, None], size, mode="bilinear")[
        0, 0
    ]
    if (cells > 0).any():
        return cells > 0
    area = F.interpolate(F.pad(pixels, rest)[None, None], size, mode="area")[0, 0]
    return area == area.max()


def similarity(picture: SamImage, target: Tensor) -> Tensor:
    """Cosine of each pixel's feature with the target's: [H, W]."""
    grid = F.normalize(picture.features[0], dim=0)
    found = torch.einsum("c,chw->hw", F.normalize(target, dim=0), grid)[None, None]
    finer = F.interpolate(found, scale_factor=4, mode="bilinear")
    model = picture.sam.model
    return model.postprocess_masks(finer, picture.input_size, picture.size)[0, 0]


def most_alike(picture: SamImage, target: Tensor) -> np.ndarray:
    """[1, 2] x and y of the pixel whose feature is most like the target's."""
    y, x = divmod(int(similarity(picture, target).argmax()), picture.size[1])
    return np.array([[x, y]])


def location_prior(picture: SamImage, target: Tensor, stretched: bool = True) -> Prior:
    """Points and guidance for one image.

    Args:
        image: encoded.
        target: [C], see `target_feature`.
        stretched: the guidance is the image's similarity over the whole grid (published); else
            over the part of it that the image fills, and 0 in the padding.
    """
    values = similarity(picture, target)
    width = picture.size[1]
    places = [int(values.argmax()), int(values.argmin())]
    points = np.array([(place % width, place // width) for place in places])
    standard = (values - values.mean()) / values.std()
    grid = picture.features.shape[-2:]
    if stretched:
        small = F.interpolate(standard[None, None], tuple(grid), mode="bilinear")[0, 0]
        return Prior(points, small.sigmoid().flatten())
    side = picture.sam.image_size
    filled = [max(1, round(n * g / side)) for n, g in zip(picture.input_size, grid, strict=True)]
    small = F.interpolate(standard[None, None], filled, mode="bilinear")[0, 0].sigmoid()
    rest = (0, grid[1] - filled[1], 0, grid[0] - filled[0])
    return Prior(points, F.pad(small, rest).flatten())
