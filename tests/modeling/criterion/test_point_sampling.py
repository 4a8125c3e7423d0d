"""Points of the mask losses, and sampling against `grid_sample`."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hipie.modeling.criterion.point_sampling import (
    point_sample,
    point_sample_masks,
    uncertain_points,
)


def test_boolean_masks_are_sampled_like_grid_sample():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 7, 11, generator=generator) > 0.5
    index = torch.tensor([4, 0, 0, 2])
    points = torch.rand(4, 200, 2, generator=generator)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.001]])
    expected = F.grid_sample(
        masks[index, None].double(), (2 * points[:, :, None] - 1).double(), align_corners=False
    )[:, 0, :, 0]
    sampled = point_sample_masks(masks, index, points)
    torch.testing.assert_close(sampled.double(), expected, atol=1e-5, rtol=0)


def test_masks_may_share_their_points():
    masks = torch.rand(3, 6, 5) > 0.5
    points = torch.rand(1, 40, 2)
    shared = point_sample_masks(masks, torch.arange(3), points)
    each = point_sample_masks(masks, torch.arange(3), points.expand(3, -1, -1))
    assert torch.equal(shared, each)


def test_a_sample_at_a_pixel_centre_is_its_value():
    masks = torch.arange(12.0).view(1, 3, 4)
    points = torch.tensor([[[0.5 / 4, 0.5 / 3], [3.5 / 4, 2.5 / 3], [1.5 / 4, 1.5 / 3]]])
    expected = torch.tensor([[0.0, 11.0, 5.0]])
    torch.testing.assert_close(point_sample(masks, points), expected, atol=1e-5, rtol=0)


def test_most_points_are_drawn_where_the_mask_is_uncertain():
    torch.manual_seed(0)
    ramp = torch.linspace(-8, 8, 64).expand(1, 32, 64)
    points = uncertain_points(ramp, 400)
    assert points.shape == (1, 400, 2)
    assert points.min() >= 0 and points.max() <= 1
    near = (points[0, :, 0] - 0.5).abs()
    assert (near[:300] < 0.14).float().mean() > 0.95
    assert near[300:].max() > 0.4


def test_random_numbers_have_the_shapes_of_the_published_system(monkeypatch):
    sizes = []
    drawn = torch.rand

    def rand(*size: int, **options: object) -> torch.Tensor:
        sizes.append(size)
        return drawn(*size, **options)

    monkeypatch.setattr(torch, "rand", rand)
    uncertain_points(torch.randn(2, 8, 8), 12544)
    assert sizes == [(2, 37632, 2), (2, 3136, 2)]
