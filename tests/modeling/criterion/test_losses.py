"""Loss functions against their formulas in double precision, and terms of known pairs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.criterion.losses import (
    LOSS_REGISTRY,
    LossConfig,
    MatchedLayer,
    box_l1_loss,
    dice,
    focal,
    focal_class_cost,
    mask_cross_entropy_loss,
    mask_dice_loss,
    pairwise_cross_entropy,
    pairwise_dice,
    token_focal,
    token_softmax_loss,
)
from hipie.modeling.matcher.matching import Matching
from hipie.structures import BatchedTargets, LayerOutput, MaskContext
from tests.decoder_outputs import StoredMasks

SIZE = (8, 8)


def by_formula(logits, targets):
    p = logits.double().sigmoid()
    t = targets.double()
    positive = 0.25 * (1 - p) ** 2 * -torch.log(p)
    negative = 0.75 * p**2 * -torch.log1p(-p)
    return t * positive + (1 - t) * negative


def test_focal_loss_follows_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 50, generator=generator)
    targets = torch.rand(4, 50, generator=generator)
    hard = (targets > 0.5).float()
    torch.testing.assert_close(
        focal(logits, hard).double(), by_formula(logits, hard), atol=1e-6, rtol=1e-5
    )


def test_token_focal_sums_real_tokens_only():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 5, generator=generator)
    positive = torch.rand(2, 3, 5, generator=generator) > 0.7
    text_mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    logits[1, :, 3:] = torch.nan
    first = by_formula(logits[0], positive[0]).sum()
    second = by_formula(logits[1, :, :3], positive[1, :, :3]).sum()
    computed = token_focal(logits, positive, text_mask)
    torch.testing.assert_close(computed.double(), first + second, atol=1e-5, rtol=1e-5)


def test_gradients_raise_logits_of_positive_tokens():
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    token_focal(logits, torch.tensor([[[True, False]]]), None).backward()
    assert logits.grad[0, 0, 0] < 0 < logits.grad[0, 0, 1]


def test_class_cost_is_the_mean_over_the_tokens_of_an_object():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    cost = focal_class_cost(logits, torch.tensor([[True, False, True]]))
    positive = by_formula(logits, torch.ones(1, 3))
    negative = by_formula(logits, torch.zeros(1, 3))
    expected = (positive - negative)[0, [0, 2]].mean()
    torch.testing.assert_close(cost[0, 0].double(), expected, atol=1e-6, rtol=1e-6)


def test_focal_loss_of_bfloat16_logits_is_float32():
    logits = torch.randn(3, 4).bfloat16()
    assert focal(logits, torch.zeros(3, 4)).dtype == torch.float32


def random_masks(rows, points, seed):
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(rows, points, generator=generator), torch.rand(
        rows, points, generator=generator
    )


def test_dice_follows_the_formula():
    logits, targets = random_masks(5, 80, 0)
    p, g = logits.double().sigmoid(), targets.double()
    expected = 1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)
    torch.testing.assert_close(dice(logits, targets).double(), expected, atol=1e-6, rtol=1e-5)


def test_pairwise_dice_has_the_row_wise_on_its_diagonal():
    logits, targets = random_masks(6, 70, 1)
    torch.testing.assert_close(pairwise_dice(logits, targets).diagonal(), dice(logits, targets))


def test_pairwise_cross_entropy_equals_torch():
    logits, targets = random_masks(4, 60, 2)
    logits[0, :3] = torch.tensor([300.0, -300.0, 0.0])
    expected = torch.stack(
        [
            F.binary_cross_entropy_with_logits(
                logits.double(), t.double().expand_as(logits), reduction="none"
            ).mean(1)
            for t in targets
        ],
        dim=1,
    )
    computed = pairwise_cross_entropy(logits, targets)
    torch.testing.assert_close(computed.double(), expected, atol=1e-5, rtol=1e-5)


def test_dice_of_a_perfect_and_of_an_inverted_mask():
    target = torch.tensor([[1.0] * 40 + [0.0] * 40])
    sure = 50 * (2 * target - 1)
    assert dice(sure, target) < 1e-6
    assert dice(-sure, target) > 0.98


def test_dice_of_an_empty_mask_has_a_gradient():
    logits = torch.zeros(1, 30, requires_grad=True)
    dice(logits, torch.zeros(1, 30)).sum().backward()
    assert (logits.grad > 0).all()


@pytest.fixture
def mask_head() -> StoredMasks:
    """Keeps the queries whose masks were computed."""
    return StoredMasks(SIZE)


@pytest.fixture
def matched(mask_head):
    """One image with eight queries, whose masks are undecided; `matched(query, ...)`."""
    layer = LayerOutput(
        boxes=torch.full((1, 8, 4), 0.5, requires_grad=True),
        logits=torch.zeros(1, 8, 2),
        mask_embeddings=torch.zeros(1, 8, 64, requires_grad=True),
    )

    def match(*queries: int, **options) -> MatchedLayer:
        count = len(queries)
        query_index = torch.tensor(queries, dtype=torch.long)
        targets = BatchedTargets(
            boxes=torch.zeros(count, 4),
            is_thing=torch.ones(count, dtype=torch.bool),
            positive_map=torch.ones(count, 2, dtype=torch.bool),
            masks=torch.zeros(count, *SIZE, dtype=torch.bool),
            starts=(0, count),
        )
        return MatchedLayer(
            layer=layer,
            matching=Matching.concatenate([(query_index, torch.arange(count))]),
            targets=targets,
            positive_map=targets.positive_map,
            masks=MaskContext(mask_head, (torch.zeros(1, *SIZE),)),
            num_points=40,
            **options,
        )

    return match


def test_masks_of_matched_queries_only_are_computed(matched, mask_head):
    mask_cross_entropy_loss(matched(0, 3, 1, 2))
    assert mask_head.queries == [0, 3, 1, 2]


def test_mask_terms_share_their_points(matched, mask_head):
    layer = matched(1, 4)
    mask_cross_entropy_loss(layer)
    mask_head.queries = []
    mask_dice_loss(layer)
    assert mask_head.queries == []


def test_mask_terms_are_means_over_points_and_sums_over_pairs(matched):
    layer = matched(1, 4, 6)
    assert mask_cross_entropy_loss(layer).item() == pytest.approx(3 * math.log(2))
    assert mask_dice_loss(layer).item() == pytest.approx(3 * (1 - 1 / (40 / 2 + 1)))


def test_mask_terms_without_pairs_are_zero_with_a_gradient(matched):
    layer = matched()
    terms = [mask_cross_entropy_loss(layer), mask_dice_loss(layer)]
    assert all(term == 0 for term in terms)
    sum(terms).backward()
    assert torch.equal(layer.layer.mask_embeddings.grad, torch.zeros(1, 8, 64))


def test_token_softmax_is_the_cross_entropy_with_soft_targets(matched):
    """Of the pairs, over real tokens; an object that the caption does not name gives none."""
    torch.manual_seed(0)
    logits = torch.randn(1, 8, 6, requires_grad=True)
    positive = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0] * 6]).bool()
    layer = replace(
        matched(5, 2, 7),
        layer=LayerOutput(boxes=torch.zeros(1, 8, 4), logits=logits),
        positive_map=positive,
        text_mask=torch.tensor([[1, 1, 1, 1, 1, 0]]).bool(),
    )
    value = token_softmax_loss(layer)
    target = positive[:2, :5].double() / positive[:2].sum(1, keepdim=True)
    expected = F.cross_entropy(logits[0, [5, 2], :5].double(), target, reduction="sum")
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert torch.equal(logits.grad[0].abs().sum(1) > 0, torch.tensor([0, 0, 1, 0, 0, 1, 0, 0]) > 0)
    assert torch.equal(logits.grad[..., 5], torch.zeros(1, 8))


def test_token_softmax_of_an_expression_and_without_pairs_is_zero(matched):
    one = LayerOutput(boxes=torch.zeros(1, 8, 4), logits=torch.randn(1, 8, 1))
    expression = replace(matched(3), layer=one, positive_map=torch.ones(1, 1).bool())
    assert token_softmax_loss(expression) == 0
    assert token_softmax_loss(matched()) == 0


def test_box_terms_leave_out_pairs_without_a_box(matched):
    every = box_l1_loss(matched(1, 4))
    first = box_l1_loss(matched(1, 4, has_box=torch.tensor([True, False])))
    assert [every.item(), first.item()] == pytest.approx([4.0, 2.0])


def test_a_registered_term_is_computed_and_weighted(matched):
    @LOSS_REGISTRY.register_term("middle", weight_key="MIDDLE", group="box")
    def middle_loss(matched: MatchedLayer) -> torch.Tensor:
        return matched.sum_over_boxes(matched.paired_boxes[0][:, 0])

    @LOSS_REGISTRY.register_term("absent", weight_key="ABSENT", group="other")
    def absent_loss(_matched: MatchedLayer) -> None:
        return None

    try:
        terms = ("middle_loss", "absent_loss")
        plain = LossConfig(terms).compute(matched(0, 1))
        assert {term.name: value.item() for term, value in plain.items()} == {"middle": 1.0}
        weighted = LossConfig(terms, {"MIDDLE": 3.0}).compute(matched(0, 1))
        assert [value.item() for value in weighted.values()] == [3.0]
        assert LOSS_REGISTRY.group_of("middle") == "box"
        assert LOSS_REGISTRY.group_of("giou") == "box" and LOSS_REGISTRY.group_of("loss") is None
    finally:
        del LOSS_REGISTRY._obj_map["middle_loss"], LOSS_REGISTRY._obj_map["absent_loss"]
