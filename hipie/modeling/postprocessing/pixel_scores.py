"""Scores of the pixel class head, combined with those of queries.

A query's class score s and the mean probability c of the class over its mask give s^(1 - w) c^w,
the geometric ensemble by which open-vocabulary models combine two classifiers (ODISE, Xu et al.,
CVPR 2023, equation 7); MaskPooling(M, V(I)) of HIPIE (section 3.5) with the model's own pixel
features as V(I). A pixel's scores in the semantic map are combined in the same way.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.postprocessing.mask_upsampling import MaskRowUpsampler, Size


class PixelScores:
    """Class probabilities of the pixels of one image, from a head that reads mask features.

    Args:
        logits: [K + 1, h, w] of the padded canvas; the last is that of no class.
        mask_weight: w for masks, in 0..1.
        semantic_weight: w for the pixels of the semantic map, in 0..1.
        stride: of the logits.
    """

    def __init__(
        self, logits: Tensor, mask_weight: float, semantic_weight: float, stride: int = 8
    ) -> None:
        self.logits, self.stride = logits.float(), stride
        self.mask_weight, self.semantic_weight = mask_weight, semantic_weight

    @cached_property
    def probabilities(self) -> Tensor:
        """[K + 1, h, w], summing to 1 over the classes and no class."""
        return self.logits.softmax(0)

    def of_masks(self, mask_logits: Tensor) -> Tensor:
        """Mean probability of every class over masks; see `mask_class_probabilities`.

        Args:
            mask_logits: [N, H, W] of the same canvas.

        Returns:
            [N, K] in 0..1.
        """
        return mask_class_probabilities(self.probabilities[:-1], mask_logits)

    def combine(self, mask_logits: Tensor, *scores: Tensor) -> list[Tensor]:
        """Combine several score tensors [N, K] of the same queries with those of their masks.

        Args:
            mask_logits: [N, H, W] of the same canvas.
            *scores: in 0..1.
        """
        of_masks = self.of_masks(mask_logits)
        return [geometric_mean(one, of_masks, self.mask_weight) for one in scores]


class PixelRows:
    """Combines the semantic scores of a band of rows with those of its pixels.

    Args:
        pixels: of the image.
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the semantic map.
    """

    def __init__(self, pixels: PixelScores, input_size: Size, output_size: Size) -> None:
        self._upsampler = MaskRowUpsampler([pixels.logits], input_size, output_size, pixels.stride)
        self._weight = pixels.semantic_weight

    def combine(self, scores: Tensor, rows: slice) -> Tensor:
        """Combine the scores [R, K, W] of rows of the map; those above 1 count as 1."""
        probabilities = self._upsampler(rows.start, rows.stop).softmax(1)[:, :-1]
        return geometric_mean(scores.clamp(0, 1), probabilities, self._weight)


def mask_class_probabilities(
    probabilities: Tensor, mask_logits: Tensor, ratio: int | None = None
) -> Tensor:
    """Mean of class probabilities over the pixels of masks, weighted by the masks' probabilities.

    Pixels outside a mask (probability up to 0.5) have no weight, unless the whole mask is empty.

    Args:
        probabilities: [K, h, w].
        mask_logits: [N, H, W] of the same canvas; each pixel counts for the probabilities of the
            pixel that it is in.
        ratio: H / h and W / w where they are known to be the same whole number; None = any.

    Returns:
        [N, K].
    """
    soft = mask_logits.float().sigmoid()
    inside = soft * (soft > 0.5)
    is_empty = ~inside.flatten(1).any(1)
    weights = torch.where(is_empty[:, None, None], soft, inside)
    if ratio is None:
        height, width = probabilities.shape[-2:]
        weights = F.adaptive_avg_pool2d(weights[None], (height, width))[0]
    else:
        weights = F.avg_pool2d(weights[None], ratio)[0]
    weights = weights.flatten(1)
    sums = weights @ probabilities.flatten(1).t()
    return sums / weights.sum(1, keepdim=True).clamp(min=torch.finfo(sums.dtype).tiny)


def geometric_mean(scores: Tensor, others: Tensor, weight: float) -> Tensor:
    """Compute s^(1 - w) c^w of scores s and c in 0..1 of the same shape."""
    if weight in (0, 1):
        return others if weight else scores
    if weight == 0.5:  # several times faster than powers
        return (scores * others).sqrt_()
    return scores.pow(1 - weight) * others.pow(weight)
