"""Decoder of things: box refinement, and encoder and decoder together at tiny sizes."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.modeling.fusion.bidirectional_attention import FusionConfig
from hipie.modeling.matcher.matching import denoising_matching
from hipie.modeling.pixel_decoder.multi_scale_features import flatten_levels
from hipie.modeling.transformer_decoder.denoising import DenoisingConfig
from hipie.modeling.transformer_decoder.layers import TransformerConfig
from hipie.modeling.transformer_decoder.proposals import inverse_sigmoid
from hipie.modeling.transformer_decoder.thing_decoder import ThingBranch, ThingDecoder
from hipie.structures import BatchedTargets, DecoderOutput, FeatureLevels, LayerOutput, Targets

WIDTH, LAYERS = 16, 3
TRANSFORMER = TransformerConfig(
    width=WIDTH, decoder_layers=LAYERS, num_heads=2, num_points=2, dim_feedforward=24
)


def make_decoder() -> ThingDecoder:
    decoder = ThingDecoder(TRANSFORMER, levels=2)
    for head in decoder.box_heads:
        torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    return decoder


def make_levels() -> FeatureLevels:
    masks = [torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)]
    maps = [torch.randn(2, WIDTH, *mask.shape[-2:]) for mask in masks]
    return flatten_levels(maps, maps, masks)


def test_boxes_are_offsets_from_the_references_that_entered() -> None:
    decoder, levels = make_decoder(), make_levels()
    references = torch.rand(2, 5, 4)
    queries, entered, boxes = decoder(
        torch.randn(2, 5, WIDTH), references, levels.tokens, levels, None
    )
    assert len(queries) == len(entered) == len(boxes) == LAYERS
    torch.testing.assert_close(entered[0], references)
    for i in range(LAYERS):
        offset = decoder.box_heads[i](queries[i])
        expected = (offset + inverse_sigmoid(entered[i])).sigmoid()
        torch.testing.assert_close(boxes[i], expected)
        if i + 1 < LAYERS:
            torch.testing.assert_close(entered[i + 1], boxes[i])


def test_gradients_of_boxes_reach_two_layers() -> None:
    decoder, levels = make_decoder(), make_levels()
    _, _, boxes = decoder(
        torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4), levels.tokens, levels, None
    )
    heads = [head.layers[-1].bias for head in decoder.box_heads]
    reached = torch.autograd.grad(boxes[2].sum(), heads, allow_unused=True)
    assert reached[0] is None
    assert reached[1].abs().sum() > 0
    assert reached[2].abs().sum() > 0


def test_attention_reads_references_outside_the_image() -> None:
    decoder, levels = make_decoder(), make_levels()
    queries = torch.randn(2, 5, WIDTH)
    inside, outside = torch.ones(2, 5, 4), torch.ones(2, 5, 4)
    outside[..., 0] = 1.7
    first, _, _ = decoder(queries, inside, levels.tokens, levels, None)
    second, _, boxes = decoder(queries, outside, levels.tokens, levels, None)
    assert (first[0] - second[0]).abs().max() > 1e-3
    assert boxes[0].isfinite().all()
    offset = decoder.box_heads[0](second[0])
    expected = (offset + inverse_sigmoid(inside)).sigmoid()
    torch.testing.assert_close(boxes[0], expected)


CHANNELS = (5, 6, 7)
TOKENS, TEXT = 6, 10


def make_branch(official_frames: bool = False, **sizes: int) -> ThingBranch:
    """Width 32; heads that are initialised to zero are random, so that all have an effect."""
    transformer = TransformerConfig(
        width=32,
        num_queries=12,
        encoder_layers=2,
        decoder_layers=2,
        num_heads=4,
        num_points=2,
        dim_feedforward=32,
    )
    branch = ThingBranch(
        CHANNELS,
        TEXT,
        replace(transformer, **sizes),
        FusionConfig(16, 2),
        DenoisingConfig(8, official_frames=official_frames),
        num_background_queries=3,
        mask_channels=4,
    )
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
    all_layers: bool | None = None,
) -> tuple[DecoderOutput, Tensor]:
    """Predictions and memory."""
    mask = torch.ones(text.shape[:2], dtype=torch.bool) if text_mask is None else text_mask
    levels, fused_text = branch.fuse(branch.project(features, padding), text, mask)
    return branch(
        levels,
        [(64, 96)] * len(text),
        class_text=fused_text,
        pooled_text=text.mean(1, keepdim=True),
        targets=targets,
        all_layers=all_layers,
    )


def masks_of(branch: ThingBranch, output: DecoderOutput, image: Tensor, query: Tensor) -> Tensor:
    """Masks of the last layer."""
    return branch.mask_head.logits(output.layers[-1], output.mask_features, image, query)


def test_shapes_of_inference() -> None:
    branch = make_branch()
    arguments = (branch, make_features(2), no_padding(2), torch.randn(2, TOKENS, TEXT))
    output, memory = run(*arguments, all_layers=True)
    assert memory.shape == (2, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 32)
    assert output.proposals is None and output.denoising == () and output.denoising_layout is None
    assert output.proposal_index.shape == (2, 12) and output.references.shape == (2, 12, 4)
    assert [tuple(features.shape) for features in output.mask_features] == [(4, 8, 12)] * 2
    assert len(output.layers) == 2
    for layer in output.layers:
        assert layer.logits.shape == (2, 12, TOKENS)
        assert layer.boxes.shape == (2, 12, 4) and layer.iou_logits.shape == (2, 12, 1)
    masks = masks_of(branch, output, torch.tensor([0, 1, 1]), torch.tensor([4, 0, 11]))
    assert masks.shape == (3, 16, 24)


def test_inference_computes_the_last_layer_only() -> None:
    arguments = (make_branch(), make_features(1), no_padding(1), torch.randn(1, TOKENS, TEXT))
    (last,) = run(*arguments)[0].layers
    every = run(*arguments, all_layers=True)[0].layers
    assert torch.equal(last.logits, every[-1].logits) and torch.equal(last.boxes, every[-1].boxes)


def test_references_start_from_the_best_tokens() -> None:
    branch, features = make_branch(), make_features(2)
    text, mask = torch.randn(2, TOKENS, TEXT), torch.ones(2, TOKENS, dtype=torch.bool)
    output, memory = run(branch, features, no_padding(2), text)
    levels, _ = branch.fuse(branch.project(features, no_padding(2)), text, mask)
    proposals, topk, start = branch._propose(memory, levels, all_boxes=True)
    torch.testing.assert_close(output.proposal_index, topk)
    torch.testing.assert_close(output.references, start)
    assert proposals.logits.shape == (2, levels.tokens.shape[1], 1)
    chosen = proposals.boxes.gather(1, topk[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(start, chosen)
    best = proposals.logits[..., 0].sort(dim=1, descending=True).values[:, :12]
    torch.testing.assert_close(proposals.logits[..., 0].gather(1, topk), best)


def test_background_queries_take_part_in_attention_only() -> None:
    branch, features = make_branch(), make_features(1)
    text = torch.randn(1, TOKENS, TEXT)
    before, _ = run(branch, features, no_padding(1), text)
    torch.nn.init.normal_(branch.background_content.weight, std=5.0)
    after, _ = run(branch, features, no_padding(1), text)
    assert torch.equal(before.references, after.references)
    assert (before.layers[-1].logits - after.layers[-1].logits).abs().max() > 1e-3


def test_images_of_a_batch_are_independent() -> None:
    branch, features = make_branch(), make_features(3)
    text = torch.randn(3, TOKENS, TEXT)
    together, _ = run(branch, features, no_padding(3), text)
    image, query = torch.arange(3).repeat_interleave(4), torch.arange(12)
    masks = masks_of(branch, together, image, query)
    for i in range(3):
        single = slice(i, i + 1)
        alone, _ = run(branch, [level[single] for level in features], no_padding(1), text[single])
        for name in ("logits", "boxes", "iou_logits"):
            torch.testing.assert_close(
                getattr(alone.layers[-1], name),
                getattr(together.layers[-1], name)[single],
                atol=1e-4,
                rtol=1e-4,
            )
        first = torch.zeros(4, dtype=torch.int64)
        own = masks_of(branch, alone, first, query[image == i])
        torch.testing.assert_close(own, masks[image == i], atol=1e-4, rtol=1e-4)


def test_outputs_of_an_image_are_its_rows() -> None:
    branch = make_branch()
    output, _ = run(branch, make_features(2), no_padding(2), torch.randn(2, TOKENS, TEXT))
    query = torch.tensor([3, 1])
    queries = output.of_image(1, branch.mask_head)
    expected = masks_of(branch, output, torch.tensor([1, 1]), query)
    torch.testing.assert_close(queries.masks(query), expected)
    assert torch.equal(queries.layer.boxes[0], output.layers[-1].boxes[1])
    repeated = output.select_images(torch.tensor([1, 1]))
    assert torch.equal(repeated.layers[-1].logits[0], output.layers[-1].logits[1])
    assert repeated.mask_features[1] is output.mask_features[1]


def test_outputs_can_be_pickled() -> None:
    branch = make_branch()
    with torch.no_grad():
        output, _ = run(branch, make_features(1), no_padding(1), torch.randn(1, TOKENS, TEXT))
    copy = pickle.loads(pickle.dumps(output))
    assert torch.equal(copy.layers[-1].mask_embeddings, output.layers[-1].mask_embeddings)


def test_padded_tokens_do_not_change_predictions() -> None:
    branch, features = make_branch(), make_features(1)
    text = torch.randn(1, TOKENS, TEXT)
    short, memory = run(branch, features, no_padding(1), text)
    mask = torch.ones(1, TOKENS + 3, dtype=torch.bool)
    mask[:, TOKENS:] = False
    longer = torch.cat([text, torch.randn(1, 3, TEXT)], dim=1)
    padded, padded_memory = run(branch, features, no_padding(1), longer, mask)
    torch.testing.assert_close(padded_memory, memory, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        padded.layers[-1].logits[..., :TOKENS],
        short.layers[-1].logits,
        atol=1e-4,
        rtol=1e-4,
    )


def test_padding_is_not_read_after_fusion() -> None:
    branch, features = make_branch(), make_features(1)
    padding = no_padding(1)
    padding[:, 32:], padding[:, :, 64:] = True, True
    text, mask = torch.randn(1, TOKENS, TEXT), torch.ones(1, TOKENS, dtype=torch.bool)
    levels, _ = branch.fuse(branch.project(features, padding), text, mask)
    real = ~levels.padding_mask[0]
    memory = branch.encode(levels)
    changed = levels.with_tokens(torch.where(real[:, None], levels.tokens, 100.0))
    torch.testing.assert_close(branch.encode(changed)[:, real], memory[:, real])
    proposals, topk, _ = branch._propose(memory, changed, all_boxes=True)
    anchored = proposals.boxes[0, ~real]
    torch.testing.assert_close(anchored, torch.ones_like(anchored))
    assert topk.shape == (1, 12)


def test_permuted_tokens_permute_logits() -> None:
    branch, features = make_branch(), make_features(1)
    text, order = torch.randn(1, TOKENS, TEXT), torch.tensor([3, 1, 5, 0, 2, 4])
    (first,) = run(branch, features, no_padding(1), text)[0].layers
    (second,) = run(branch, features, no_padding(1), text[:, order])[0].layers
    torch.testing.assert_close(second.logits, first.logits[..., order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(second.boxes, first.boxes, atol=1e-5, rtol=0)


def test_masks_are_centred_on_the_references_in_pixels() -> None:
    branch = make_branch(decoder_layers=1)
    output, _ = run(branch, make_features(2), no_padding(2), torch.randn(2, TOKENS, TEXT))
    centers = output.references[..., :2] * torch.tensor([96.0, 64.0])
    torch.testing.assert_close(output.layers[0].mask_centers, centers)


def test_denoising_does_not_change_matching_queries() -> None:
    branch, features = make_branch(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT)
    plain, _ = run(branch, features, no_padding(2), text, all_layers=True)
    targets = [make_targets(2), make_targets(1)]
    noised, _ = run(branch, features, no_padding(2), text, targets=targets)
    assert noised.denoising_layout.num_queries == 8
    assert noised.denoising[0].logits.shape == (2, 8, TOKENS)
    for a, b in zip(plain.layers, noised.layers, strict=True):
        torch.testing.assert_close(a.boxes, b.boxes, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=1e-4)


def test_official_frames_change_mask_centres_of_denoising_only() -> None:
    features, text = make_features(1), torch.randn(1, TOKENS, TEXT)
    layers: list[tuple[LayerOutput, LayerOutput]] = []
    for official in (False, True):
        torch.manual_seed(1)
        branch = make_branch(official_frames=official)
        output, _ = run(branch, features, no_padding(1), text, targets=[make_targets(2)])
        layers.append((output.layers[1], output.denoising[1]))
    (matching, denoising), (official_matching, official_denoising) = layers
    torch.testing.assert_close(matching.mask_centers, official_matching.mask_centers)
    assert (denoising.mask_centers - official_denoising.mask_centers).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("num_queries", "objects", "groups", "used"), [(6, 1, 3, 1), (5, 2, 1, 2), (4, 3, 1, 2)]
)
def test_official_frames_cap_the_denoising_queries(num_queries, objects, groups, used) -> None:
    """There are at most as many as matching queries, if need be of some objects only."""
    branch = make_branch(num_queries=num_queries, official_frames=True).train()
    text, targets = torch.randn(2, TOKENS, TEXT), [make_targets(objects), make_targets(1)]
    output, _ = run(branch, make_features(2), no_padding(2), text, targets=targets)
    layout = output.denoising_layout
    assert layout.num_queries <= num_queries
    assert (layout.num_groups, layout.max_objects) == (groups, used)
    losses = ThingCriterion(num_points=64)(output, targets, branch.mask_head)
    assert all(loss.isfinite() for loss in losses.values())
    matching = denoising_matching(layout, BatchedTargets.concatenate(targets))
    assert len(matching) == groups * (used + 1)
    assert matching.counts == (groups * used, groups)
    assert set(matching.target_index.tolist()) == {*range(used), objects}


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_reach_every_parameter(mixed: bool) -> None:
    branch = make_branch().train()
    targets = [make_targets(3), make_targets(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        text = torch.randn(2, TOKENS, TEXT)
        output, _ = run(branch, make_features(2), no_padding(2), text, targets=targets)
        criterion = ThingCriterion(num_points=64, supervise_last_iou=True)
        total = sum(criterion(output, targets, branch.mask_head).values())
    assert total.dtype == torch.float32
    total.backward()
    assert [name for name, p in branch.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in branch.parameters())
    assert [name for name, p in branch.named_parameters() if not p.grad.any()] == []


def test_an_expression_is_one_class() -> None:
    branch = make_branch()
    text, mask = torch.randn(1, TOKENS, TEXT), torch.ones(1, TOKENS, dtype=torch.bool)
    levels, _ = branch.fuse(branch.project(make_features(1), no_padding(1)), text, mask)
    pooled = text.mean(1, keepdim=True)
    output, _ = branch(levels, [(64, 96)], class_text=pooled, pooled_text=pooled)
    assert output.layers[-1].logits.shape == (1, 12, 1)


def test_small_images_have_fewer_queries() -> None:
    branch = make_branch(num_queries=50, width=64)
    text = torch.randn(1, 3, TEXT)
    output, _ = run(branch, make_features(1, 32, 40), no_padding(1, 32, 40), text)
    assert output.proposal_index.shape == (1, 4 * 5 + 2 * 3 + 1 * 2 + 1)
    assert output.layers[-1].boxes.shape == (1, output.proposal_index.shape[1], 4)
