"""Distances of the rejection head, and the rejection rule."""

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
def test_distances_equal_the_reference(pooling):
    torch.manual_seed(0)
    head = NegativeRejectionHead(4, 3, 8, pooling)
    z, expression, anti = torch.randn(5, 4, 2, 3), torch.randn(5, 3), torch.randn(5, 3)
    arrays = {k: v.detach().double().numpy() for k, v in head.named_parameters()}

    def embed(name: str, x: torch.Tensor) -> np.ndarray:
        linear = x.double().numpy() @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
        return formulas.layer_norm(linear)

    pooled = z.mean((2, 3))
    if pooling == "mean_max":
        pooled = torch.cat([pooled, z.flatten(2).max(2).values], 1)
    visual = embed("visual_projection", pooled)
    for distance, text in zip(head(z, expression, anti), (expression, anti), strict=True):
        expected = np.linalg.norm(visual - embed("text_projection", text), axis=1)
        np.testing.assert_allclose(distance.detach().numpy(), expected, atol=1e-5)


def test_distances_are_invariant_to_scale():
    """Features of another scale have equal distances, except for the layer norm's epsilon."""
    torch.manual_seed(0)
    head = NegativeRejectionHead(4, 3, 8)
    torch.nn.init.zeros_(head.visual_projection.bias)
    z, text = torch.randn(2, 4, 2, 3) * 10, torch.randn(2, 3)
    for distances, scaled_distances in zip(
        head(z, text, text), head(50 * z, text, text), strict=True
    ):
        torch.testing.assert_close(distances, scaled_distances, rtol=1e-3, atol=1e-3)


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
def test_equal_distances_are_negative(near, far, margin, positive):
    inputs = torch.tensor([near]), torch.tensor([far]), margin
    assert is_positive(*inputs).tolist() == [positive]


@given(*(st.floats(0, 30, width=32) for _ in range(2)), st.floats(-5, 5, width=32))
def test_probability_is_above_half_for_positive_images(near, far, margin):
    inputs = torch.tensor([near]).double(), torch.tensor([far]).double(), margin
    probability = float(positive_probability(*inputs))
    assert 0 <= probability <= 1
    if abs(far - near - margin) > 1e-6:
        assert (probability > 0.5) == bool(is_positive(*inputs))
