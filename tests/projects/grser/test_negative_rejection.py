"""The rule at its border, and the distances that it compares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grser.modeling.negative_rejection import (
    NegativeRejectionHead,
    is_positive,
    positive_probability,
)
from tests.projects.grser import formulas


@pytest.mark.parametrize("pooling", ["mean", "mean_max"])
def test_distances_by_the_formula(pooling):
    torch.manual_seed(0)
    compare = NegativeRejectionHead(4, 3, 8, pooling)
    z, expression, anti = torch.randn(5, 4, 2, 3), torch.randn(5, 3), torch.randn(5, 3)
    arrays = {k: v.detach().double().numpy() for k, v in compare.named_parameters()}

    def common(name: str, x: torch.Tensor) -> np.ndarray:
        linear = x.double().numpy() @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
        return formulas.layer_norm(linear)

    pooled = z.mean((2, 3))
    if pooling == "mean_max":
        pooled = torch.cat([pooled, z.flatten(2).max(2).values], 1)
    seen = common("visual_projection", pooled)
    for found, words in zip(compare(z, expression, anti), (expression, anti), strict=True):
        wanted = np.linalg.norm(seen - common("text_projection", words), axis=1)
        np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5)


def test_one_margin_fits_every_group():
    """Louder images and words are no farther apart, but for the layer norm's epsilon."""
    torch.manual_seed(0)
    compare = NegativeRejectionHead(4, 3, 8)
    torch.nn.init.zeros_(compare.visual_projection.bias)
    z, words = torch.randn(2, 4, 2, 3) * 10, torch.randn(2, 3)
    for one, louder in zip(compare(z, words, words), compare(50 * z, words, words), strict=True):
        torch.testing.assert_close(one, louder, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("near", "far", "margin", "positive"),
    [
        (1.0, 1.0, 0.0, False),
        (1.0, 1.0 + 2**-20, 0.0, True),
        (1.0, 1.5, 0.5, False),
        (1.0, 1.5 + 2**-20, 0.5, True),
        (0.0, 20.0, 1e3, False),
        (20.0, 0.0, -1e3, True),
    ],
)
def test_the_border_is_outside(near, far, margin, positive):
    given_ = torch.tensor([near]), torch.tensor([far]), margin
    assert is_positive(*given_).tolist() == [positive]


@given(*(st.floats(0, 30, width=32) for _ in range(2)), st.floats(-5, 5, width=32))
def test_confidence_is_above_a_half_where_the_rule_says_yes(near, far, margin):
    given_ = torch.tensor([near]).double(), torch.tensor([far]).double(), margin
    sure = float(positive_probability(*given_))
    assert 0 <= sure <= 1
    if abs(far - near - margin) > 1e-6:
        assert (sure > 0.5) == bool(is_positive(*given_))
