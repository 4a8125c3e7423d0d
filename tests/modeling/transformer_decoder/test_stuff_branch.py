"""The stuff branch at tiny widths: masks and points, groups, order, company, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.transformer_decoder.stuff_branch import StuffBranch, StuffOutput

CHANNELS = (5, 6, 7)
TOKENS, TEXT = 6, 10


def make_branch(**options) -> StuffBranch:
    """Width 32; heads that a new branch starts at zero are random, so that all has an effect."""
    settings = {
        "in_channels": CHANNELS,
        "width": 32,
        "text_width": TEXT,
        "num_queries": 12,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "num_heads": 4,
        "num_points": 2,
        "ffn_width": 32,
        "denoising_queries": 8,
    }
    branch = StuffBranch(**(settings | options))
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
) -> StuffOutput:
    pooled = text.mean(1, keepdim=True)
    return branch(features, text_for_classes=text, pooled_text=pooled, targets=targets)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def all_masks(layer: LayerPrediction, image: int) -> Tensor:
    """[N, h, w] of every query of one image."""
    count = layer.boxes.shape[1]
    return layer.masks(torch.full((count,), image), torch.arange(count))


def test_shapes_of_inference() -> None:
    out = run(make_branch(), make_features(2), torch.randn(2, TOKENS, TEXT))
    assert out.denoising is None
    assert out.denoising_layout is None
    assert out.topk.shape == (2, 12)
    assert out.mask_features.shape == (2, 32, 16, 24)
    assert len(out.layers) == 3
    for layer in [*out.layers, out.proposals]:
        assert layer.token_logits.shape == (2, 12, TOKENS)
        assert layer.boxes.shape == (2, 12, 4)
        assert layer.iou_logits is None
        assert ((layer.boxes >= 0) & (layer.boxes <= 1)).all()
        assert layer.masks(torch.tensor([1, 0]), torch.tensor([3, 11])).shape == (2, 16, 24)
        assert layer.point_masks(1, torch.rand(5, 2)).shape == (12, 5)


def test_masks_are_the_dot_products_in_any_order_of_images() -> None:
    branch = make_branch()
    out = run(branch, make_features(3), torch.randn(3, TOKENS, TEXT))
    image = torch.tensor([2, 0, 2, 1, 0, 2])
    query = torch.tensor([5, 11, 0, 3, 3, 5])
    for layer in [*out.layers, out.proposals]:
        whole = torch.stack([all_masks(layer, i) for i in range(3)])
        close(layer.masks(image, query), whole[image, query], 1e-5)
        assert torch.equal(layer.masks(image, query)[0], layer.masks(image, query)[5])


def test_masks_before_the_first_layer_equal_the_whole_einsum() -> None:
    branch = make_branch()
    out = run(branch, make_features(2), torch.randn(2, TOKENS, TEXT))
    pyramid_queries = branch.decoder.norm(_proposed(branch, 2))
    full = torch.einsum("bqc,bchw->bqhw", branch.mask_embedding(pyramid_queries), out.mask_features)
    for i in range(2):
        close(all_masks(out.layers[0], i), full[i], 1e-5)
        close(all_masks(out.proposals, i), full[i], 1e-5)


def _proposed(branch: StuffBranch, batch: int) -> Tensor:
    """Content of the selected queries, for the features that a fresh seed gives `run` first."""
    torch.manual_seed(0)
    make_branch()
    pyramid = branch.pixel_decoder(make_features(batch))
    return branch.decoder.propose(pyramid.levels).content


def test_masks_at_points_are_samples_of_the_masks() -> None:
    out = run(make_branch(), make_features(2), torch.randn(2, TOKENS, TEXT))
    points = torch.rand(50, 2)
    points[:4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    for layer in [*out.layers, out.proposals]:
        for image in range(2):
            full = all_masks(layer, image)[None]
            grid = (2 * points - 1)[None, None]
            sampled = F.grid_sample(full, grid, align_corners=False)[0, :, 0]
            close(layer.point_masks(image, points), sampled)


def test_images_of_a_batch_do_not_mix() -> None:
    branch, features, text = make_branch(), make_features(3), torch.randn(3, TOKENS, TEXT)
    together = run(branch, features, text)
    for i in range(3):
        one = slice(i, i + 1)
        alone = run(branch, [f[one] for f in features], text[one])
        for mine, ours in zip(alone.layers, together.layers, strict=True):
            close(mine.token_logits, ours.token_logits[one])
            close(mine.boxes, ours.boxes[one])
            close(all_masks(mine, 0), all_masks(ours, i))


def test_classes_may_change_places_and_move_nothing_else() -> None:
    branch, features, text = make_branch(), make_features(1), torch.randn(1, TOKENS, TEXT)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    first, second = run(branch, features, text), run(branch, features, text[:, order])
    close(second.layers[-1].token_logits, first.layers[-1].token_logits[..., order])
    assert torch.equal(second.layers[-1].boxes, first.layers[-1].boxes)
    assert torch.equal(second.topk, first.topk)


def test_words_do_not_reach_the_queries() -> None:
    branch, features = make_branch(), make_features(1)
    first = run(branch, features, torch.randn(1, TOKENS, TEXT))
    second = run(branch, features, torch.randn(1, TOKENS, TEXT))
    assert torch.equal(all_masks(first.layers[-1], 0), all_masks(second.layers[-1], 0))
    assert (first.layers[-1].token_logits != second.layers[-1].token_logits).any()


def test_the_order_of_queries_only_permutes_their_rows() -> None:
    branch, features = make_branch(), make_features(2)
    levels = branch.pixel_decoder(features).levels
    queries, references = torch.randn(2, 9, 32), torch.rand(2, 9, 4) * 0.5 + 0.2
    order = torch.randperm(9)
    plain = branch.decoder(queries, references, levels, None)
    moved = branch.decoder(queries[:, order], references[:, order], levels, None)
    for name in ("queries", "boxes"):
        for one, other in zip(getattr(plain, name), getattr(moved, name), strict=True):
            close(other, one[:, order], 1e-5)


def test_queries_are_the_best_tokens_best_first() -> None:
    branch, features = make_branch(), make_features(2)
    levels = branch.pixel_decoder(features).levels
    found = branch.decoder.propose(levels)
    best = found.scores.sort(dim=1, descending=True)
    close(found.scores.gather(1, found.topk), best.values[:, :12])
    assert all(len(set(row.tolist())) == 12 for row in found.topk)


def test_denoising_leaves_the_matching_queries_alone() -> None:
    branch, features = make_branch(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT)
    plain = run(branch, features, text)
    noised = run(branch, features, text, [make_targets(2), make_targets(1)])
    assert noised.denoising_layout.num_queries == 8
    for a, b in zip(plain.layers, noised.layers, strict=True):
        close(a.boxes, b.boxes, 1e-5)
        close(a.token_logits, b.token_logits)
        close(all_masks(a, 1), all_masks(b, 1))
    assert noised.denoising[0].token_logits.shape == (2, 8, TOKENS)


def test_groups_of_copies_do_not_see_each_other(monkeypatch) -> None:
    """What the noise does to one group changes nothing in the others."""
    from hipie.modeling.transformer_decoder import stuff_branch as stuff

    branch, features = make_branch(), make_features(1)
    text, targets = torch.randn(1, TOKENS, TEXT), [make_targets(2)]
    found = []
    for push in (0.0, 0.2):

        def move(boxes: Tensor, _negative: Tensor, push: float = push) -> Tensor:
            moved = boxes.clone()
            moved[:2] += push  # copies of the first group
            return moved

        monkeypatch.setattr(stuff, "jitter", lambda scale, move=move: move)
        out = run(branch, features, text, targets)
        assert out.denoising_layout.group_size == 2
        found.append(out.denoising[-1].boxes)
    assert (found[0][:, :2] - found[1][:, :2]).abs().min() > 1e-3
    close(found[0][:, 2:], found[1][:, 2:], 1e-6)


def test_unused_places_of_copies_change_nothing() -> None:
    """An image with fewer objects answers as it would alone, whatever its neighbour holds."""
    branch, features = make_branch(denoising_noise=0.0), make_features(2)
    text, few = torch.randn(2, TOKENS, TEXT), make_targets(1)
    alone = run(branch, [f[1:] for f in features], text[1:], [few])
    together = run(branch, features, text, [make_targets(4), few])
    assert together.denoising_layout.max_objects == 4
    close(together.layers[-1].boxes[1], alone.layers[-1].boxes[0], 1e-5)
    assert together.denoising[-1].boxes.isfinite().all()


@pytest.mark.parametrize("published", [False, True])
def test_the_frame_in_which_copies_start(published) -> None:
    """Half the canvas is padding: a box in 0..1 of the image is half as wide on the canvas."""
    branch = make_branch(denoising_noise=0.0, published_frame=published)
    target = make_targets(1, image_size=(64, 48))
    out = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT), [target])
    expected = target.boxes if published else target.boxes * torch.tensor([0.5, 1.0, 0.5, 1.0])
    close(out.denoising[0].boxes[0, :1], expected, 1e-5)


def test_without_objects_there_are_no_copies() -> None:
    out = run(make_branch(), make_features(1), torch.randn(1, TOKENS, TEXT), [make_targets(0)])
    assert out.denoising is None
    out = run(
        make_branch(denoising_queries=0),
        make_features(1),
        torch.randn(1, TOKENS, TEXT),
        [make_targets(2)],
    )
    assert out.denoising is None


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_reach_every_parameter(mixed: bool) -> None:
    branch = make_branch().train()
    targets = [make_targets(3), make_targets(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        out = run(branch, make_features(2), torch.randn(2, TOKENS, TEXT), targets)
        total = sum(StuffCriterion(num_points=64)(out, targets).values())
    assert total.dtype == torch.float32
    total.backward()
    assert [name for name, p in branch.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in branch.parameters())
    assert [name for name, p in branch.named_parameters() if not p.grad.any()] == []


def test_gradients_stop_where_queries_are_taken_over() -> None:
    """The decoder learns from its own queries; the pixels' proposals only from their own head."""
    branch = make_branch().train()
    out = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT))
    out.layers[-1].boxes.sum().backward()
    assert branch.decoder.proposal_projection.weight.grad is None
    out = run(branch, make_features(1), torch.randn(1, TOKENS, TEXT))
    out.proposals.boxes.sum().backward()
    assert branch.decoder.proposal_projection.weight.grad.any()


