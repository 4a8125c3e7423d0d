from __future__ import annotations

import pytest
import torch


def build(shapes, *, batch=2, queries=5, heads=2, width=8, points=4, dtype=torch.float32, seed=0):
    """Arguments of the operator, in the dtype asked for; locations reach a little outside."""
    generator = torch.Generator().manual_seed(seed)
    spatial_shapes = torch.tensor(shapes, dtype=torch.int64).reshape(-1, 2)
    areas = spatial_shapes.prod(1)
    size = (batch, queries, heads, len(shapes), points)
    value = torch.randn((batch, int(areas.sum()), heads, width), generator=generator)
    locations = torch.rand((*size, 2), generator=generator) * 1.4 - 0.2
    weights = torch.rand(size, generator=generator)
    return (
        value.to(dtype),
        spatial_shapes,
        areas.cumsum(0) - areas,
        locations.to(dtype),
        weights.to(dtype),
    )


@pytest.fixture
def make_problem():
    return build


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
