"""Masks of things by dynamic convolution: query-specific weights (CondInst)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.chunking import chunk_length, concatenate
from hipie.modeling.heads.mask_embedding_head import order_by_image, sample_at_points
from hipie.modeling.heads.mlp import MLP
from hipie.structures import LayerOutput

# Stride of the masks in input pixels.
MASK_STRIDE = 4
# Queries whose masks are computed together on a CPU, so that they fit into the cache.
QUERIES_PER_CHUNK = 128


class MaskFeatures(nn.Module):
    """Mask features at the stride of the finest of three levels of encoder memory.

    Args:
        width: channels of the memory.
        out_channels: channels of the result.
        num_levels: 3, or fewer where there are not as many.
    """

    def __init__(self, width: int, out_channels: int = 8, num_levels: int = 3) -> None:
        super().__init__()
        self.num_levels = num_levels
        if num_levels > 2:
            self.coarse = nn.Conv2d(width, width, 3, padding=1)
        if num_levels > 1:
            self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.narrow = nn.Conv2d(width, width // 4, 3, padding=1)
        self.out = nn.Conv2d(width // 4, out_channels, 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_uniform_(parameter, a=1)
            else:
                nn.init.zeros_(parameter)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels [B, width, h_i, w_i], the finest first -> [B, out_channels, h_0, w_0]."""
        names = ("fine", "middle", "coarse")[: self.num_levels]
        convolutions = [self.get_submodule(name) for name in names]
        x: Tensor | None = None
        for level, convolution in zip(levels[::-1], convolutions[::-1], strict=True):
            if x is not None:
                level = level + F.interpolate(x, size=level.shape[-2:])
            x = convolution(level).relu()
        return self.out(self.narrow(x).relu()).relu()


class DynamicMaskHead(nn.Module):
    """Three 1x1 convolutions per query over mask features and relative coordinates (CondInst).

    The controller predicts the weights of all layers, then all biases; relative coordinates (x, y
    in input pixels: reference minus pixel centre) precede the features.

    Args:
        width: channels of a query.
        channels: channels of the mask features and of the hidden layers.
        stride: of the mask features, in input pixels, a multiple of 4.
    """

    def __init__(self, width: int, channels: int = 8, stride: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        c = channels
        self.sizes = [(c + 2) * c, c * c, c, c, c, 1]
        self.controller = MLP(width, width, sum(self.sizes), 3)
        for name, parameter in self.controller.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

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
            layer: with `mask_embeddings` [B, N, width] and `mask_centers` [B, N, 2].
            mask_features: B tensors [channels, h, w].
            image_index: [n] int64.
            query_index: [n] int64.
            counts: queries of every image, if ordered by image.

        Returns:
            [n, H / 4, W / 4] float32.
        """
        if layer.mask_embeddings is None or layer.mask_centers is None:
            raise ValueError("dynamic masks need the mask embeddings and mask centres of a layer")
        selected = (image_index, query_index)
        return self(
            mask_features,
            layer.mask_embeddings[selected],
            layer.mask_centers[selected],
            image_index,
            counts,
        )

    def logits_at_points(
        self, layers: Sequence[LayerOutput], mask_features: Tensor, image: int, points: Tensor
    ) -> Iterator[Tensor]:
        """Mask logits at shared points; see `hipie.structures.MaskHead`."""
        for layer in layers:
            query_index = torch.arange(layer.boxes.shape[1], device=points.device)
            masks = self.logits(
                layer.of_image(image),
                [mask_features],
                torch.zeros_like(query_index),
                query_index,
                [len(query_index)],
            )
            yield sample_at_points(masks, points)

    def forward(
        self,
        mask_features: Sequence[Tensor],
        queries: Tensor,
        centers: Tensor,
        image_index: Tensor,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Mask logits of n queries, in float32.

        Args:
            mask_features: B tensors [channels, h, w].
            queries: [n, width].
            centers: [n, 2] reference centres (x, y) in input pixels.
            image_index: [n] int64, the image of every query.
            counts: queries of every image, if ordered by image; None = they are counted.

        Returns:
            [n, f h, f w] logits at stride 4, f = stride / 4.
        """
        parameters = self.controller(queries)
        order = None
        if counts is None:
            order, counts = order_by_image(image_index, len(mask_features))
            parameters, centers = parameters[order], centers[order]
        sizes = list(counts)
        per_image = (parameters.float().split(sizes), centers.float().split(sizes))
        device = mask_features[0].device
        with torch.autocast(device.type, enabled=False):
            coarse = [
                self._convolve(features.float(), *inputs)
                for features, *inputs in zip(mask_features, *per_image, strict=True)
            ]
            masks = aligned_upsample(concatenate(coarse), self.stride // MASK_STRIDE)[:, 0]
        return masks if order is None else masks[order.argsort()]

    def _convolve(self, features: Tensor, parameters: Tensor, centers: Tensor) -> Tensor:
        """Apply the three layers of n queries to one image's features [channels, h, w].

        Centres only shift the first bias: w (centre - x) = w centre - w x. So the first layer of
        all n queries is one product with the same inputs.

        Returns:
            [n, 1, h, w].
        """
        n, c = len(parameters), self.channels
        height, width = features.shape[-2:]
        weights_1, weights_2, weights_3, bias_1, bias_2, bias_3 = parameters.split(self.sizes, 1)
        weights_1 = weights_1.view(n, c, c + 2)
        bias_1 = bias_1.view(n, c, 1) + weights_1[:, :, :2] @ centers[:, :, None]
        weights_1 = torch.cat([-weights_1[:, :, :2], weights_1[:, :, 2:]], dim=2)
        grid = pixel_centers(height, width, self.stride, features.device)
        inputs = torch.cat([grid, features.flatten(1)])
        step = chunk_length(n, QUERIES_PER_CHUNK, features.device)
        layers = (
            (weights_1.view(n * c, c + 2), c * step),
            (bias_1.view(n * c, 1), c * step),
            (weights_2.view(n, c, c), step),
            (bias_2.view(n, c, 1), step),
            (weights_3.view(n, 1, c), step),
            (bias_3.view(n, 1, 1), step),
        )
        coarse = []
        for w1, b1, w2, b2, w3, b3 in zip(*(x.split(length) for x, length in layers), strict=True):
            x = torch.addmm(b1, w1, inputs).relu_().view(-1, c, height * width)
            x = torch.baddbmm(b2, w2, x).relu_()
            coarse.append(torch.baddbmm(b3, w3, x))
        return concatenate(coarse).view(n, 1, height, width)


def pixel_centers(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Centres (x, y) of the cells of a feature map in input pixels, [2, height * width]."""
    columns = torch.arange(width, device=device) * stride + stride // 2
    rows = torch.arange(height, device=device) * stride + stride // 2
    grid = torch.meshgrid(columns, rows, indexing="xy")
    return torch.stack(grid).flatten(1).float()


def aligned_upsample(maps: Tensor, factor: int = 2) -> Tensor:
    """Upsample so that pixel centres keep their position (CondInst's aligned bilinear).

    Args:
        maps: [n, c, h, w].
        factor: a positive integer.

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
