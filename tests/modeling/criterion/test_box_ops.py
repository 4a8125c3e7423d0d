"""Boxes against torchvision in double precision, and boxes without area."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops as reference

from hipie.modeling.criterion.box_ops import giou, iou, to_centres, to_corners


@pytest.fixture
def boxes():
    generator = torch.Generator().manual_seed(3)
    return to_corners(torch.rand(12, 4, generator=generator) * 0.5 + 0.1)


def test_notations_are_inverse(boxes):
    torch.testing.assert_close(to_corners(to_centres(boxes)), boxes)


def test_pairwise_overlaps_are_torchvisions(boxes):
    other = boxes[:5] * 0.9 + 0.03
    wanted = reference.box_iou(boxes.double(), other.double())
    torch.testing.assert_close(iou(boxes[:, None], other).double(), wanted, atol=1e-6, rtol=1e-5)
    wanted = reference.generalized_box_iou(boxes.double(), other.double())
    torch.testing.assert_close(giou(boxes[:, None], other).double(), wanted, atol=1e-6, rtol=1e-5)


def test_pair_by_pair_is_the_diagonal(boxes):
    other = boxes.flip(0)
    assert torch.equal(giou(boxes, other), giou(boxes[:, None], other).diagonal())


def test_boxes_without_area_overlap_nothing_and_have_gradients():
    point = torch.full((1, 4), 0.5, requires_grad=True)
    assert iou(point, point) == 0
    distance = 1 - giou(point, point)
    distance.sum().backward()
    assert distance.isfinite().all() and point.grad.isfinite().all()


def test_boxes_apart_are_drawn_together():
    here = torch.tensor([[0.1, 0.1, 0.2, 0.2]], requires_grad=True)
    there = torch.tensor([[0.6, 0.1, 0.7, 0.2]])
    giou(here, there).sum().backward()
    assert here.grad[0, 2] > 0
