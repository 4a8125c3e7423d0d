"""Triphasic query module against a reference in float64, and properties of its formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grser.tqm import language_heatmap, prototypes, visual_heatmaps
from tests.projects.grser import formulas

NUMBERS = st.floats(-8, 8, width=32)
SHAPES = st.tuples(*(st.integers(1, 4) for _ in range(4)))


@st.composite
def groups(draw):
    """Feature maps and an expression in float64."""
    shape = draw(SHAPES)
    return (
        draw(hnp.arrays(np.float64, shape, elements=NUMBERS)),
        draw(hnp.arrays(np.float64, shape[1:2], elements=NUMBERS)),
    )


def maps(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, 6, 3, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=60, deadline=None)
@given(groups())
def test_functions_equal_the_reference(group):
    V, expression = group
    tensors = torch.from_numpy(V), torch.from_numpy(expression)
    M = language_heatmap(*tensors)
    p = prototypes(tensors[0], M)
    heatmaps = visual_heatmaps(tensors[0], p)
    expected_heatmaps = formulas.language_heatmap(V, expression)
    np.testing.assert_allclose(M.numpy(), expected_heatmaps, atol=1e-9)
    result = formulas.prototypes(V, expected_heatmaps)
    np.testing.assert_allclose(p.numpy(), result, atol=1e-9)
    np.testing.assert_allclose(heatmaps.numpy(), formulas.visual_heatmaps(V, p.numpy()), atol=1e-8)
    assert heatmaps.shape == (len(V), len(V), *V.shape[2:])
    assert float(heatmaps.abs().max()) <= 1 + 1e-9


def test_heatmaps_are_invariant_to_scale_and_prototypes_are_not():
    V, expression = maps(3), maps(1, 1)[0, :, 0, 0]
    M = language_heatmap(V, expression)
    torch.testing.assert_close(language_heatmap(7 * V, 0.2 * expression), M)
    torch.testing.assert_close(prototypes(7 * V, M), 7 * prototypes(V, M))
    torch.testing.assert_close(language_heatmap(V, -expression), -M)


def test_permuted_images_permute_images_and_prototypes():
    V, expression = maps(4), maps(1, 1)[0, :, 0, 0]
    order = torch.tensor([2, 0, 3, 1])
    M = language_heatmap(V, expression)
    p = prototypes(V, M)
    permuted = language_heatmap(V[order], expression)
    torch.testing.assert_close(permuted, M[order])
    torch.testing.assert_close(prototypes(V[order], permuted), p[order])
    torch.testing.assert_close(
        visual_heatmaps(V[order], p[order]), visual_heatmaps(V, p)[order][:, order]
    )


def test_prototypes_subtract_negative_similarities():
    """Check positions with features v and -2 v: (1 v + (-1)(-2 v)) / 2."""
    expression = torch.tensor([1.0, 0.0])
    V = torch.tensor([[[1.0, -2.0]], [[0.0, 0.0]]])[None]
    M = language_heatmap(V, expression)
    assert M.tolist() == [[[1.0, -1.0]]]
    assert prototypes(V, M).tolist() == [[1.5, 0.0]]


@pytest.mark.parametrize(
    ("function", "shapes", "message"),
    [
        (language_heatmap, [(2, 4, 3, 3), (1,)], r"the expression l must be \[4\], and is \[1\]"),
        (language_heatmap, [(4, 3, 3), (4,)], "the maps V must be"),
        (prototypes, [(2, 4, 3, 3), (2, 1, 1)], r"the heatmaps M must be \[2, 3, 3\]"),
        (visual_heatmaps, [(2, 4, 3, 3), (2, 5)], r"the prototypes p must be \[any, 4\]"),
        (visual_heatmaps, [(4, 3, 3), (2, 4)], r"the maps V must be \[any, any, any, any\]"),
    ],
)
def test_invalid_shapes_raise_an_error(function, shapes, message):
    with pytest.raises(ValueError, match=message):
        function(*(torch.zeros(shape) for shape in shapes))


def test_vector_norms_have_a_lower_bound():
    V, expression = torch.full((1, 1, 1, 1), 0.5), torch.tensor([2.0])
    assert language_heatmap(V, expression, 1.0).item() == 0.5
    assert language_heatmap(V, expression).item() == 1.0


def test_zero_features_have_zero_heatmaps_and_finite_gradients():
    V = torch.zeros(2, 4, 2, 2, requires_grad=True)
    expression = torch.zeros(4, requires_grad=True)
    M = language_heatmap(V, expression)
    heatmaps = visual_heatmaps(V, prototypes(V, M))
    assert not M.any() and not heatmaps.any()
    heatmaps.sum().backward()
    assert torch.isfinite(V.grad).all()


def test_gradients_by_finite_differences():
    V = maps(2)[:, :3, :2, :2].clone().requires_grad_()
    expression = maps(1, 1)[0, :3, 0, 0].clone().requires_grad_()

    def heatmaps(V, expression):
        return visual_heatmaps(V, prototypes(V, language_heatmap(V, expression)))

    assert torch.autograd.gradcheck(heatmaps, (V, expression))


def test_gradients_reach_other_images_only_through_prototypes():
    V = maps(3).clone().requires_grad_()
    expression = maps(1, 1)[0, :, 0, 0]
    p = prototypes(V, language_heatmap(V, expression))
    visual_heatmaps(V, p)[0].sum().backward()
    assert (V.grad.flatten(1).abs().sum(1) > 0).all()
    V.grad = None
    visual_heatmaps(V, p.detach())[0].sum().backward()
    assert V.grad[0].any() and not V.grad[1:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_kept(dtype):
    V, expression = maps(3), maps(1, 1)[0, :, 0, 0]
    result = language_heatmap(V.to(dtype), expression.to(dtype))
    assert result.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    assert float((result.double() - language_heatmap(V, expression)).abs().max()) < tolerance
