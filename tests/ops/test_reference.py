from __future__ import annotations

import math

import pytest
import torch

from hipie.ops import ms_deform_attn_reference


def by_hand(value, shapes, starts, locations, weights):
    """The definition, one number at a time."""
    batch, _, heads, width = value.shape
    _, queries, _, levels, points, _ = locations.shape
    output = torch.zeros(batch, queries, heads, width, dtype=value.dtype)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                for level in range(levels):
                    rows, columns = shapes[level].tolist()
                    for p in range(points):
                        x = float(locations[b, q, m, level, p, 0]) * columns - 0.5
                        y = float(locations[b, q, m, level, p, 1]) * rows - 0.5
                        for row in (math.floor(y), math.floor(y) + 1):
                            for column in (math.floor(x), math.floor(x) + 1):
                                if 0 <= row < rows and 0 <= column < columns:
                                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                                    share *= float(weights[b, q, m, level, p])
                                    token = int(starts[level]) + row * columns + column
                                    output[b, q, m] += share * value[b, token, m]
    return output.flatten(2)


@pytest.mark.parametrize("shapes", [[(1, 1)], [(3, 4), (2, 1)], [(5, 2), (3, 3), (1, 2)]])
def test_is_the_definition(make_problem, shapes):
    arguments = make_problem(shapes, dtype=torch.float64, points=3)
    assert torch.allclose(ms_deform_attn_reference(*arguments), by_hand(*arguments), atol=1e-12)


def test_a_pixel_centre_gives_the_pixel(make_problem):
    value, shapes, starts, locations, weights = make_problem([(4, 6)], batch=1, queries=1)
    locations[..., 0], locations[..., 1] = (2 + 0.5) / 6, (1 + 0.5) / 4
    weights[:] = 0.25
    output = ms_deform_attn_reference(value, shapes, starts, locations, weights)
    assert torch.allclose(output[0, 0].view(2, 8), value[0, 1 * 6 + 2], atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -7.0])
def test_what_is_no_place_on_the_map_counts_as_outside(make_problem, bad):
    arguments = make_problem([(4, 6)])
    arguments[3][..., 0] = bad
    assert ms_deform_attn_reference(*arguments).eq(0).all()


def test_sums_bfloat16_in_float32(make_problem):
    arguments = make_problem([(4, 6), (2, 3)], dtype=torch.bfloat16)
    exact = [a.double() if a.is_floating_point() else a for a in arguments]
    output = ms_deform_attn_reference(*arguments)
    assert output.dtype == torch.bfloat16
    wanted = ms_deform_attn_reference(*exact)
    assert (output - wanted).norm() / wanted.norm() < 4e-3


@pytest.mark.parametrize("empty", [{"batch": 0}, {"queries": 0}, {"points": 0}])
def test_empty_input_has_a_gradient(make_problem, empty):
    arguments = make_problem([(4, 6)], **empty)
    value = arguments[0].requires_grad_()
    output = ms_deform_attn_reference(value, *arguments[1:])
    output.sum().backward()
    assert value.grad.eq(0).all()
