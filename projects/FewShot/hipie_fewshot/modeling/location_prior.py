"""Location confidence map of PerSAM: similarity of SAM features to the support object.

Zhang et al., "Personalize Segment Anything Model with One Shot", ICLR 2024, section 3.1.
"""

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

# Red value of a mask's pixels in the published program, which sends masks through SAM's
# normalisation as if they were images and keeps cells above 0.
MASK_RED_VALUE = 128


class LocationPrior(NamedTuple):
    """Point prompts and attention guidance for a query image.

    Attributes:
        points: [2, 2] x and y of the most and of the least similar pixel.
        guidance: [g * g] in 0..1, bias of the decoder's attention to each cell of SAM's grid.
    """

    points: np.ndarray
    guidance: Tensor


def target_embedding(sam: Sam, examples: Sequence[Example]) -> Tensor:
    """Compute the mean of SAM's features [C] under the examples' masks."""
    return masked_features([sam.encode(e.image) for e in examples], examples).mean(1)


def masked_features(images: Sequence[SamImage], examples: Sequence[Example]) -> Tensor:
    """Collect SAM's features [C, n] under the masks of examples whose images are encoded."""
    selected = []
    for image, example in zip(images, examples, strict=True):
        grid = image.features[0]
        height, width = grid.shape[-2:]
        cells = mask_cells(image.sam, example.mask, (height, width)).to(grid.device)
        selected.append(grid[:, cells])
    return torch.cat(selected, dim=1)


def mask_cells(sam: Sam, mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Select the cells of SAM's grid inside a mask as PerSAM does.

    For a mask that is too thin to fill a cell, the cells with the largest masked area.

    Args:
        sam: the model.
        mask: [H, W] bool, not empty.
        size: (rows, columns) of the grid.

    Returns:
        [rows, columns] bool, at least one of them True.
    """
    red = np.repeat(mask[..., None].astype(np.uint8) * MASK_RED_VALUE, 3, axis=2)
    resized = ResizeLongestSide(sam.image_size).apply_image(red)
    pixels = torch.from_numpy(resized[..., 0].astype(np.float32))
    mean, std = (float(value.flatten()[0]) for value in (sam.model.pixel_mean, sam.model.pixel_std))
    height, width = pixels.shape
    padding = (0, sam.image_size - width, 0, sam.image_size - height)
    normalized = F.pad((pixels - mean) / std, padding)[None, None]
    cells = F.interpolate(normalized, size, mode="bilinear")[0, 0]
    if (cells > 0).any():
        return cells > 0
    area = F.interpolate(F.pad(pixels, padding)[None, None], size, mode="area")[0, 0]
    return area == area.max()


def similarity_map(image: SamImage, target: Tensor) -> Tensor:
    """Compute the cosine similarity of each pixel's feature to the target's [C]: [H, W]."""
    grid = F.normalize(image.features[0], dim=0)
    cosine = torch.einsum("c,chw->hw", F.normalize(target, dim=0), grid)[None, None]
    upsampled = F.interpolate(cosine, scale_factor=4, mode="bilinear")
    full: Tensor = image.sam.model.postprocess_masks(upsampled, image.input_size, image.size)[0, 0]
    return full


def most_similar_point(image: SamImage, target: Tensor) -> np.ndarray:
    """Return x and y [1, 2] of the pixel whose feature is most similar to the target's [C]."""
    y, x = divmod(int(similarity_map(image, target).argmax()), image.size[1])
    return np.array([[x, y]])


def location_prior(image: SamImage, target: Tensor, stretched: bool = True) -> LocationPrior:
    """Compute point prompts and attention guidance for a query image.

    Args:
        image: encoded query image.
        target: [C], see `target_embedding`.
        stretched: resize the similarity map to SAM's complete grid (as published); otherwise to
            the part of the grid that the image fills, with 0 in the padding.
    """
    values = similarity_map(image, target)
    width = image.size[1]
    extremes = [int(values.argmax()), int(values.argmin())]
    points = np.array([(index % width, index // width) for index in extremes])
    standardized = ((values - values.mean()) / values.std())[None, None]
    rows, columns = image.features.shape[-2:]
    if stretched:
        guidance = F.interpolate(standardized, (rows, columns), mode="bilinear")[0, 0]
        return LocationPrior(points, guidance.sigmoid().flatten())
    side = image.sam.image_size
    height, width = (
        max(1, round(n * g / side)) for n, g in zip(image.input_size, (rows, columns), strict=True)
    )
    guidance = F.interpolate(standardized, (height, width), mode="bilinear")[0, 0].sigmoid()
    padding = (0, columns - width, 0, rows - height)
    return LocationPrior(points, F.pad(guidance, padding).flatten())
