"""Masks of stuff: dot product of mask embeddings with mask features (MaskFormer)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.structures import LayerOutput


class MaskEmbeddingHead:
    """Dot product of mask embeddings with per-pixel mask features; has no parameters."""

    def logits(
        self,
        layer: LayerOutput,
        mask_features: Sequence[Tensor],
        image_index: Tensor,
        query_index: Tensor,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Mask logits of n queries; see `hipie.structures.MaskHead`.

        Args:
            layer: with `mask_embeddings` [B, N, C].
            mask_features: B tensors [C, H / 4, W / 4].
            image_index: [n] int64.
            query_index: [n] int64.
            counts: queries of every image, if ordered by image.

        Returns:
            [n, H / 4, W / 4].
        """
        embeddings = _embeddings_of(layer)[image_index, query_index]
        order = None
        if counts is None:
            order, counts = order_by_image(image_index, len(mask_features))
            embeddings = embeddings[order]
        masks = torch.cat(
            [
                torch.einsum("nc,chw->nhw", image_embeddings, features.to(image_embeddings.dtype))
                for image_embeddings, features in zip(
                    embeddings.split(list(counts)), mask_features, strict=True
                )
            ]
        )
        return masks if order is None else masks[order.argsort()]

    def logits_at_points(
        self, layers: Sequence[LayerOutput], mask_features: Tensor, image: int, points: Tensor
    ) -> Iterator[Tensor]:
        """Mask logits at shared points; see `hipie.structures.MaskHead`.

        The features are sampled once for all layers: a logit at a point is the product of the
        embedding with the sampled features, since sampling is linear.
        """
        # Half precision would move the points by fractions of a pixel.
        with torch.autocast(points.device.type, enabled=False):
            sampled = sample_at_points(mask_features.float(), points)
            for layer in layers:
                yield _embeddings_of(layer)[image].float() @ sampled


def _embeddings_of(layer: LayerOutput) -> Tensor:
    if layer.mask_embeddings is None:
        raise ValueError("masks need the mask embeddings of a layer")
    return layer.mask_embeddings


def order_by_image(image_index: Tensor, num_images: int) -> tuple[Tensor, list[int]]:
    """Order of queries [n] by their image, and the number of queries of every image."""
    counts: list[int] = torch.bincount(image_index, minlength=num_images).tolist()
    return image_index.argsort(stable=True), counts


def sample_at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of maps at shared points, 0 outside.

    Args:
        maps: [n, h, w].
        points: [P, 2] (x, y) in 0..1.

    Returns:
        [n, P].
    """
    grid = (2 * points.to(maps.dtype) - 1)[None, None]
    return F.grid_sample(maps[None], grid, align_corners=False)[0, :, 0]
