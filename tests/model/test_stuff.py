"""The stuff branch as a whole, at tiny widths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.model import stuff as stuff_module
from hipie.model import stuff_decoder
from hipie.model.stuff import StuffBranch, StuffOutput
from hipie.training.predictions import LayerPrediction
from hipie.training.stuff_criterion import StuffCriterion
from hipie.training.targets import Targets

CHANNELS = (5, 6, 7)
TOKENS, TEXT = 6, 10


def make_branch(**options) -> StuffBranch:
    """Width 32; what a new branch starts at zero is random, so that all has an effect."""
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
            nn.init.normal_(parameter, std=0.2)
    nn.init.uniform_(branch.decoder.norm.weight, 0.5, 1.5)
    nn.init.normal_(branch.decoder.norm.bias, std=0.5)
    return branch.eval()


def make_features(batch: int, height: int = 64, width: int = 96) -> list[Tensor]:
    sizes = [
        (c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (8, 16, 32), strict=True)
    ]
    return [torch.randn(batch, *size) for size in sizes]


def make_targets(count: int, image_size: tuple[int, int] = (64, 96)) -> Targets:
    return Targets(
        labels=torch.arange(count) % TOKENS,
        boxes=torch.cat([0.3 + 0.4 * torch.rand(count, 2), 0.2 * torch.rand(count, 2) + 0.1], 1),
        masks=torch.rand(count, 64, 96) > 0.5,
        is_thing=torch.zeros(count, dtype=torch.bool),
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


def all_masks(layer: LayerPrediction) -> Tensor:
    """[B, N, h, w]."""
    batch, count = layer.boxes.shape[:2]
    picture = torch.arange(batch).repeat_interleave(count)
    masks = layer.masks(picture, torch.arange(count).repeat(batch))
    return masks.unflatten(0, (batch, count))


def assert_same(a: LayerPrediction, b: LayerPrediction, rows_of_b: object = slice(None)) -> None:
    """Two predictions agree in all they say."""
    torch.testing.assert_close(a.boxes, b.boxes[rows_of_b], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.token_logits, b.token_logits[rows_of_b], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(all_masks(a), all_masks(b)[rows_of_b], atol=1e-4, rtol=1e-4)


def test_shapes_of_inference() -> None:
    out = run(make_branch(), make_features(2), torch.randn(2, TOKENS, TEXT))
    assert out.topk.shape == (2, 12)
    assert out.denoising is None
    assert out.denoising_layout is None
    assert out.mask_features.shape == (2, 32, 16, 24)
    assert len(out.layers) == 3
    for layer in (*out.layers, out.proposals):
        assert layer.token_logits.shape == (2, 12, TOKENS)
        assert layer.boxes.shape == (2, 12, 4)
        assert layer.iou_logits is None
        assert layer.masks(torch.tensor([0, 1, 1]), torch.tensor([4, 0, 11])).shape == (3, 16, 24)
        assert layer.point_masks(1, torch.rand(7, 2)).shape == (12, 7)


def test_masks_are_dot_products_of_perceptron_and_features() -> None:
    branch = make_branch()
    states: list[Tensor] = []
    branch.decoder.register_forward_hook(lambda _m, _a, out: states.extend(out.queries))
    with torch.no_grad():
        out = run(branch, make_features(3), torch.randn(3, TOKENS, TEXT))
        for i, (layer, queries) in enumerate(zip(out.layers, states, strict=True)):
            x = (branch.decoder.norm(queries) if i else queries).double()
            for j, linear in enumerate(branch.mask_embedding.layers):
                x = (x if j == 0 else x.clamp(min=0)) @ linear.weight.double().T
                x = x + linear.bias.double()
            full = torch.einsum("bnc,bchw->bnhw", x, out.mask_features.double())
            # Pictures out of order, repeated, and one left out.
            picture, query = torch.tensor([2, 0, 2, 0, 2]), torch.tensor([11, 3, 0, 3, 5])
            found = layer.masks(picture, query)
            torch.testing.assert_close(found.double(), full[picture, query], atol=1e-4, rtol=1e-4)
            assert layer.masks(picture[:0], query[:0]).shape == (0, 16, 24)


def test_masks_at_points_are_samples_of_whole_masks() -> None:
    out = run(make_branch(), make_features(2), torch.randn(2, TOKENS, TEXT))
    layer = out.layers[-1]
    # Beyond the outermost pixel centres, and the canvas, all around is zero.
    points = torch.cat([torch.rand(40, 2) * 1.2 - 0.1, torch.tensor([[0.0, 0.0], [1.0, 1.0]])])
    whole = all_masks(layer)
    for picture in range(2):
        found = layer.point_masks(picture, points)
        grid = (2 * points - 1)[None, None]
        expected = F.grid_sample(whole[picture][None], grid, align_corners=False)[0, :, 0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    x, y = 5, 11
    centre = torch.tensor([[(x + 0.5) / 24, (y + 0.5) / 16]])
    exact = layer.point_masks(1, centre)[:, 0]
    torch.testing.assert_close(exact, whole[1, :, y, x], atol=1e-5, rtol=1e-4)


def test_every_state_has_a_class_head_of_its_own() -> None:
    branch, features = make_branch(), make_features(1)
    text = torch.randn(1, TOKENS, TEXT)
    assert len(branch.class_heads) == 4
    before = run(branch, features, text)
    # Initial, after layer 1, proposals, final.
    places = [
        lambda out: out.layers[0],
        lambda out: out.layers[1],
        lambda out: out.proposals,
        lambda out: out.layers[2],
    ]
    for chosen, head in enumerate(branch.class_heads):
        head.bias0.data += 1
        after = run(branch, features, text)
        head.bias0.data -= 1
        for i, place in enumerate(places):
            moved = place(after).token_logits - place(before).token_logits
            torch.testing.assert_close(
                moved, torch.full_like(moved, float(i == chosen)), atol=1e-4, rtol=0
            )


def test_words_decide_classes_and_nothing_else() -> None:
    branch, features = make_branch(), make_features(1)
    text, order = torch.randn(1, TOKENS, TEXT), torch.tensor([3, 1, 5, 0, 2, 4])
    first, second = run(branch, features, text), run(branch, features, text[:, order])
    other = run(branch, features, torch.randn(1, 2, TEXT))
    for a, b, c in zip(first.layers, second.layers, other.layers, strict=True):
        torch.testing.assert_close(b.token_logits, a.token_logits[..., order])
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.boxes, c.boxes)
        assert torch.equal(all_masks(a), all_masks(c))
    assert other.layers[-1].token_logits.shape == (1, 12, 2)


def test_pictures_of_a_batch_do_not_mix() -> None:
    branch, features = make_branch(), make_features(3)
    text = torch.randn(3, TOKENS, TEXT)
    together = run(branch, features, text)
    for i in range(3):
        one = slice(i, i + 1)
        alone = run(branch, [f[one] for f in features], text[one])
        assert torch.equal(alone.topk, together.topk[one])
        for a, b in zip(alone.layers, together.layers, strict=True):
            assert_same(a, b, one)


def test_rank_only_permutes(monkeypatch) -> None:
    branch, features = make_branch(), make_features(2)
    text, order = torch.randn(2, TOKENS, TEXT), torch.randperm(12)
    first = run(branch, features, text)
    usual = stuff_decoder.top_rows
    monkeypatch.setattr(stuff_decoder, "top_rows", lambda s, n: usual(s, n)[:, order])
    second = run(branch, features, text)
    assert torch.equal(second.topk, first.topk[:, order])
    rows = (slice(None), order)
    for a, b in zip(
        (*second.layers, second.proposals), (*first.layers, first.proposals), strict=True
    ):
        assert_same(a, b, rows)


def test_denoising_leaves_the_matching_queries_alone() -> None:
    branch, features = make_branch(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT)
    plain = run(branch, features, text)
    noised = run(branch, features, text, [make_targets(2), make_targets(1)])
    layout = noised.denoising_layout
    assert (layout.num_groups, layout.max_objects, layout.negatives) == (4, 2, False)
    assert noised.denoising[0].token_logits.shape == (2, 8, TOKENS)
    assert len(noised.denoising) == len(noised.layers) == 3
    for a, b in zip(plain.layers, noised.layers, strict=True):
        assert_same(a, b)


def test_denoising_groups_do_not_see_each_other(monkeypatch) -> None:
    branch, features = make_branch(), make_features(1)
    text, targets = torch.randn(1, TOKENS, TEXT), [make_targets(2)]

    def predictions(shift_of_last_group: float) -> list[LayerPrediction]:
        def move(boxes: Tensor, _negative: Tensor) -> Tensor:
            moved = boxes + 0.02
            moved[-2:] += shift_of_last_group
            return moved

        monkeypatch.setattr(stuff_module, "jitter", lambda _scale: move)
        return run(branch, features, text, targets).denoising

    for a, b in zip(predictions(0.0), predictions(0.1), strict=True):
        torch.testing.assert_close(a.boxes[:, :6], b.boxes[:, :6], atol=1e-6, rtol=0)
        torch.testing.assert_close(a.token_logits[:, :6], b.token_logits[:, :6])
        assert (a.boxes[:, 6:] - b.boxes[:, 6:]).abs().max() > 0.01


@pytest.mark.parametrize("published", [False, True])
def test_denoising_boxes_are_those_of_the_canvas(published: bool) -> None:
    branch = make_branch(denoising_noise=0.0, published_frame=published, denoising_queries=3)
    targets = [make_targets(2, image_size=(32, 72)), make_targets(3)]
    start = run(branch, make_features(2), torch.randn(2, TOKENS, TEXT), targets).denoising[0].boxes
    scale = torch.ones(4) if published else torch.tensor([0.75, 0.5, 0.75, 0.5])
    torch.testing.assert_close(start[0, :2], targets[0].boxes * scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(start[1], targets[1].boxes, atol=1e-5, rtol=0)


def test_denoising_queries_are_filled_with_the_pooled_words() -> None:
    branch, features = make_branch(), make_features(2)
    seen: list[Tensor] = []
    branch.decoder.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))
    pooled = torch.randn(2, 1, TEXT)
    out = branch(
        features,
        text_for_classes=torch.randn(2, TOKENS, TEXT),
        pooled_text=pooled,
        targets=[make_targets(1), make_targets(2)],
    )
    noised = seen[0][:, : out.denoising_layout.num_queries]
    filler = branch.denoising_content(pooled)
    torch.testing.assert_close(noised[1], filler[1].expand(8, -1))
    # The picture with one object leaves every second place empty.
    torch.testing.assert_close(noised[0, ::2], filler[0].expand(4, -1))
    assert not noised[0, 1::2].any()


def test_no_objects_no_denoising() -> None:
    branch, text = make_branch(), torch.randn(1, TOKENS, TEXT)
    assert run(branch, make_features(1), text, [make_targets(0)]).denoising is None
    without = make_branch(denoising_queries=0)
    assert run(without, make_features(1), text, [make_targets(2)]).denoising_layout is None


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_reach_every_parameter_and_the_features(mixed: bool) -> None:
    branch, features = make_branch().train(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT, requires_grad=True)
    for one in features:
        one.requires_grad_()
    targets = [make_targets(3), make_targets(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        out = run(branch, features, text, targets)
        total = sum(StuffCriterion(num_points=64)(out, targets).values())
    assert total.dtype == torch.float32
    total.backward()
    reached = {name: one.grad for name, one in branch.named_parameters()}
    reached |= {f"res{i + 3}": one.grad for i, one in enumerate(features)} | {"text": text.grad}
    assert [name for name, grad in reached.items() if grad is None] == []
    assert [name for name, grad in reached.items() if not grad.isfinite().all()] == []
    assert [name for name, grad in reached.items() if not grad.any()] == []


def test_bfloat16_keeps_geometry_and_logits_in_float32() -> None:
    branch, features = make_branch(), make_features(2)
    text = torch.randn(2, TOKENS, TEXT)
    exact = run(branch, features, text)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = run(branch, features, text, [make_targets(2), make_targets(0)])
    for layer in (*rough.layers, *rough.denoising, rough.proposals):
        assert layer.boxes.dtype == layer.token_logits.dtype == torch.float32
        assert ((layer.boxes >= 0) & (layer.boxes <= 1)).all()
        assert all_masks(layer).isfinite().all()
    difference = rough.mask_features.float() - exact.mask_features
    assert difference.std() < 0.05 * exact.mask_features.std()


def test_bfloat16_moves_no_point() -> None:
    features = make_features(1, 512, 1024)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = run(make_branch(), features, torch.randn(1, TOKENS, TEXT))
        layer, points = out.layers[-1], torch.rand(50, 2)
        found = layer.point_masks(0, points)
    assert found.dtype == torch.float32
    whole = all_masks(layer).float()[0]
    expected = F.grid_sample(whole[None], (2 * points - 1)[None, None], align_corners=False)
    torch.testing.assert_close(found, expected[0, :, 0], atol=0.02, rtol=0.02)


def test_pictures_smaller_than_the_queries_give_fewer() -> None:
    branch = make_branch(num_queries=50, width=64)
    out = run(branch, make_features(1, 32, 40), torch.randn(1, 3, TEXT))
    assert out.topk.shape == (1, 4 * 5 + 2 * 3 + 1 * 2 + 1)
    assert out.layers[-1].boxes.shape == (1, out.topk.shape[1], 4)
