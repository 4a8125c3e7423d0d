"""The thing branch as a whole, at tiny widths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hipie.modeling.criterion.targets import Targets
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.modeling.transformer_decoder.thing_branch import ThingBranch, ThingOutput

CHANNELS = (5, 6, 7)
TOKENS, TEXT = 6, 10


def make_branch(**options) -> ThingBranch:
    """Width 32; heads that a new branch starts at zero are random, so that all has an effect."""
    settings = {
        "in_channels": CHANNELS,
        "width": 32,
        "text_width": TEXT,
        "num_queries": 12,
        "num_background_queries": 3,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "num_heads": 4,
        "num_points": 2,
        "ffn_width": 32,
        "fusion_width": 16,
        "fusion_heads": 2,
        "mask_channels": 4,
        "denoising_queries": 8,
    }
    branch = ThingBranch(**(settings | options))
    for name, parameter in branch.named_parameters():
        if ("box" in name and "layers.2" in name) or "attention_weights" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return branch.eval()


def make_features(batch: int, height: int = 64, width: int = 96) -> list[Tensor]:
    sizes = [(c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (8, 16, 32))]
    return [torch.randn(batch, *size) for size in sizes]


def no_padding(batch: int, height: int = 64, width: int = 96) -> Tensor:
    return torch.zeros(batch, height, width, dtype=torch.bool)


def make_targets(count: int) -> Targets:
    return Targets(
        labels=torch.arange(count) % TOKENS,
        boxes=torch.cat([0.3 + 0.4 * torch.rand(count, 2), 0.2 * torch.rand(count, 2) + 0.1], 1),
        masks=torch.rand(count, 64, 96) > 0.5,
        is_thing=torch.ones(count, dtype=torch.bool),
        positive_map=torch.eye(TOKENS, dtype=torch.bool)[torch.arange(count) % TOKENS],
        image_size=(64, 96),
    )


def run(
    branch: ThingBranch,
    features: list[Tensor],
    padding: Tensor,
    text: Tensor,
    text_mask: Tensor | None = None,
    targets: list[Targets] | None = None,
) -> ThingOutput:
    mask = torch.ones(text.shape[:2], dtype=torch.bool) if text_mask is None else text_mask
    fused = branch.fuse(branch.project(features, padding), text, mask)
    pooled = text.mean(1, keepdim=True)
    return branch(fused, text_for_classes=fused.fused_text, unfused_pooled=pooled, targets=targets)


def test_shapes_of_inference() -> None:
    out = run(make_branch(), make_features(2), no_padding(2), torch.randn(2, TOKENS, TEXT))
    tokens = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    assert out.num_background == 3
    assert out.memory.shape == (2, tokens, 32)
    assert out.proposals is None
    assert out.topk.shape == (2, 12)
    assert out.denoising is None
    assert out.denoising_layout is None
    assert out.mask_features.shape == (2, 4, 8, 12)
    assert len(out.layers) == len(out.queries) == len(out.references) == 2
    for layer in out.layers:
        assert layer.token_logits.shape == (2, 15, TOKENS)
        assert layer.boxes.shape == (2, 15, 4)
        assert layer.iou_logits.shape == (2, 15, 1)
        masks = layer.masks(torch.tensor([0, 1, 1]), torch.tensor([4, 0, 14]))
        assert masks.shape == (3, 16, 24)


def test_background_queries_start_where_they_are_told() -> None:
    branch, features = make_branch(), make_features(2)
    text, mask = torch.randn(2, TOKENS, TEXT), torch.ones(2, TOKENS, dtype=torch.bool)
    out = run(branch, features, no_padding(2), text)
    raw = branch.background_references.weight.expand(2, -1, -1)
    torch.testing.assert_close(out.references[0][:, :3], raw)
    levels = branch.fuse(branch.project(features, no_padding(2)), text, mask).levels
    proposals, topk, start = branch._propose(out.memory, levels, every_box=True)
    torch.testing.assert_close(out.topk, topk)
    torch.testing.assert_close(out.references[0][:, 3:], start)
    assert proposals.token_logits.shape == (2, levels.tokens.shape[1], 1)
    chosen = proposals.boxes.gather(1, topk[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(start, chosen)
    best = proposals.token_logits[..., 0].sort(dim=1, descending=True).values[:, :12]
    torch.testing.assert_close(proposals.token_logits[..., 0].gather(1, topk), best)


def test_images_of_a_batch_do_not_mix() -> None:
    branch, features = make_branch(), make_features(3)
    text = torch.randn(3, TOKENS, TEXT)
    together = run(branch, features, no_padding(3), text)
    which, query = torch.arange(3).repeat_interleave(4), torch.arange(12)
    masks = together.layers[-1].masks(which, query)
    for i in range(3):
        one = slice(i, i + 1)
        alone = run(branch, [f[one] for f in features], no_padding(1), text[one])
        for name in ("token_logits", "boxes", "iou_logits"):
            torch.testing.assert_close(
                getattr(alone.layers[-1], name),
                getattr(together.layers[-1], name)[one],
                atol=1e-4,
                rtol=1e-4,
            )
        own = alone.layers[-1].masks(torch.zeros(4, dtype=torch.int64), query[which == i])
        torch.testing.assert_close(own, masks[which == i], atol=1e-4, rtol=1e-4)


def test_padded_words_change_no_real_answer() -> None:
    branch, features = make_branch(), make_features(1)
    text = torch.randn(1, TOKENS, TEXT)
    short = run(branch, features, no_padding(1), text)
    mask = torch.ones(1, TOKENS + 3, dtype=torch.bool)
    mask[:, TOKENS:] = False
    longer = torch.cat([text, torch.randn(1, 3, TEXT)], dim=1)
    padded = run(branch, features, no_padding(1), longer, mask)
    torch.testing.assert_close(padded.memory, short.memory, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        padded.layers[-1].token_logits[..., :TOKENS],
        short.layers[-1].token_logits,
        atol=1e-4,
        rtol=1e-4,
    )


def test_what_lies_in_the_padding_is_not_seen_after_fusion() -> None:
    branch, features = make_branch(), make_features(1)
    padding = no_padding(1)
    padding[:, 32:], padding[:, :, 64:] = True, True
    text, mask = torch.randn(1, TOKENS, TEXT), torch.ones(1, TOKENS, dtype=torch.bool)
    fused = branch.fuse(branch.project(features, padding), text, mask)
    assert fused.image_sizes.tolist() == [[64.0, 32.0]]
    real = ~fused.levels.padding_mask[0]
    memory = branch._encode(fused.levels)
    fused.levels.tokens = torch.where(real[:, None], fused.levels.tokens, 100.0)
    torch.testing.assert_close(branch._encode(fused.levels)[:, real], memory[:, real])
    proposals, topk, _ = branch._propose(memory, fused.levels, every_box=True)
    anchored = proposals.boxes[0, ~real]
    torch.testing.assert_close(anchored, torch.ones_like(anchored))
    assert topk.shape == (1, 12)


def test_classes_may_change_places() -> None:
    branch, features = make_branch(), make_features(1)
    text, order = torch.randn(1, TOKENS, TEXT), torch.tensor([3, 1, 5, 0, 2, 4])
    first = run(branch, features, no_padding(1), text)
    second = run(branch, features, no_padding(1), text[:, order])
    torch.testing.assert_close(
        second.layers[-1].token_logits,
        first.layers[-1].token_logits[..., order],
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(second.layers[-1].boxes, first.layers[-1].boxes, atol=1e-5, rtol=0)


def test_masks_are_centred_on_the_reference_that_entered_in_pixels() -> None:
    branch = make_branch()
    out = run(branch, make_features(2), no_padding(2), torch.randn(2, TOKENS, TEXT))
    image, query = torch.tensor([1, 0]), torch.tensor([7, 4])
    centres = out.references[1][image, query, :2] * torch.tensor([96.0, 64.0])
    expected = branch.mask_head(out.mask_features, out.queries[1][image, query], centres, image)
    torch.testing.assert_close(out.layers[1].masks(image, query), expected)


def test_denoising_leaves_the_matching_queries_alone() -> None:
    branch, features = make_branch(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT)
    plain = run(branch, features, no_padding(2), text)
    noised = run(branch, features, no_padding(2), text, targets=[make_targets(2), make_targets(1)])
    assert noised.denoising_layout.num_queries == 8
    assert noised.denoising[0].token_logits.shape == (2, 8, TOKENS)
    for a, b in zip(plain.layers, noised.layers, strict=True):
        torch.testing.assert_close(a.boxes, b.boxes, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.token_logits, b.token_logits, atol=1e-4, rtol=1e-4)


def test_published_denoising_masks_change_only_these() -> None:
    features, text = make_features(1), torch.randn(1, TOKENS, TEXT)
    image, query = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    masks = []
    for published in (False, True):
        torch.manual_seed(1)
        branch = make_branch(published_denoising_masks=published)
        out = run(branch, features, no_padding(1), text, targets=[make_targets(2)])
        masks.append([one.masks(image, query) for one in (out.layers[1], out.denoising[1])])
    torch.testing.assert_close(masks[0][0], masks[1][0])
    assert (masks[0][1] - masks[1][1]).abs().max() > 1e-3


def test_published_denoising_masks_need_enough_queries() -> None:
    branch = make_branch(num_queries=4, published_denoising_masks=True)
    with pytest.raises(ValueError, match="there are 4 and 8"):
        run(
            branch,
            make_features(1),
            no_padding(1),
            torch.randn(1, TOKENS, TEXT),
            targets=[make_targets(2)],
        )


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_reach_every_parameter(mixed: bool) -> None:
    branch = make_branch().train()
    targets = [make_targets(3), make_targets(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        out = run(
            branch, make_features(2), no_padding(2), torch.randn(2, TOKENS, TEXT), targets=targets
        )
        losses = ThingCriterion(num_points=64, final_quality=True)(out, targets)
        total = sum(losses.values())
    assert total.dtype == torch.float32
    total.backward()
    missing = [name for name, p in branch.named_parameters() if p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in branch.parameters())
    still = [name for name, p in branch.named_parameters() if not p.grad.any()]
    assert still == []


def test_an_expression_is_one_column() -> None:
    branch = make_branch()
    text, mask = torch.randn(1, TOKENS, TEXT), torch.ones(1, TOKENS, dtype=torch.bool)
    fused = branch.fuse(branch.project(make_features(1), no_padding(1)), text, mask)
    pooled = text.mean(1, keepdim=True)
    out = branch(fused, text_for_classes=pooled, unfused_pooled=pooled)
    assert out.layers[-1].token_logits.shape == (1, 15, 1)


def test_images_smaller_than_the_queries_give_fewer() -> None:
    branch = make_branch(num_queries=50, width=64)
    out = run(branch, make_features(1, 32, 40), no_padding(1, 32, 40), torch.randn(1, 3, TEXT))
    assert out.topk.shape == (1, 4 * 5 + 2 * 3 + 1 * 2 + 1)
    assert out.layers[-1].boxes.shape == (1, 3 + out.topk.shape[1], 4)
