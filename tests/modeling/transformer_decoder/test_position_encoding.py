"""Sine embeddings against their formula."""

from __future__ import annotations

import math

import pytest
import torch

from hipie.modeling.transformer_decoder.position_encoding import (
    sine_box_embedding,
    sine_position_embedding,
)


def wave(value: float, channel: int, count: int) -> float:
    """Channel `channel` of the embedding of a number in 0..1, in Python floats."""
    angle = 2 * math.pi * value / 10000 ** (2 * (channel // 2) / count)
    return math.sin(angle) if channel % 2 == 0 else math.cos(angle)


def test_boxes_are_embedded_in_the_order_y_x_w_h() -> None:
    box = torch.tensor([[0.1, 0.25, 0.5, 0.75]])
    embedding = sine_box_embedding(box, channels=6)
    expected = [wave(v, c, 6) for v in (0.25, 0.1, 0.5, 0.75) for c in range(6)]
    assert embedding.shape == (1, 24)
    torch.testing.assert_close(embedding[0], torch.tensor(expected))


def test_points_use_the_first_two_coordinates_of_a_box() -> None:
    boxes = torch.rand(2, 3, 4)
    torch.testing.assert_close(
        sine_box_embedding(boxes[..., :2], 8), sine_box_embedding(boxes, 8)[..., :16]
    )


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_positions_count_unpadded_pixels(offset: float) -> None:
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[:, 3:], mask[:, :, 4:] = True, True
    embedding = sine_position_embedding(mask, 8, offset)
    assert embedding.shape == (1, 8, 4, 5)
    for row, column in ((0, 0), (2, 3), (1, 2)):
        y = (row + 1 + offset) / (3 + 1e-6)
        x = (column + 1 + offset) / (4 + 1e-6)
        expected = [wave(y, c, 4) for c in range(4)] + [wave(x, c, 4) for c in range(4)]
        torch.testing.assert_close(embedding[0, :, row, column], torch.tensor(expected))


def test_padding_does_not_change_positions_of_the_image() -> None:
    unpadded = sine_position_embedding(torch.zeros(1, 3, 4, dtype=torch.bool), 16, -0.5)
    mask = torch.ones(1, 6, 7, dtype=torch.bool)
    mask[:, :3, :4] = False
    torch.testing.assert_close(sine_position_embedding(mask, 16, -0.5)[:, :, :3, :4], unpadded)
