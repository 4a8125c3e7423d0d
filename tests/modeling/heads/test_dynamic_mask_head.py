"""Dynamic mask head against an explicit network per query in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead, MaskFeatures, aligned_upsample
from hipie.structures import LayerOutput


def reference_masks(
    head: DynamicMaskHead,
    features: torch.Tensor,
    queries: torch.Tensor,
    centres: torch.Tensor,
    image: torch.Tensor,
) -> torch.Tensor:
    """Three convolutions per query with explicit relative coordinates, before upsampling."""
    c = head.channels
    height, width = features.shape[-2:]
    out = []
    for query, centre, b in zip(queries, centres, image.tolist(), strict=True):
        parameters = head.controller(query).double()
        ends = np.cumsum([(c + 2) * c, c * c, c, c, c, 1])
        w1, w2, w3, b1, b2, b3 = np.split(parameters.detach().numpy(), ends[:-1])
        y, x = np.mgrid[0:height, 0:width] * head.stride + head.stride / 2
        relative = np.stack([float(centre[0]) - x, float(centre[1]) - y])
        pixels = np.concatenate([relative, features[b].double().numpy()]).reshape(c + 2, -1)
        hidden = np.maximum(w1.reshape(c, c + 2) @ pixels + b1[:, None], 0)
        hidden = np.maximum(w2.reshape(c, c) @ hidden + b2[:, None], 0)
        out.append((w3.reshape(1, c) @ hidden + b3[:, None]).reshape(height, width))
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("stride", [8, 16])
def test_equals_an_explicit_network_per_query(stride: int) -> None:
    head = DynamicMaskHead(12, channels=4, stride=stride)
    factor = stride // 4
    features, queries = torch.randn(2, 4, 3, 5), torch.randn(6, 12)
    centres, image = torch.rand(6, 2) * 40, torch.tensor([0, 1, 1, 0, 1, 0])
    masks = head(features, queries, centres, image)
    expected = reference_masks(head, features, queries, centres, image)
    assert masks.shape == (6, 3 * factor, 5 * factor)
    upsampled = aligned_upsample(expected[:, None], factor)[:, 0]
    torch.testing.assert_close(masks.double(), upsampled, atol=1e-4, rtol=1e-4)


def test_a_mask_moves_with_its_reference() -> None:
    head = DynamicMaskHead(12, channels=4)
    features, query = torch.zeros(1, 4, 6, 6), torch.randn(1, 12)
    image = torch.zeros(1, dtype=torch.int64)
    near = head(features, query, torch.tensor([[20.0, 20.0]]), image)
    far = head(features, query, torch.tensor([[28.0, 36.0]]), image)
    torch.testing.assert_close(far[0, 6:, 4:], near[0, 2:-4, 2:-2], atol=1e-4, rtol=1e-4)


def test_no_queries_give_no_masks() -> None:
    head = DynamicMaskHead(12, channels=4)
    none = torch.zeros(0, dtype=torch.int64)
    masks = head(torch.randn(2, 4, 3, 5), torch.zeros(0, 12), torch.zeros(0, 2), none)
    assert masks.shape == (0, 6, 10)
    masks.sum().backward()


@pytest.mark.parametrize("images", [1, 3])
def test_chunks_of_queries_give_the_same_masks(monkeypatch, images) -> None:
    head = DynamicMaskHead(12, channels=4)
    image = torch.arange(11) * 2 % images
    arguments = (torch.randn(images, 4, 3, 5), torch.randn(11, 12), torch.rand(11, 2) * 40)
    expected = head(*arguments, image)
    monkeypatch.setattr("hipie.modeling.heads.dynamic_mask_head.QUERIES_PER_CHUNK", 2)
    with torch.no_grad():
        output = head(*arguments, image)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_masks_are_float32_under_autocast() -> None:
    head = DynamicMaskHead(12, channels=4)
    arguments = (torch.randn(1, 4, 3, 5), torch.randn(2, 12), torch.rand(2, 2) * 40)
    image = torch.zeros(2, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        masks = head(*arguments, image)
    assert masks.dtype == torch.float32
    full = head(*arguments, image)
    assert (masks - full).abs().max() < 0.05 * full.abs().max() + 0.05


def test_aligned_upsampling_keeps_pixel_centres() -> None:
    maps = torch.randn(2, 1, 4, 3, dtype=torch.float64)
    up = aligned_upsample(maps, 2)
    assert up.shape == (2, 1, 8, 6)
    rows = np.clip((np.arange(8) - 1) / 2, 0, 3)
    columns = np.clip((np.arange(6) - 1) / 2, 0, 2)
    for n in range(2):
        wide = np.stack([np.interp(columns, np.arange(3), row) for row in maps[n, 0].numpy()])
        tall = np.stack([np.interp(rows, np.arange(4), line) for line in wide.T]).T
        np.testing.assert_allclose(up[n, 0].numpy(), tall, atol=1e-12)


def test_mask_features_add_coarse_to_fine() -> None:
    net = MaskFeatures(8, 3)
    p3, p4, p5 = torch.randn(1, 8, 9, 7), torch.randn(1, 8, 5, 4), torch.randn(1, 8, 3, 2)
    output = net([p3, p4, p5])

    def convolve(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=1).clamp(min=0)

    def nearest(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        (h, w), (height, width) = x.shape[-2:], like.shape[-2:]
        rows, columns = torch.arange(height) * h // height, torch.arange(width) * w // width
        return x[:, :, rows][:, :, :, columns]

    x = convolve(net.coarse, p5)
    x = convolve(net.middle, p4 + nearest(x, p4))
    x = convolve(net.fine, p3 + nearest(x, p3))
    expected = convolve(net.out, convolve(net.narrow, x))
    assert output.shape == (1, 3, 9, 7)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    fewer = MaskFeatures(8, 3, num_levels=2)
    x = convolve(fewer.middle, p4)
    x = convolve(fewer.fine, p3 + nearest(x, p3))
    expected = convolve(fewer.out, convolve(fewer.narrow, x))
    torch.testing.assert_close(fewer([p3, p4]), expected, atol=1e-5, rtol=1e-5)
    assert not hasattr(fewer, "coarse")


def test_logits_of_a_layer_are_those_of_its_queries() -> None:
    head = DynamicMaskHead(12, channels=4)
    features = torch.randn(2, 4, 3, 5).unbind(0)
    layer = LayerOutput(
        boxes=torch.rand(2, 6, 4),
        mask_embeddings=torch.randn(2, 6, 12),
        mask_centers=40 * torch.rand(2, 6, 2),
    )
    image, query = torch.tensor([1, 0, 1]), torch.tensor([5, 2, 0])
    masks = head.logits(layer, features, image, query)
    chosen = (layer.mask_embeddings[image, query], layer.mask_centers[image, query])
    assert torch.equal(masks, head(features, *chosen, image))
    by_image = image.argsort(stable=True)
    counted = head.logits(layer, features, image[by_image], query[by_image], [1, 2])
    assert torch.equal(counted, masks[by_image])
    pixel = torch.tensor([[2.5 / 10, 3.5 / 6]])
    first, second = head.logits_at_points([layer, layer], features[1], 1, pixel)
    assert torch.equal(first, second)
    torch.testing.assert_close(first[[5, 0], 0], masks[[0, 2], 3, 2])
    with pytest.raises(ValueError, match="mask centres"):
        head.logits(replace(layer, mask_centers=None), features, image, query)
