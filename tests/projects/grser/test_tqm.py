"""The triphasic query module against loops in float64, and what its formulas imply."""

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
    """Maps and an expression, float64."""
    shape = draw(SHAPES)
    return (
        draw(hnp.arrays(np.float64, shape, elements=NUMBERS)),
        draw(hnp.arrays(np.float64, shape[1:2], elements=NUMBERS)),
    )


def maps(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, 6, 3, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=60, deadline=None)
@given(groups())
def test_equal_to_loops(group):
    V, words = group
    ours = torch.from_numpy(V), torch.from_numpy(words)
    M = language_heatmap(*ours)
    p = prototypes(ours[0], M)
    heat = visual_heatmaps(ours[0], p)
    wanted = formulas.language_heatmap(V, words)
    np.testing.assert_allclose(M.numpy(), wanted, atol=1e-9)
    found = formulas.prototypes(V, wanted)
    np.testing.assert_allclose(p.numpy(), found, atol=1e-9)
    np.testing.assert_allclose(heat.numpy(), formulas.visual_heatmaps(V, p.numpy()), atol=1e-8)
    assert heat.shape == (len(V), len(V), *V.shape[2:])
    assert float(heat.abs().max()) <= 1 + 1e-9


def test_lengths_do_not_matter_to_heatmaps_but_to_prototypes():
    V, words = maps(3), maps(1, 1)[0, :, 0, 0]
    M = language_heatmap(V, words)
    torch.testing.assert_close(language_heatmap(7 * V, 0.2 * words), M)
    torch.testing.assert_close(prototypes(7 * V, M), 7 * prototypes(V, M))
    torch.testing.assert_close(language_heatmap(V, -words), -M)


def test_permuting_images_permutes_the_table_in_both_directions():
    V, words = maps(4), maps(1, 1)[0, :, 0, 0]
    order = torch.tensor([2, 0, 3, 1])
    M = language_heatmap(V, words)
    p = prototypes(V, M)
    moved = language_heatmap(V[order], words)
    torch.testing.assert_close(moved, M[order])
    torch.testing.assert_close(prototypes(V[order], moved), p[order])
    torch.testing.assert_close(
        visual_heatmaps(V[order], p[order]), visual_heatmaps(V, p)[order][:, order]
    )


def test_what_is_unlike_the_expression_is_subtracted():
    """One place along the expression, one against it twice as long: (1 v + (-1)(-2 v)) / 2."""
    words = torch.tensor([1.0, 0.0])
    V = torch.tensor([[[1.0, -2.0]], [[0.0, 0.0]]])[None]
    M = language_heatmap(V, words)
    assert M.tolist() == [[[1.0, -1.0]]]
    assert prototypes(V, M).tolist() == [[1.5, 0.0]]


@pytest.mark.parametrize(
    ("ask", "shapes", "said"),
    [
        (language_heatmap, [(2, 4, 3, 3), (1,)], r"the expression l must be \[4\], and is \[1\]"),
        (language_heatmap, [(4, 3, 3), (4,)], "the maps V must be"),
        (prototypes, [(2, 4, 3, 3), (2, 1, 1)], r"the heatmaps M must be \[2, 3, 3\]"),
        (visual_heatmaps, [(2, 4, 3, 3), (2, 5)], r"the prototypes p must be \[any, 4\]"),
        (visual_heatmaps, [(4, 3, 3), (2, 4)], r"the maps V must be \[any, any, any, any\]"),
    ],
)
def test_other_shapes_are_named(ask, shapes, said):
    with pytest.raises(ValueError, match=said):
        ask(*(torch.zeros(shape) for shape in shapes))


def test_short_vectors_are_measured_by_the_shortest_length():
    V, words = torch.full((1, 1, 1, 1), 0.5), torch.tensor([2.0])
    assert language_heatmap(V, words, 1.0).item() == 0.5
    assert language_heatmap(V, words).item() == 1.0


def test_empty_places_are_zero_and_finite():
    V = torch.zeros(2, 4, 2, 2, requires_grad=True)
    words = torch.zeros(4, requires_grad=True)
    M = language_heatmap(V, words)
    heat = visual_heatmaps(V, prototypes(V, M))
    assert not M.any() and not heat.any()
    heat.sum().backward()
    assert torch.isfinite(V.grad).all()


def test_gradients_by_finite_differences():
    V = maps(2)[:, :3, :2, :2].clone().requires_grad_()
    words = maps(1, 1)[0, :3, 0, 0].clone().requires_grad_()

    def heat(V, words):
        return visual_heatmaps(V, prototypes(V, language_heatmap(V, words)))

    assert torch.autograd.gradcheck(heat, (V, words))


def test_gradients_reach_other_images_only_through_prototypes():
    V = maps(3).clone().requires_grad_()
    words = maps(1, 1)[0, :, 0, 0]
    p = prototypes(V, language_heatmap(V, words))
    visual_heatmaps(V, p)[0].sum().backward()
    assert (V.grad.flatten(1).abs().sum(1) > 0).all()
    V.grad = None
    visual_heatmaps(V, p.detach())[0].sum().backward()
    assert V.grad[0].any() and not V.grad[1:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    V, words = maps(3), maps(1, 1)[0, :, 0, 0]
    found = language_heatmap(V.to(dtype), words.to(dtype))
    assert found.dtype == dtype
    allowed = 0.05 if dtype == torch.bfloat16 else 1e-5
    assert float((found.double() - language_heatmap(V, words)).abs().max()) < allowed
