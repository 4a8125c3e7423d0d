"""The stuff decoder: how it chooses queries, and which output refines which box."""

from __future__ import annotations

import math

import pytest
import torch

from hipie.modeling.pixel_decoder.multi_scale_features import Levels, flatten_levels
from hipie.modeling.transformer_decoder.maskdino_decoder import StuffDecoder, initial_references

WIDTH = 16
SIZES = [(1, 2), (2, 4), (4, 8)]


def make_decoder(num_queries: int = 6) -> StuffDecoder:
    decoder = StuffDecoder(WIDTH, num_queries, 3, 2, 2, 24, num_levels=len(SIZES))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


def make_levels(batch: int = 2) -> Levels:
    maps = [torch.randn(batch, WIDTH, *size) for size in SIZES]
    nothing = [torch.zeros(batch, *size, dtype=torch.bool) for size in SIZES]
    return flatten_levels(maps, maps, nothing)


def layer_norm(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    x = x.double()
    spread = torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + norm.eps)
    return (x - x.mean(-1, keepdim=True)) / spread * norm.weight.double() + norm.bias.double()


def test_proposals_by_hand() -> None:
    decoder, levels = make_decoder(), make_levels()
    # A wide, low canvas: the outermost pixels of the widest level are too near its border.
    wide = [torch.randn(2, WIDTH, 1, 120), *levels.as_maps(levels.tokens)[1:]]
    levels = flatten_levels(wide, wide, [torch.zeros_like(one[:, 0]) > 0 for one in wide])
    with torch.no_grad():
        found = decoder.propose(levels)
        memory = levels.tokens.double()
        memory[:, [0, 119]] = 0
        projection = decoder.proposal_projection
        projected = memory @ projection.weight.double().T + projection.bias.double()
        candidates = layer_norm(projected, decoder.proposal_norm)
        features = candidates @ decoder.class_features.weight.double().T
        scores = (features + decoder.class_features.bias.double()).max(-1).values
    torch.testing.assert_close(found.scores.double(), scores, atol=1e-4, rtol=1e-4)
    best = scores.sort(dim=1, descending=True).values[:, :6]
    torch.testing.assert_close(scores.gather(1, found.topk), best, atol=1e-4, rtol=0)
    chosen = candidates.gather(1, found.topk[..., None].expand(-1, -1, WIDTH))
    torch.testing.assert_close(found.content.double(), chosen, atol=1e-4, rtol=1e-4)


def test_proposed_boxes_start_from_anchors_that_double_from_coarse_to_fine() -> None:
    decoder, levels = make_decoder(num_queries=42), make_levels(1)
    decoder.box_head.layers[-1].weight.data.zero_()
    decoder.box_head.layers[-1].bias.data.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    found = decoder.propose(levels)
    starts = [0, 2, 10]
    for row, token in enumerate(found.topk[0].tolist()):
        level = max(i for i, start in enumerate(starts) if token >= start)
        height, width = SIZES[level]
        y, x = divmod(token - starts[level], width)
        anchor = [(x + 0.5) / width, (y + 0.5) / height, 0.05 * 2**level, 0.05 * 2**level]
        step = [0.1, 0.2, 0.3, 0.4]
        expected = [math.log(a / (1 - a)) + s for a, s in zip(anchor, step, strict=True)]
        torch.testing.assert_close(found.box_logits[0, row], torch.tensor(expected))
    assert torch.equal(initial_references(found), found.box_logits.sigmoid())
    assert not initial_references(found).requires_grad


def test_reported_boxes_use_the_normed_output_and_running_ones_the_other() -> None:
    decoder, levels = make_decoder(), make_levels()
    queries, references = torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda _m, args, out: seen.append((args[2][:, :, 0], out)))
    with torch.no_grad():
        found = decoder(queries, references, levels, None)
        assert torch.equal(found.boxes[0], references)
        torch.testing.assert_close(
            found.queries[0].double(), layer_norm(queries, decoder.norm), atol=1e-5, rtol=1e-5
        )
        running = references.double()
        for i, (entered, out) in enumerate(seen):
            torch.testing.assert_close(entered.double(), running, atol=1e-5, rtol=1e-5)
            normed = layer_norm(out, decoder.norm)
            start = torch.log(running.clamp(min=1e-5) / (1 - running).clamp(min=1e-5))
            step = decoder.box_head(normed.float()).double()
            torch.testing.assert_close(
                found.boxes[i + 1].double(), torch.sigmoid(step + start), atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(found.queries[i + 1].double(), normed, atol=1e-4, rtol=1e-4)
            running = torch.sigmoid(decoder.box_head(out).double() + start)


def test_boxes_look_forward_twice() -> None:
    decoder, levels = make_decoder(), make_levels()
    outputs: list[torch.Tensor] = []

    def cut(_module, _args, out: torch.Tensor) -> torch.Tensor:
        outputs.append(out.detach().requires_grad_())
        return outputs[-1]

    for layer in decoder.layers:
        layer.register_forward_hook(cut)
    found = decoder(torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4), levels, None)
    # Queries no longer carry gradients from layer to layer: what is left goes by the references,
    # one layer back and no further.
    found.boxes[3].sum().backward()
    assert [one.grad is not None for one in outputs] == [False, True, True]


def test_order_of_queries_only_permutes() -> None:
    decoder, levels = make_decoder(), make_levels()
    queries, references = torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4)
    order = torch.tensor([3, 0, 4, 1, 2])
    first = decoder(queries, references, levels, None)
    second = decoder(queries[:, order], references[:, order], levels, None)
    for a, b in zip(first.queries, second.queries, strict=True):
        torch.testing.assert_close(a[:, order], b, atol=1e-5, rtol=1e-4)
    for a, b in zip(first.boxes, second.boxes, strict=True):
        torch.testing.assert_close(a[:, order], b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [6, 1000])
def test_no_more_queries_than_tokens(count: int) -> None:
    assert make_decoder(count).propose(make_levels(1)).topk.shape == (1, min(count, 2 + 8 + 32))
