"""Box operations against torchvision and Detectron2; boxes without area, empty masks."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops as reference
from detectron2.structures import BitMasks

from hipie.box_ops import (
    box_cxcywh_to_xyxy,
    box_iou,
    box_xyxy_to_cxcywh,
    generalized_box_iou,
    masks_to_boxes,
)


@pytest.fixture
def boxes():
    generator = torch.Generator().manual_seed(3)
    return box_cxcywh_to_xyxy(torch.rand(12, 4, generator=generator) * 0.5 + 0.1)


def test_conversions_are_inverse(boxes):
    torch.testing.assert_close(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes)), boxes)


def test_pairwise_ious_equal_torchvision(boxes):
    other = boxes[:5] * 0.9 + 0.03
    expected = reference.box_iou(boxes.double(), other.double())
    torch.testing.assert_close(
        box_iou(boxes[:, None], other).double(), expected, atol=1e-6, rtol=1e-5
    )
    expected = reference.generalized_box_iou(boxes.double(), other.double())
    torch.testing.assert_close(
        generalized_box_iou(boxes[:, None], other).double(), expected, atol=1e-6, rtol=1e-5
    )


def test_row_wise_iou_is_the_diagonal_of_the_pairwise(boxes):
    other = boxes.flip(0)
    assert torch.equal(
        generalized_box_iou(boxes, other), generalized_box_iou(boxes[:, None], other).diagonal()
    )


def test_boxes_without_area_have_no_iou_and_finite_gradients():
    point = torch.full((1, 4), 0.5, requires_grad=True)
    assert box_iou(point, point) == 0
    distance = 1 - generalized_box_iou(point, point)
    distance.sum().backward()
    assert distance.isfinite().all() and point.grad.isfinite().all()


def test_giou_of_disjoint_boxes_has_a_gradient():
    here = torch.tensor([[0.1, 0.1, 0.2, 0.2]], requires_grad=True)
    there = torch.tensor([[0.6, 0.1, 0.7, 0.2]])
    generalized_box_iou(here, there).sum().backward()
    assert here.grad[0, 2] > 0


def test_boxes_of_masks_equal_detectron2():
    generator = torch.Generator().manual_seed(4)
    masks = torch.rand(6, 9, 13, generator=generator) > 0.93
    masks[2] = False
    assert torch.equal(masks_to_boxes(masks), BitMasks(masks).get_bounding_boxes().tensor)
    assert masks_to_boxes(masks[:0]).shape == (0, 4)
