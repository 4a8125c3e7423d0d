"""Masks of stuff: dot product of mask embeddings with mask features (MaskFormer)."""

from __future__ import annotations

from collections.abc import Sequence

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
        points: Tensor | None = None,
    ) -> Tensor:
        """Mask logits of n queries; see `hipie.structures.MaskHead`.

        Args:
            layer: with `mask_embeddings` [B, N, C].
            mask_features: B tensors [C, H / 4, W / 4].
            image_index: [n] int64.
            query_index: [n] int64.
            points: [P, 2] (x, y) in 0..1 of the canvas; None = the full map.

        Returns:
            [n, H / 4, W / 4], or [n, P] float32 at the points.
        """
        if layer.mask_embeddings is None:
            raise ValueError("masks need the mask embeddings of a layer")
        order = image_index.argsort(stable=True)
        counts = torch.bincount(image_index, minlength=len(mask_features)).tolist()
        embeddings = layer.mask_embeddings[image_index[order], query_index[order]].split(counts)
        if points is None:
            masks = [
                torch.einsum("nc,chw->nhw", image_embeddings, features.to(image_embeddings.dtype))
                for image_embeddings, features in zip(embeddings, mask_features, strict=True)
            ]
            return torch.cat(masks)[order.argsort()]
        if len(order) == 0:
            return layer.mask_embeddings.new_zeros(0, len(points), dtype=torch.float32)
        # Half precision would move the points by fractions of a pixel.
        with torch.autocast(image_index.device.type, enabled=False):
            logits = [
                image_embeddings.float() @ sample_at_points(features.float(), points)
                for image_embeddings, features in zip(embeddings, mask_features, strict=True)
                if len(image_embeddings)
            ]
        return torch.cat(logits)[order.argsort()]


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
