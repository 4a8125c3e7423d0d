"""The perceptron: depth, widths, and no activation at the end."""

from __future__ import annotations

import torch

from hipie.modeling.heads.mlp import MLP


def test_layers_follow_each_other_with_relu_between() -> None:
    mlp = MLP(3, 5, 2, 3)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(5, 3), (5, 5), (2, 5)]
    x = torch.randn(4, 7, 3)
    hidden = mlp.layers[0](x).clamp(min=0)
    hidden = mlp.layers[1](hidden).clamp(min=0)
    torch.testing.assert_close(mlp(x), mlp.layers[2](hidden))
    mlp.layers[2].bias.data.fill_(-9)
    assert (mlp(x) < 0).all()


def test_one_layer_is_linear() -> None:
    mlp = MLP(3, 99, 2, 1)
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(mlp(a) + mlp(b), mlp(a + b) + mlp(torch.zeros(2, 3)))
