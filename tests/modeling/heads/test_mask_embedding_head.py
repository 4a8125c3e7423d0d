"""Mask embedding head: dot products of chosen queries, full maps and samples at points."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.heads import mask_embedding_head
from hipie.modeling.heads.mask_embedding_head import MaskEmbeddingHead, sample_at_points
from hipie.structures import LayerOutput


@pytest.fixture
def layer() -> LayerOutput:
    """Three images, seven queries, eight channels."""
    return LayerOutput(boxes=torch.rand(3, 7, 4), mask_embeddings=torch.randn(3, 7, 8))


@pytest.fixture
def features() -> tuple[torch.Tensor, ...]:
    """Mask features of three images."""
    return torch.randn(3, 8, 6, 10).unbind(0)


def test_masks_are_dot_products_in_any_order_of_images(layer, features):
    image = torch.tensor([2, 0, 2, 1, 0, 2])
    query = torch.tensor([5, 6, 0, 3, 3, 5])
    masks = MaskEmbeddingHead().logits(layer, features, image, query)
    every = torch.einsum("bqc,bchw->bqhw", layer.mask_embeddings, torch.stack(features))
    torch.testing.assert_close(masks, every[image, query], atol=1e-5, rtol=1e-5)
    assert torch.equal(masks[0], masks[5])
    by_image = image.argsort(stable=True)
    counted = MaskEmbeddingHead().logits(
        layer, features, image[by_image], query[by_image], [2, 1, 3]
    )
    assert torch.equal(counted, masks[by_image])


def test_logits_at_points_are_samples_of_the_masks(layer, features):
    points = torch.rand(50, 2)
    points[:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    head = MaskEmbeddingHead()
    other = LayerOutput(boxes=torch.rand(3, 5, 4), mask_embeddings=torch.randn(3, 5, 8))
    at_points = list(head.logits_at_points([layer, other], features[1], 1, points))
    assert len(at_points) == 2
    for one, sampled in zip((layer, other), at_points, strict=True):
        query = torch.arange(one.boxes.shape[1])
        masks = head.logits(one, features, torch.ones_like(query), query)
        grid = (2 * points - 1)[None, None]
        expected = F.grid_sample(masks[None], grid, align_corners=False)[0, :, 0]
        torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=1e-5)


def test_features_are_cast_and_sampled_once_for_all_layers(layer, features, monkeypatch):
    sampled = []

    def record(maps, points):
        sampled.append(maps.dtype)
        return sample_at_points(maps, points)

    monkeypatch.setattr(mask_embedding_head, "sample_at_points", record)
    half = features[0].bfloat16()
    logits = MaskEmbeddingHead().logits_at_points([layer] * 5, half, 0, torch.rand(9, 2))
    assert [part.dtype for part in logits] == [torch.float32] * 5
    assert sampled == [torch.float32]


def test_no_queries_give_no_masks(layer, features):
    empty = torch.zeros(0, dtype=torch.long)
    head = MaskEmbeddingHead()
    assert head.logits(layer, features, empty, empty).shape == (0, 6, 10)
    assert head.logits(layer, features, empty, empty, [0, 0, 0]).shape == (0, 6, 10)


def test_layers_without_embeddings_are_refused(features):
    index = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="mask embeddings"):
        MaskEmbeddingHead().logits(LayerOutput(boxes=torch.rand(1, 2, 4)), features, index, index)


def test_the_head_can_be_pickled():
    assert isinstance(pickle.loads(pickle.dumps(MaskEmbeddingHead())), MaskEmbeddingHead)
