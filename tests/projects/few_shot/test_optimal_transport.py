"""Moving costs against a linear program, and where they are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.optimize import linear_sum_assignment, linprog

from hipie_fewshot.modeling.optimal_transport import moving_cost


def program(costs):
    """The transport problem as it is defined."""
    rows, columns = costs.shape
    sums = sparse.vstack(
        [
            sparse.kron(sparse.eye(rows), np.ones((1, columns))),
            sparse.kron(np.ones((1, rows)), sparse.eye(columns)),
        ]
    ).tocsr()
    weights = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    return linprog(costs.ravel(), A_eq=sums[:-1], b_eq=weights[:-1], method="highs").fun


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9, 4), (20, 30)])
def test_against_a_linear_program(shape):
    pytest.importorskip("ot")
    costs = np.random.default_rng(0).random(shape)
    assert moving_cost(costs) == pytest.approx(program(costs), abs=1e-9)


def test_equal_numbers_are_an_assignment():
    pytest.importorskip("ot")
    costs = np.random.default_rng(1).random((15, 15)).astype(np.float32)
    rows, columns = linear_sum_assignment(costs)
    assert moving_cost(costs) == pytest.approx(costs[rows, columns].mean(), abs=1e-6)


def test_moving_onto_itself_costs_nothing():
    pytest.importorskip("ot")
    places = np.random.default_rng(2).random((8, 2))
    costs = np.abs(places[:, None] - places[None]).sum(-1)
    assert moving_cost(costs) == pytest.approx(0, abs=1e-12)


def test_without_the_library_the_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match="pip install POT"):
        moving_cost(np.ones((2, 2)))
