"""Transformer layers: order of norms and residuals, attention masks, chunks."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.pixel_decoder.multi_scale_features import flatten_levels
from hipie.modeling.transformer_decoder.layers import (
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    TransformerConfig,
)
from hipie.structures import FeatureLevels

WIDTH = 16
TRANSFORMER = TransformerConfig(width=WIDTH, num_heads=2, num_points=2, dim_feedforward=24)


def make_levels() -> FeatureLevels:
    masks = [torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)]
    maps = [torch.randn(2, WIDTH, *mask.shape[-2:]) for mask in masks]
    return flatten_levels(maps, [torch.randn_like(level) for level in maps], masks)


def randomise(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def test_feed_forward_normalises_after_the_residual() -> None:
    block = FeedForward(WIDTH, 24)
    x = torch.randn(2, 3, WIDTH)
    hidden = (x @ block.linear1.weight.T + block.linear1.bias).clamp(min=0)
    expected = block.norm(x + hidden @ block.linear2.weight.T + block.linear2.bias)
    torch.testing.assert_close(block(x), expected)


def test_encoder_adds_positions_to_queries_but_not_to_values() -> None:
    layer = EncoderLayer(TRANSFORMER, 2)
    randomise(layer)
    levels = make_levels()
    tokens, points = levels.tokens, levels.reference_points()
    attended = layer.attention(
        tokens + levels.position_embeddings,
        points,
        tokens,
        levels.spatial_shapes,
        levels.level_start_index,
        None,
    )
    expected = layer.feed_forward(layer.norm(tokens + attended))
    torch.testing.assert_close(layer(tokens, levels, points, None), expected)


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_chunks_of_tokens_give_the_same_result(monkeypatch, chunk) -> None:
    layer = EncoderLayer(TRANSFORMER, 2)
    randomise(layer)
    levels = make_levels()
    padding = torch.zeros(levels.tokens.shape[:2], dtype=torch.bool)
    padding[1, 13:16] = True
    expected = layer(levels.tokens, levels, levels.reference_points(), padding)
    monkeypatch.setattr("hipie.modeling.transformer_decoder.layers.TOKENS_PER_CHUNK", chunk)
    with torch.no_grad():
        output = layer(levels.tokens, levels, levels.reference_points(), padding)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_decoder_queries_do_not_attend_to_masked_ones() -> None:
    layer = DecoderLayer(TRANSFORMER, 2)
    randomise(layer)
    levels = make_levels()
    queries, positions = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    references = torch.rand(2, 5, 2, 4)
    masked = torch.zeros(5, 5, dtype=torch.bool)
    masked[2:, :2] = True

    def run(queries: torch.Tensor) -> torch.Tensor:
        return layer(
            queries,
            positions,
            references,
            levels.tokens,
            levels,
            padding_mask=None,
            attention_mask=masked,
        )

    other = queries.clone()
    other[:, :2] += 1
    before, after = run(queries), run(other)
    torch.testing.assert_close(before[:, 2:], after[:, 2:])
    assert (before[:, :2] - after[:, :2]).abs().min(-1).values.max() > 0
    other = queries.clone()
    other[:, 4] += 1
    assert (run(other)[:, :2] - before[:, :2]).abs().max() > 1e-3


def test_decoder_layer_is_post_norm() -> None:
    layer = DecoderLayer(TRANSFORMER, 2)
    randomise(layer)
    levels = make_levels()
    queries, positions = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    references = torch.rand(2, 5, 2, 4)
    placed = queries + positions
    x = layer.norm_self(queries + layer.self_attention(placed, placed, queries)[0])
    attended = layer.cross_attention(
        x + positions,
        references,
        levels.tokens,
        levels.spatial_shapes,
        levels.level_start_index,
        None,
    )
    expected = layer.feed_forward(layer.norm_cross(x + attended))
    output = layer(
        queries,
        positions,
        references,
        levels.tokens,
        levels,
        padding_mask=None,
        attention_mask=None,
    )
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
