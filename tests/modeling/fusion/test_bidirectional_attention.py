"""Bi-directional attention against loops over images, heads and tokens in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hipie.modeling.activation_checkpointing import checkpoint_activations
from hipie.modeling.fusion import bidirectional_attention
from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion

HEADS, DEPTH = 2, 4


def make_fusion(dropout: float = 0.0) -> BidirectionalFusion:
    """Width 6, text 5, all parameters random."""
    fusion = BidirectionalFusion(6, 5, HEADS * DEPTH, HEADS, dropout=dropout)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return fusion


def fuse_by_loops(fusion: BidirectionalFusion, visual: Tensor, text: Tensor, real: Tensor) -> tuple:
    """The published order of products: project all tokens of both modalities, then attend."""
    v = fusion.norm_visual(visual)
    t = fusion.norm_text(text)
    query, key = fusion.visual_query(v) * DEPTH**-0.5, fusion.text_key(t)
    values_v, values_t = fusion.visual_value(v), fusion.text_value(t)
    from_text, from_visual = torch.zeros_like(query), torch.zeros_like(key)
    for b in range(len(visual)):
        for head in range(HEADS):
            own = slice(head * DEPTH, (head + 1) * DEPTH)
            scores = query[b, :, own] @ key[b, :, own].T
            for s in range(visual.shape[1]):
                kept = scores[s, real[b]].softmax(0)
                from_text[b, s, own] = kept @ values_t[b, real[b]][:, own]
            for w in range(text.shape[1]):
                from_visual[b, w, own] = scores[:, w].softmax(0) @ values_v[b, :, own]
    return (
        v + fusion.gamma_visual * fusion.visual_out(from_text),
        t + fusion.gamma_text * fusion.text_out(from_visual),
    )


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    real = torch.ones(2, 4, dtype=torch.bool)
    real[1, 2:] = False
    return torch.randn(2, 7, 6).double(), torch.randn(2, 4, 5).double(), real


def test_equals_explicit_loops() -> None:
    fusion = make_fusion().double()
    visual, text, real = inputs()
    output = fusion(visual, text, real)
    for fused, expected in zip(output, fuse_by_loops(fusion, visual, text, real), strict=True):
        torch.testing.assert_close(fused, expected, atol=1e-6, rtol=1e-6)


def test_padded_tokens_do_not_change_the_image() -> None:
    fusion = make_fusion().double()
    visual, text, real = inputs()
    noise = torch.where(real[..., None], text, torch.randn_like(text))
    changed = fusion(visual, noise, real)
    kept = fusion(visual, text, real)
    torch.testing.assert_close(changed[0], kept[0])
    torch.testing.assert_close(changed[1][real], kept[1][real])


def test_the_residual_is_the_normalised_input() -> None:
    fusion = make_fusion()
    torch.nn.init.zeros_(fusion.gamma_visual)
    torch.nn.init.zeros_(fusion.gamma_text)
    visual, text = torch.randn(1, 7, 6), torch.randn(1, 4, 5)
    visual_out, text_out = fusion(visual, text, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(visual_out, fusion.norm_visual(visual))
    torch.testing.assert_close(text_out, fusion.norm_text(text))


def test_dropout_acts_in_training_only() -> None:
    fusion = make_fusion(dropout=0.5)
    visual, text = torch.randn(1, 7, 6), torch.randn(1, 4, 5)
    real = torch.ones(1, 4, dtype=torch.bool)
    assert not fusion(visual, text, real)[0].equal(fusion(visual, text, real)[0])
    fusion.eval()
    assert fusion(visual, text, real)[0].equal(fusion(visual, text, real)[0])


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_huge_scores_stay_finite(scale: float) -> None:
    fusion = make_fusion()
    torch.nn.init.constant_(fusion.norm_visual.weight, scale)
    torch.nn.init.constant_(fusion.norm_text.weight, scale)
    visual, text = torch.randn(1, 7, 6), torch.randn(1, 4, 5)
    visual_out, text_out = fusion(visual, text, torch.ones(1, 4, dtype=torch.bool))
    (visual_out.sum() + text_out.sum()).backward()
    assert visual_out.isfinite().all()
    assert text_out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in fusion.parameters())


def test_groups_of_heads_give_the_same_result_and_gradients(monkeypatch) -> None:
    module = make_fusion().double()
    visual, text, real = inputs()
    everything = [visual.requires_grad_(), text.requires_grad_(), *module.parameters()]

    def outputs_and_gradients() -> list[Tensor]:
        visual_out, text_out = module(visual, text, real)
        loss = (visual_out * torch.linspace(-1, 1, visual_out.numel()).view_as(visual_out)).sum()
        return [
            visual_out,
            text_out,
            *torch.autograd.grad(loss + text_out.square().sum(), everything),
        ]

    together = outputs_and_gradients()
    monkeypatch.setattr("hipie.modeling.fusion.bidirectional_attention.WORKING_BYTES", 1)
    assert len(list(module._head_groups(1, visual.device))) == HEADS
    for first, second in zip(outputs_and_gradients(), together, strict=True):
        torch.testing.assert_close(first, second)


def stored_and_gradients(module: BidirectionalFusion) -> tuple[list[int], list[Tensor]]:
    """Sizes of the tensors stored for the backward pass, and gradients, with random dropout."""
    torch.manual_seed(3)
    visual, text, real = torch.randn(2, 300, 6), torch.randn(2, 40, 5), torch.ones(2, 40).bool()
    visual.requires_grad_()
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = module(visual, text, real)
    loss = sum(output.square().sum() for output in outputs)
    return sizes, list(torch.autograd.grad(loss, [visual, *module.parameters()]))


def test_scores_of_groups_are_not_stored(monkeypatch) -> None:
    """The largest stored tensor is the image's; gradients are equal to the bit, with dropout."""
    module = make_fusion(dropout=0.4)
    whole, _ = stored_and_gradients(module)
    assert max(whole) == 2 * HEADS * 40 * 300
    monkeypatch.setattr(bidirectional_attention, "WORKING_BYTES", 1)
    grouped, gradients = stored_and_gradients(module)
    assert max(grouped) <= 2 * 300 * 6
    with monkeypatch.context() as patch:
        patch.setattr(
            bidirectional_attention, "checkpoint", lambda function, *inputs, **_: function(*inputs)
        )
        stored, expected = stored_and_gradients(module)
    assert max(stored) == 2 * 40 * 300
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))
    checkpoint_activations([module])
    _, nested = stored_and_gradients(module)
    assert all(torch.equal(*pair) for pair in zip(nested, expected, strict=True))


def test_groups_are_smaller_with_gradients(monkeypatch) -> None:
    module = BidirectionalFusion(6, 5, 8, 8)
    num_scores = 100
    monkeypatch.setattr(bidirectional_attention, "WORKING_BYTES", 4 * num_scores * 12)
    assert len(list(module._head_groups(num_scores, torch.device("cpu")))) == 4
    with torch.no_grad():
        assert len(list(module._head_groups(num_scores, torch.device("cpu")))) == 1
