"""Anchors of the two-stage start."""

from __future__ import annotations

import torch

from hipie.modeling.pixel_decoder.multi_scale_features import Levels, flatten_levels, shrink_mask
from hipie.modeling.transformer_decoder.proposals import anchor_boxes, gather_rows


def make_levels(valid: tuple[int, int]) -> Levels:
    mask = torch.ones(1, 8, 12, dtype=torch.bool)
    mask[:, : valid[0], : valid[1]] = False
    masks = [mask, shrink_mask(mask, (4, 6))]
    maps = [torch.zeros(1, 3, *one.shape[-2:]) for one in masks]
    return flatten_levels(maps, maps, masks)


def test_anchors_stand_on_pixels_and_double_each_level() -> None:
    boxes, usable = anchor_boxes(make_levels((8, 12)))
    assert usable.all()
    boxes = boxes.sigmoid()[0]
    torch.testing.assert_close(boxes[12 + 4], torch.tensor([4.5 / 12, 1.5 / 8, 0.05, 0.05]))
    torch.testing.assert_close(boxes[96 + 6 + 2], torch.tensor([2.5 / 6, 1.5 / 4, 0.1, 0.1]))


def test_padding_is_unusable_and_centres_count_the_valid_area() -> None:
    boxes, usable = anchor_boxes(make_levels((4, 6)))
    usable = usable[0, :96].view(8, 12)
    assert usable[:4, :6].all()
    assert usable.sum() == 24
    assert boxes[0, :96][~usable.flatten()].isposinf().all()
    torch.testing.assert_close(
        boxes[0, 12 + 4].sigmoid(), torch.tensor([4.5 / 6, 1.5 / 4, 0.05, 0.05])
    )


def test_anchors_too_near_the_border_are_unusable() -> None:
    mask = torch.zeros(1, 1, 100, dtype=torch.bool)
    one = torch.zeros(1, 3, 1, 100)
    _, usable = anchor_boxes(flatten_levels([one], [one], [mask]))
    assert usable[0].tolist() == [False] + [True] * 98 + [False]


def test_gather_rows_picks_rows_of_each_image() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    rows = torch.tensor([[2, 0], [1, 1]])
    assert gather_rows(values, rows).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
