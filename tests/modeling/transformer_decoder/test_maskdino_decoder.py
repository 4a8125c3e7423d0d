"""Decoder of stuff: query selection, box refinement, text at the class heads, denoising."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.pixel_decoder.multi_scale_features import flatten_levels
from hipie.modeling.transformer_decoder.denoising import DenoisingConfig
from hipie.modeling.transformer_decoder.layers import TransformerConfig
from hipie.modeling.transformer_decoder.maskdino_decoder import MaskDINODecoder, StuffBranch
from hipie.structures import DecoderOutput, FeatureLevels, LayerOutput, Targets

WIDTH = 16
SIZES = [(1, 2), (2, 4), (4, 8)]


def make_decoder(num_queries: int = 6) -> MaskDINODecoder:
    transformer = TransformerConfig(
        width=WIDTH,
        num_queries=num_queries,
        decoder_layers=3,
        num_heads=2,
        num_points=2,
        dim_feedforward=24,
    )
    decoder = MaskDINODecoder(transformer, levels=len(SIZES))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


def make_memory(batch: int = 2) -> FeatureLevels:
    maps = [torch.randn(batch, WIDTH, *size) for size in SIZES]
    nothing = [torch.zeros(batch, *size, dtype=torch.bool) for size in SIZES]
    return flatten_levels(maps, maps, nothing)


def layer_norm(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    x = x.double()
    deviation = torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + norm.eps)
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight.double() + norm.bias.double()


def test_proposals_follow_the_formula() -> None:
    decoder, levels = make_decoder(), make_memory()
    # A wide, low canvas: the outermost pixels of the widest level are too near its border.
    wide = [torch.randn(2, WIDTH, 1, 120), *levels.to_maps()[1:]]
    levels = flatten_levels(wide, wide, [torch.zeros_like(level[:, 0]) > 0 for level in wide])
    with torch.no_grad():
        topk, content, _ = decoder.propose(levels)
        memory = levels.tokens.double()
        memory[:, [0, 119]] = 0
        projection = decoder.proposal_projection
        projected = memory @ projection.weight.double().T + projection.bias.double()
        candidates = layer_norm(projected, decoder.proposal_norm)
        features = candidates @ decoder.class_features.weight.double().T
        scores = (features + decoder.class_features.bias.double()).max(-1).values
    best = scores.sort(dim=1, descending=True).values[:, :6]
    torch.testing.assert_close(scores.gather(1, topk), best, atol=1e-4, rtol=0)
    chosen = candidates.gather(1, topk[..., None].expand(-1, -1, WIDTH))
    torch.testing.assert_close(content.double(), chosen, atol=1e-4, rtol=1e-4)


def test_proposed_boxes_start_from_anchors_of_their_level() -> None:
    decoder, levels = make_decoder(num_queries=42), make_memory(1)
    decoder.box_head.layers[-1].weight.data.zero_()
    decoder.box_head.layers[-1].bias.data.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    topk, _, box_logits = decoder.propose(levels)
    starts = [0, 2, 10]
    for row, token in enumerate(topk[0].tolist()):
        level = max(i for i, start in enumerate(starts) if token >= start)
        height, width = SIZES[level]
        y, x = divmod(token - starts[level], width)
        anchor = [(x + 0.5) / width, (y + 0.5) / height, 0.05 * 2**level, 0.05 * 2**level]
        step = [0.1, 0.2, 0.3, 0.4]
        expected = [math.log(a / (1 - a)) + s for a, s in zip(anchor, step, strict=True)]
        torch.testing.assert_close(box_logits[0, row], torch.tensor(expected))


def test_predicted_boxes_use_normalised_queries_and_references_the_others() -> None:
    decoder, levels = make_decoder(), make_memory()
    queries, references = torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4)
    recorded: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda _m, args, out: recorded.append((args[2][:, :, 0], out)))
    with torch.no_grad():
        all_queries, boxes = decoder(queries, references, levels, None)
        assert torch.equal(boxes[0], references)
        torch.testing.assert_close(
            all_queries[0].double(), layer_norm(queries, decoder.norm), atol=1e-5, rtol=1e-5
        )
        running = references.double()
        for i, (entered, out) in enumerate(recorded):
            torch.testing.assert_close(entered.double(), running, atol=1e-5, rtol=1e-5)
            normed = layer_norm(out, decoder.norm)
            start = torch.log(running.clamp(min=1e-5) / (1 - running).clamp(min=1e-5))
            step = decoder.box_head(normed.float()).double()
            torch.testing.assert_close(
                boxes[i + 1].double(), torch.sigmoid(step + start), atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(all_queries[i + 1].double(), normed, atol=1e-4, rtol=1e-4)
            running = torch.sigmoid(decoder.box_head(out).double() + start)


def test_gradients_of_boxes_reach_two_layers() -> None:
    decoder, levels = make_decoder(), make_memory()
    outputs: list[torch.Tensor] = []

    def cut(_module, _args, out: torch.Tensor) -> torch.Tensor:
        outputs.append(out.detach().requires_grad_())
        return outputs[-1]

    for layer in decoder.layers:
        layer.register_forward_hook(cut)
    _, boxes = decoder(torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4), levels, None)
    # Queries carry no gradients from layer to layer here; references do, one layer back.
    boxes[3].sum().backward()
    assert [output.grad is not None for output in outputs] == [False, True, True]


def test_permuted_queries_permute_outputs() -> None:
    decoder, levels = make_decoder(), make_memory()
    queries, references = torch.randn(2, 5, WIDTH), torch.rand(2, 5, 4)
    order = torch.tensor([3, 0, 4, 1, 2])
    first = decoder(queries, references, levels, None)
    second = decoder(queries[:, order], references[:, order], levels, None)
    for states, permuted in zip(first, second, strict=True):
        for a, b in zip(states, permuted, strict=True):
            torch.testing.assert_close(a[:, order], b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [6, 1000])
def test_there_are_no_more_queries_than_tokens(count: int) -> None:
    assert make_decoder(count).propose(make_memory(1))[0].shape == (1, min(count, 2 + 8 + 32))


CHANNELS = (5, 6, 7)
TOKENS, TEXT = 6, 10


def make_branch(denoising: DenoisingConfig | None = None, **sizes: int) -> StuffBranch:
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
    branch = StuffBranch(
        CHANNELS, TEXT, replace(transformer, **sizes), denoising or DenoisingConfig(8)
    )
    for name, parameter in branch.named_parameters():
        if ("box" in name and "layers.2" in name) or "attention_weights" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return branch.eval()


def make_features(batch: int, height: int = 64, width: int = 96) -> list[Tensor]:
    sizes = [(c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (8, 16, 32))]
    return [torch.randn(batch, *size) for size in sizes]


def make_targets(count: int, image_size: tuple[int, int] = (64, 96)) -> Targets:
    return Targets(
        labels=torch.arange(count) % TOKENS,
        boxes=torch.cat([0.3 + 0.4 * torch.rand(count, 2), 0.2 * torch.rand(count, 2) + 0.1], 1),
        masks=torch.rand(count, 64, 96) > 0.5,
        is_thing=torch.arange(count) % 2 == 0,
        positive_map=torch.eye(TOKENS, dtype=torch.bool)[torch.arange(count) % TOKENS],
        image_size=image_size,
    )


def run(
    branch: StuffBranch,
    features: list[Tensor],
    text: Tensor,
    targets: list[Targets] | None = None,
) -> DecoderOutput:
    pooled = text.mean(1, keepdim=True)
    return branch(features, class_text=text, pooled_text=pooled, targets=targets)


def close(first: Tensor, second: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


def all_masks(branch: StuffBranch, output: DecoderOutput, layer: LayerOutput, image: int) -> Tensor:
    """[N, h, w] of every query of one image."""
    query = torch.arange(layer.boxes.shape[1])
    index = torch.full_like(query, image)
    return branch.mask_head.logits(layer, output.mask_features, index, query)


def test_shapes_of_training_outputs() -> None:
    branch = make_branch()
    output = run(branch, make_features(2), torch.randn(2, TOKENS, TEXT))
    assert output.denoising == () and output.denoising_layout is None
    assert output.proposal_index.shape == (2, 12)
    assert [tuple(features.shape) for features in output.mask_features] == [(32, 16, 24)] * 2
    assert len(output.layers) == 3
    for layer in [*output.layers, output.proposals]:
        assert layer.logits.shape == (2, 12, TOKENS)
        assert layer.boxes.shape == (2, 12, 4)
        assert layer.iou_logits is None
        assert ((layer.boxes >= 0) & (layer.boxes <= 1)).all()
        assert all_masks(branch, output, layer, 1).shape == (12, 16, 24)


def test_decoding_before_text_gives_the_last_layer() -> None:
    branch, features = make_branch(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT)
    expected = run(branch, features, text)
    decoded = branch.decode(features)
    assert decoded.layers[0].logits is None and decoded.proposals is None
    output = branch.classify(decoded, text)
    for name in ("logits", "boxes", "mask_embeddings"):
        assert torch.equal(getattr(output.layers[-1], name), getattr(expected.layers[-1], name))
    assert torch.equal(output.references, expected.references)
    assert torch.equal(output.proposal_index, expected.proposal_index)


def test_masks_before_the_first_layer_follow_the_formula() -> None:
    branch, features = make_branch(), make_features(2)
    output = run(branch, features, torch.randn(2, TOKENS, TEXT))
    levels, mask_features = branch.pixel_decoder(features)
    _, content, _ = branch.decoder.propose(levels)
    embeddings = branch.mask_embedding(branch.decoder.norm(content))
    expected = torch.einsum("bqc,bchw->bqhw", embeddings, mask_features)
    for i in range(2):
        close(all_masks(branch, output, output.layers[0], i), expected[i], 1e-5)
        close(all_masks(branch, output, output.proposals, i), expected[i], 1e-5)


def test_images_of_a_batch_are_independent() -> None:
    branch, features, text = make_branch(), make_features(3), torch.randn(3, TOKENS, TEXT)
    together = run(branch, features, text)
    for i in range(3):
        single = slice(i, i + 1)
        alone = run(branch, [level[single] for level in features], text[single])
        for own, batched in zip(alone.layers, together.layers, strict=True):
            close(own.logits, batched.logits[single])
            close(own.boxes, batched.boxes[single])
            close(all_masks(branch, alone, own, 0), all_masks(branch, together, batched, i))


def test_permuted_tokens_permute_logits_only() -> None:
    branch, features, text = make_branch(), make_features(1), torch.randn(1, TOKENS, TEXT)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    first, second = run(branch, features, text), run(branch, features, text[:, order])
    close(second.layers[-1].logits, first.layers[-1].logits[..., order])
    assert torch.equal(second.layers[-1].boxes, first.layers[-1].boxes)
    assert torch.equal(second.proposal_index, first.proposal_index)


def test_text_changes_logits_only() -> None:
    branch, features = make_branch(), make_features(1)
    first = run(branch, features, torch.randn(1, TOKENS, TEXT)).layers[-1]
    second = run(branch, features, torch.randn(1, TOKENS, TEXT)).layers[-1]
    assert torch.equal(first.mask_embeddings, second.mask_embeddings)
    assert (first.logits != second.logits).any()


def test_denoising_does_not_change_matching_queries() -> None:
    branch, features = make_branch(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT)
    plain = run(branch, features, text)
    noised = run(branch, features, text, [make_targets(2), make_targets(1)])
    assert noised.denoising_layout.num_queries == 8
    for a, b in zip(plain.layers, noised.layers, strict=True):
        close(a.boxes, b.boxes, 1e-5)
        close(a.logits, b.logits)
        close(a.mask_embeddings, b.mask_embeddings)
    assert noised.denoising[0].logits.shape == (2, 8, TOKENS)


def test_denoising_groups_are_independent(monkeypatch) -> None:
    from hipie.modeling.transformer_decoder import maskdino_decoder

    branch, features = make_branch(), make_features(1)
    text, targets = torch.randn(1, TOKENS, TEXT), [make_targets(2)]
    boxes = []
    for shift in (0.0, 0.2):

        def noise(boxes: Tensor, _negative: Tensor, shift: float = shift) -> Tensor:
            noised = boxes.clone()
            noised[:2] += shift  # copies of the first group
            return noised

        monkeypatch.setattr(maskdino_decoder, "center_size_noise", lambda scale, noise=noise: noise)
        output = run(branch, features, text, targets)
        assert output.denoising_layout.group_size == 2
        boxes.append(output.denoising[-1].boxes)
    assert (boxes[0][:, :2] - boxes[1][:, :2]).abs().min() > 1e-3
    close(boxes[0][:, 2:], boxes[1][:, 2:], 1e-6)


def test_unused_denoising_queries_have_no_effect() -> None:
    """Predictions for an image with fewer objects do not depend on the rest of the batch."""
    branch, features = make_branch(DenoisingConfig(8, noise=0.0)), make_features(2)
    text, few = torch.randn(2, TOKENS, TEXT), make_targets(1)
    alone = run(branch, [level[1:] for level in features], text[1:], [few])
    together = run(branch, features, text, [make_targets(4), few])
    assert together.denoising_layout.max_objects == 4
    close(together.layers[-1].boxes[1], alone.layers[-1].boxes[0], 1e-5)
    assert together.denoising[-1].boxes.isfinite().all()


@pytest.mark.parametrize("official", [False, True])
def test_frame_of_denoising_boxes(official) -> None:
    """Half the canvas is padding: a box in 0..1 of the image is half as wide on the canvas."""
    branch = make_branch(DenoisingConfig(8, noise=0.0, official_frames=official))
    target = make_targets(1, image_size=(64, 48))
    output = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT), [target])
    expected = target.boxes if official else target.boxes * torch.tensor([0.5, 1.0, 0.5, 1.0])
    close(output.denoising[0].boxes[0, :1], expected, 1e-5)


def test_without_queries_there_is_no_denoising() -> None:
    branch = make_branch(DenoisingConfig(0))
    output = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT), [make_targets(2)])
    assert output.denoising == ()


def test_without_objects_there_are_layers_of_zero_denoising_queries() -> None:
    branch = make_branch(DenoisingConfig(8))
    output = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT), [make_targets(0)])
    assert len(output.denoising) == len(output.layers)
    assert {layer.logits.shape for layer in output.denoising} == {(1, 0, TOKENS)}


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_reach_every_parameter(mixed: bool) -> None:
    branch = make_branch().train()
    targets = [make_targets(3), make_targets(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output = run(branch, make_features(2), torch.randn(2, TOKENS, TEXT), targets)
        losses = StuffCriterion(num_points=64)(output, targets, branch.mask_head)
        total = sum(losses.values())
    assert total.dtype == torch.float32
    total.backward()
    assert [name for name, p in branch.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in branch.parameters())
    assert [name for name, p in branch.named_parameters() if not p.grad.any()] == []


def test_gradients_stop_at_the_initial_queries() -> None:
    """Losses of the decoder do not train the proposals; only those of the proposals do."""
    branch = make_branch().train()
    output = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT))
    output.layers[-1].boxes.sum().backward()
    assert branch.decoder.proposal_projection.weight.grad is None
    output = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT))
    output.proposals.boxes.sum().backward()
    assert branch.decoder.proposal_projection.weight.grad.any()


def test_bfloat16_stays_close() -> None:
    branch, features, text = make_branch(), make_features(1), torch.randn(1, TOKENS, TEXT)
    plain = run(branch, features, text)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(branch, features, text)
        masks = all_masks(branch, mixed, mixed.layers[0], 0)
        (points,) = branch.mask_head.logits_at_points(
            mixed.layers[:1], mixed.mask_features[0], 0, torch.rand(7, 2)
        )
    assert mixed.layers[-1].boxes.dtype == torch.float32
    assert masks.isfinite().all() and points.isfinite().all()
    shared = mixed.proposal_index == plain.proposal_index
    assert shared.float().mean() > 0.5
    assert (mixed.layers[0].boxes - plain.layers[0].boxes).abs()[shared].max() < 0.05


def test_an_expression_is_one_class() -> None:
    output = run(make_branch(), make_features(1), torch.randn(1, 1, TEXT))
    assert output.layers[-1].logits.shape == (1, 12, 1)


def test_small_images_have_fewer_queries() -> None:
    branch = make_branch(num_queries=50, width=64)
    output = run(branch, make_features(1, 32, 40), torch.randn(1, 3, TEXT))
    assert output.proposal_index.shape == (1, 4 * 5 + 2 * 3 + 1 * 2 + 1)
    assert output.layers[-1].boxes.shape == (1, output.proposal_index.shape[1], 4)
