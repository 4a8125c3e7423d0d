"""Multi-layer perceptron and projection of pooled text."""

from __future__ import annotations

import torch

from hipie.modeling.heads.mlp import MLP, TextProjection


def test_relu_is_between_layers_only() -> None:
    mlp = MLP(3, 5, 2, 3)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(5, 3), (5, 5), (2, 5)]
    x = torch.randn(4, 7, 3)
    hidden = mlp.layers[0](x).clamp(min=0)
    hidden = mlp.layers[1](hidden).clamp(min=0)
    torch.testing.assert_close(mlp(x), mlp.layers[2](hidden))
    mlp.layers[2].bias.data.fill_(-9)
    assert (mlp(x) < 0).all()


def test_a_single_layer_is_linear() -> None:
    mlp = MLP(3, 99, 2, 1)
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(mlp(a) + mlp(b), mlp(a + b) + mlp(torch.zeros(2, 3)))


def test_projected_text_has_the_query_width_and_is_normalised() -> None:
    content = TextProjection(7, 16)(torch.randn(2, 1, 7))
    assert content.shape == (2, 1, 16)
    torch.testing.assert_close(content.mean(-1), torch.zeros(2, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(content.std(-1, unbiased=False), torch.ones(2, 1))