def test_bfloat16_stays_near() -> None:
    branch, features, text = make_branch(), make_features(1), torch.randn(1, TOKENS, TEXT)
    plain = run(branch, features, text)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(branch, features, text)
        masks = all_masks(mixed.layers[0], 0)
        points = mixed.layers[0].point_masks(0, torch.rand(7, 2))
        last = mixed.layers[-1]
    assert last.boxes.dtype == torch.float32
    assert masks.isfinite().all() and points.isfinite().all()
    shared = mixed.topk == plain.topk
    assert shared.float().mean() > 0.5
    assert (mixed.layers[0].boxes - plain.layers[0].boxes).abs()[shared].max() < 0.05


def test_an_expression_is_one_column() -> None:
    out = run(make_branch(), make_features(1), torch.randn(1, 1, TEXT))
    assert out.layers[-1].token_logits.shape == (1, 12, 1)


def test_images_smaller_than_the_queries_give_fewer() -> None:
    branch = make_branch(num_queries=50, width=64)
    out = run(branch, make_features(1, 32, 40), torch.randn(1, 3, TEXT))
    assert out.topk.shape == (1, 4 * 5 + 2 * 3 + 1 * 2 + 1)
    assert out.layers[-1].boxes.shape == (1, out.topk.shape[1], 4)
