"""Box refinement, and how far gradients of boxes reach."""

from __future__ import annotations

import torch

from hipie.modeling.pixel_decoder.multi_scale_features import Levels, flatten_levels
from hipie.modeling.transformer_decoder.reference_points import inverse_sigmoid
from hipie.modeling.transformer_decoder.thing_decoder import ThingDecoder, box_head, top_rows

WIDTH, LAYERS = 16, 3


def make_decoder() -> ThingDecoder:
    decoder = ThingDecoder(WIDTH, LAYERS, 2, 2, 24, levels=2)
    for head in decoder.box_heads:
        torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    return decoder


def make_levels() -> Levels:
    masks = [torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)]
    maps = [torch.randn(2, WIDTH, *one.shape[-2:]) for one in masks]
    return flatten_levels(maps, maps, masks)


def test_every_box_is_a_step_from_the_reference_that_entered() -> None:
    decoder, levels = make_decoder(), make_levels()
    references = torch.rand(2, 5, 4)
    out = decoder(torch.randn(2, 5, WIDTH), references, levels.tokens, levels, None)
    assert len(out.queries) == len(out.references) == len(out.boxes) == LAYERS
    torch.testing.assert_close(out.references[0], references)
    for i in range(LAYERS):
        step = decoder.box_heads[i](out.queries[i])
        expected = (step + inverse_sigmoid(out.references[i])).sigmoid()
        torch.testing.assert_close(out.boxes[i], expected)
        if i + 1 < LAYERS:
            torch.testing.assert_close(out.references[i + 1], out.boxes[i])


def test_losses_look_forward_twice_and_no_further() -> None:
    decoder, levels = make_decoder(), make_levels()
    out = decoder(torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4), levels.tokens, levels, None)
    heads = [head.layers[-1].bias for head in decoder.box_heads]
    reached = torch.autograd.grad(out.boxes[2].sum(), heads, allow_unused=True)
    assert reached[0] is None
    assert reached[1].abs().sum() > 0
    assert reached[2].abs().sum() > 0


def test_references_outside_the_image_are_read_raw_by_attention() -> None:
    decoder, levels = make_decoder(), make_levels()
    queries = torch.randn(2, 5, WIDTH)
    inside, outside = torch.ones(2, 5, 4), torch.ones(2, 5, 4)
    outside[..., 0] = 1.7
    first = decoder(queries, inside, levels.tokens, levels, None)
    second = decoder(queries, outside, levels.tokens, levels, None)
    assert (first.queries[0] - second.queries[0]).abs().max() > 1e-3
    assert second.boxes[0].isfinite().all()
    step = decoder.box_heads[0](second.queries[0])
    expected = (step + inverse_sigmoid(inside)).sigmoid()
    torch.testing.assert_close(second.boxes[0], expected)


def test_a_new_box_head_takes_no_step() -> None:
    assert box_head(WIDTH)(torch.randn(2, 3, WIDTH)).equal(torch.zeros(2, 3, 4))


def test_top_rows_fall_and_never_ask_for_too_many() -> None:
    scores = torch.tensor([[0.1, 3.0, -2.0], [5.0, 4.0, 4.5]])
    assert top_rows(scores, 2).tolist() == [[1, 0], [0, 2]]
    assert top_rows(scores, 9).tolist() == [[1, 0, 2], [0, 2, 1]]
