from __future__ import annotations

import importlib
import sys

import torch

from hipie.ops import ms_deform_attn


def test_module_replaces_the_original_extension(make_problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "MultiScaleDeformableAttention", None)
    drop_in = importlib.import_module("hipie.ops.drop_in")
    drop_in.install()
    extension = importlib.import_module("MultiScaleDeformableAttention")

    value, shapes, starts, locations, weights = make_problem([(3, 4), (2, 2)], batch=3)
    output = extension.ms_deform_attn_forward(value, shapes, starts, locations, weights, 64)
    assert torch.equal(output, ms_deform_attn(value, shapes, starts, locations, weights))

    gradient = torch.randn_like(output)
    found = extension.ms_deform_attn_backward(
        value, shapes, starts, locations, weights, gradient, 64
    )
    inputs = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    ms_deform_attn(inputs[0], shapes, starts, *inputs[1:]).backward(gradient)
    assert len(found) == 3
    for mine, tensor in zip(found, inputs, strict=True):
        assert torch.equal(mine, tensor.grad)
