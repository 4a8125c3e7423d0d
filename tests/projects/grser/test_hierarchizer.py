"""The order of trust against sorted lists in float64, ties included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grser.hierarchizer import hierarchy
from tests.projects.grser import formulas


def order(p, words, anti) -> list[int]:
    return hierarchy(*(torch.as_tensor(np.asarray(one)) for one in (p, words, anti))).tolist()


# Whole numbers and few of them, so that equal distances are common.
@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.just(2)), elements=st.integers(-2, 2)),
    hnp.arrays(np.float64, 2, elements=st.integers(-2, 2)),
    hnp.arrays(np.float64, 2, elements=st.integers(-2, 2)),
)
@example(np.ones((5, 2)), np.zeros(2), np.ones(2))
def test_equal_to_lists(p, words, anti):
    assert order(p, words, anti) == formulas.hierarchy(p, words, anti)


def test_an_example_by_hand():
    """Distances to the expression 3, 1, 2 (ranks 2, 0, 1), to the anti-expression 1, 3, 6 (2, 1, 0).

    The sums are 4, 1, 1; of the last two the differences are 1 - 3 and 2 - 6.
    """
    words, anti = [0.0, 0.0], [4.0, 0.0]
    assert order([[3.0, 0.0], [1.0, 0.0], [-2.0, 0.0]], words, anti) == [2, 1, 0]


def test_equal_sums_go_by_the_difference_of_distances():
    words, anti = [0.0, 0.0], [10.0, 0.0]
    near_but_not_far = [0.0, 1.0]  # 1 and 10.05
    far_but_not_near = [-3.0, 0.0]  # 3 and 13
    assert order([near_but_not_far, far_but_not_near], words, anti) == [1, 0]
    assert order([far_but_not_near, near_but_not_far], words, anti) == [0, 1]


def test_equal_sums_can_stay_in_the_order_of_the_images():
    p = torch.tensor([[0.0, 1.0], [-3.0, 0.0]])
    words, anti = torch.zeros(2), torch.tensor([10.0, 0.0])
    assert hierarchy(p, words, anti, "order").tolist() == [0, 1]
    assert hierarchy(p.flip(0), words, anti, "order").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("p", "words", "anti", "said"),
    [
        ((3, 4), (1,), (4,), r"the expression l must be \[4\], and is \[1\]"),
        ((3, 4), (4,), (3, 4), r"the anti-expression l_anti must be \[4\], and is \[3, 4\]"),
        ((4,), (4,), (4,), r"the prototypes p must be \[any, any\], and is \[4\]"),
    ],
)
def test_other_shapes_are_named(p, words, anti, said):
    with pytest.raises(ValueError, match=said):
        hierarchy(torch.zeros(p), torch.zeros(words), torch.zeros(anti))


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_identical_images_stay_where_they_are(count):
    p = torch.randn(1, 5).expand(count, 5)
    assert hierarchy(p, torch.randn(5), torch.randn(5)).tolist() == list(range(count))


def test_permuting_prototypes_permutes_the_order():
    p, words, anti = torch.randn(6, 5), torch.randn(5), torch.randn(5)
    moved = torch.randperm(6)
    assert torch.equal(p[moved][hierarchy(p[moved], words, anti)], p[hierarchy(p, words, anti)])


def test_exchanging_the_expressions_turns_the_order_round():
    p, words, anti = (torch.tensor([[float(x), 0.0] for x in (3, 9, 1, 6)]),
                      torch.zeros(2), torch.tensor([10.0, 0.0]))  # fmt: skip
    forward = hierarchy(p, words, anti)
    assert forward.tolist() == [2, 0, 3, 1]
    assert hierarchy(p, anti, words).tolist() == forward.flip(0).tolist()


def test_ranks_carry_no_gradient():
    p = torch.randn(4, 3, requires_grad=True)
    words = torch.randn(3, requires_grad=True)
    found = hierarchy(p, words, torch.randn(3, requires_grad=True))
    assert found.dtype == torch.int64 and not found.requires_grad
    p[found].square().sum().backward()
    torch.testing.assert_close(p.grad, 2 * p.detach())
    assert words.grad is None
