"""Logits of boxes, and the share of a canvas that an image covers."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.transformer_decoder.reference_points import inverse_sigmoid, valid_ratios


def test_inverse_sigmoid_undoes_the_sigmoid() -> None:
    x = torch.linspace(-9, 9, 50)
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("value", "inside"), [(-3.0, 0.0), (7.0, 1.0)])
def test_values_outside_are_clamped(value: float, inside: float) -> None:
    outer, edge = inverse_sigmoid(torch.tensor([value])), inverse_sigmoid(torch.tensor([inside]))
    assert outer.equal(edge)
    assert outer.isfinite().all()
    assert edge.abs().item() == pytest.approx(11.5129, abs=1e-3)


def test_bfloat16_is_widened() -> None:
    assert inverse_sigmoid(torch.tensor([0.3], dtype=torch.bfloat16)).dtype == torch.float32


def test_valid_ratios_are_x_then_y() -> None:
    mask = torch.zeros(2, 4, 10, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 6:] = True, True
    torch.testing.assert_close(valid_ratios(mask), torch.tensor([[1.0, 1.0], [0.6, 0.75]]))
