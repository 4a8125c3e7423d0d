"""Order of prototypes against a reference in float64, including ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grser.hierarchizer import hierarchy
from tests.projects.grser import formulas


def order(p, expression, anti_expression) -> list[int]:
    return hierarchy(
        *(torch.as_tensor(np.asarray(array)) for array in (p, expression, anti_expression))
    ).tolist()


# Whole numbers and few of them, so that equal distances are common.
@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.just(2)), elements=st.integers(-2, 2)),
    hnp.arrays(np.float64, 2, elements=st.integers(-2, 2)),
    hnp.arrays(np.float64, 2, elements=st.integers(-2, 2)),
)
@example(np.ones((5, 2)), np.zeros(2), np.ones(2))
def test_order_equals_the_reference(p, expression, anti_expression):
    assert order(p, expression, anti_expression) == formulas.hierarchy(
        p, expression, anti_expression
    )


def test_order_of_an_example():
    """Check three prototypes with distances 3, 1, 2 and 1, 3, 6.

    The ranks are 2, 0, 1 and 2, 1, 0, with sums 4, 1, 1; the differences of the last two distances
    are 1 - 3 and 2 - 6.
    """
    expression, anti_expression = [0.0, 0.0], [4.0, 0.0]
    assert order([[3.0, 0.0], [1.0, 0.0], [-2.0, 0.0]], expression, anti_expression) == [2, 1, 0]


def test_ties_are_broken_by_the_difference_of_distances():
    expression, anti_expression = [0.0, 0.0], [10.0, 0.0]
    near_but_not_far = [0.0, 1.0]  # 1 and 10.05
    far_but_not_near = [-3.0, 0.0]  # 3 and 13
    assert order([near_but_not_far, far_but_not_near], expression, anti_expression) == [1, 0]
    assert order([far_but_not_near, near_but_not_far], expression, anti_expression) == [0, 1]


def test_ties_can_keep_the_order_of_the_images():
    p = torch.tensor([[0.0, 1.0], [-3.0, 0.0]])
    expression, anti_expression = torch.zeros(2), torch.tensor([10.0, 0.0])
    assert hierarchy(p, expression, anti_expression, "order").tolist() == [0, 1]
    assert hierarchy(p.flip(0), expression, anti_expression, "order").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("p", "expression", "anti_expression", "message"),
    [
        ((3, 4), (1,), (4,), r"the expression l must be \[4\], and is \[1\]"),
        ((3, 4), (4,), (3, 4), r"the anti-expression l_anti must be \[4\], and is \[3, 4\]"),
        ((4,), (4,), (4,), r"the prototypes p must be \[any, any\], and is \[4\]"),
    ],
)
def test_invalid_shapes_raise_an_error(p, expression, anti_expression, message):
    with pytest.raises(ValueError, match=message):
        hierarchy(torch.zeros(p), torch.zeros(expression), torch.zeros(anti_expression))


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_identical_images_keep_their_order(count):
    p = torch.randn(1, 5).expand(count, 5)
    assert hierarchy(p, torch.randn(5), torch.randn(5)).tolist() == list(range(count))


def test_permuting_prototypes_permutes_the_order():
    p, expression, anti_expression = torch.randn(6, 5), torch.randn(5), torch.randn(5)
    moved = torch.randperm(6)
    assert torch.equal(
        p[moved][hierarchy(p[moved], expression, anti_expression)],
        p[hierarchy(p, expression, anti_expression)],
    )


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.just(2)), elements=st.integers(-2, 2)),
    hnp.arrays(np.float64, 2, elements=st.integers(-2, 2)),
    hnp.arrays(np.float64, 2, elements=st.integers(-2, 2)),
)
def test_order_by_one_rank_equals_numpy(p, expression, anti_expression):
    arguments = [torch.as_tensor(array) for array in (p, expression, anti_expression)]
    distance, anti_distance = (
        np.linalg.norm(p - vector, axis=1) for vector in (expression, anti_expression)
    )
    by_ranks = {
        ranks: hierarchy(*arguments, ranks=ranks).tolist() for ranks in ("positive", "negative")
    }
    assert by_ranks["positive"] == np.argsort(distance, kind="stable").tolist()
    assert by_ranks["negative"] == np.argsort(-anti_distance, kind="stable").tolist()
    without = hierarchy(arguments[0], arguments[1], None, ranks="positive").tolist()
    assert without == by_ranks["positive"]


def test_ranks_of_planted_prototypes_differ():
    """The nearest to the expression, the farthest from the anti-expression, and the best sum."""
    expression, anti_expression = torch.zeros(2), torch.tensor([4.0, 0.0])
    p = torch.tensor([[1.0, 0.0], [-3.0, 0.0], [-1.5, 0.0]])
    orders = {
        ranks: hierarchy(p, expression, anti_expression, ranks=ranks).tolist()
        for ranks in ("both", "positive", "negative")
    }
    assert orders == {"positive": [0, 2, 1], "negative": [1, 2, 0], "both": [1, 2, 0]}
    with pytest.raises(ValueError, match='ranks "negative" need an anti-expression'):
        hierarchy(p, expression, None, ranks="negative")


def test_exchanging_the_expressions_reverses_the_order():
    p, expression, anti_expression = (torch.tensor([[float(x), 0.0] for x in (3, 9, 1, 6)]),
                      torch.zeros(2), torch.tensor([10.0, 0.0]))  # fmt: skip
    forward = hierarchy(p, expression, anti_expression)
    assert forward.tolist() == [2, 0, 3, 1]
    assert hierarchy(p, anti_expression, expression).tolist() == forward.flip(0).tolist()


def test_ranks_carry_no_gradient():
    p = torch.randn(4, 3, requires_grad=True)
    expression = torch.randn(3, requires_grad=True)
    order_of_p = hierarchy(p, expression, torch.randn(3, requires_grad=True))
    assert order_of_p.dtype == torch.int64 and not order_of_p.requires_grad
    p[order_of_p].square().sum().backward()
    torch.testing.assert_close(p.grad, 2 * p.detach())
    assert expression.grad is None
