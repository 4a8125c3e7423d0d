"""Two-stage proposals: anchors, selection of tokens, box head, inverse sigmoid."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.pixel_decoder.multi_scale_features import flatten_levels, resize_padding_mask
from hipie.modeling.transformer_decoder.proposals import (
    anchor_boxes,
    build_box_head,
    gather_tokens,
    inverse_sigmoid,
    topk_tokens,
)
from hipie.structures import FeatureLevels


def make_levels(valid_size: tuple[int, int]) -> FeatureLevels:
    mask = torch.ones(1, 8, 12, dtype=torch.bool)
    mask[:, : valid_size[0], : valid_size[1]] = False
    masks = [mask, resize_padding_mask(mask, (4, 6))]
    maps = [torch.zeros(1, 3, *mask.shape[-2:]) for mask in masks]
    return flatten_levels(maps, maps, masks)


def test_anchors_are_centred_on_pixels_and_double_each_level() -> None:
    boxes, valid = anchor_boxes(make_levels((8, 12)))
    assert valid.all()
    boxes = boxes.sigmoid()[0]
    torch.testing.assert_close(boxes[12 + 4], torch.tensor([4.5 / 12, 1.5 / 8, 0.05, 0.05]))
    torch.testing.assert_close(boxes[96 + 6 + 2], torch.tensor([2.5 / 6, 1.5 / 4, 0.1, 0.1]))


def test_padding_is_invalid_and_centres_are_relative_to_the_valid_area() -> None:
    boxes, valid = anchor_boxes(make_levels((4, 6)))
    valid = valid[0, :96].view(8, 12)
    assert valid[:4, :6].all()
    assert valid.sum() == 24
    assert boxes[0, :96][~valid.flatten()].isposinf().all()
    torch.testing.assert_close(
        boxes[0, 12 + 4].sigmoid(), torch.tensor([4.5 / 6, 1.5 / 4, 0.05, 0.05])
    )


def test_anchors_near_the_border_are_invalid() -> None:
    mask = torch.zeros(1, 1, 100, dtype=torch.bool)
    level = torch.zeros(1, 3, 1, 100)
    _, valid = anchor_boxes(flatten_levels([level], [level], [mask]))
    assert valid[0].tolist() == [False] + [True] * 98 + [False]


def test_tokens_are_gathered_image_by_image() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert gather_tokens(values, index).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_inverse_sigmoid_inverts_the_sigmoid() -> None:
    x = torch.linspace(-9, 9, 50)
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("value", "inside"), [(-3.0, 0.0), (7.0, 1.0)])
def test_inverse_sigmoid_clamps_values_outside(value: float, inside: float) -> None:
    outer, edge = inverse_sigmoid(torch.tensor([value])), inverse_sigmoid(torch.tensor([inside]))
    assert outer.equal(edge)
    assert outer.isfinite().all()
    assert edge.abs().item() == pytest.approx(11.5129, abs=1e-3)


def test_inverse_sigmoid_returns_float32() -> None:
    assert inverse_sigmoid(torch.tensor([0.3], dtype=torch.bfloat16)).dtype == torch.float32


def test_a_new_box_head_has_zero_offset() -> None:
    assert build_box_head(16)(torch.randn(2, 3, 16)).equal(torch.zeros(2, 3, 4))


def test_best_tokens_are_sorted_and_at_most_all() -> None:
    scores = torch.tensor([[0.1, 3.0, -2.0], [5.0, 4.0, 4.5]])
    assert topk_tokens(scores, 2).tolist() == [[1, 0], [0, 2]]
    assert topk_tokens(scores, 9).tolist() == [[1, 0, 2], [0, 2, 1]]
