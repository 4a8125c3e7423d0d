"""Earth mover's distance against a linear program and in known cases."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.optimize import linear_sum_assignment, linprog

from hipie_fewshot.modeling.optimal_transport import earth_mover_distance


def solve_linear_program(costs):
    """Solve the transport problem as a linear program."""
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
def test_equal_to_the_linear_program(shape):
    pytest.importorskip("ot")
    costs = np.random.default_rng(0).random(shape)
    assert earth_mover_distance(costs) == pytest.approx(solve_linear_program(costs), abs=1e-9)


def test_sets_of_equal_size_are_an_assignment():
    pytest.importorskip("ot")
    costs = np.random.default_rng(1).random((15, 15)).astype(np.float32)
    rows, columns = linear_sum_assignment(costs)
    assert earth_mover_distance(costs) == pytest.approx(costs[rows, columns].mean(), abs=1e-6)


def test_distance_to_itself_is_zero():
    pytest.importorskip("ot")
    places = np.random.default_rng(2).random((8, 2))
    costs = np.abs(places[:, None] - places[None]).sum(-1)
    assert earth_mover_distance(costs) == pytest.approx(0, abs=1e-12)


def test_missing_library_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match="pip install POT"):
        earth_mover_distance(np.ones((2, 2)))
