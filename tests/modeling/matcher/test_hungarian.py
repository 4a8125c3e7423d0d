"""Optimal assignment against brute force, costs term by term, and costs that are not finite."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert, generalized_box_iou

from hipie.modeling.matcher.hungarian import CostWeights, assign, matching_cost

PUBLISHED = Path(__file__).parents[2] / "data" / "matching_published.npz"


def random_case(seed, queries=6, number=3, points=20):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(queries, 7, generator=generator)
    boxes = torch.rand(queries, 4, generator=generator) * 0.5 + 0.2
    objects = torch.rand(number, 4, generator=generator) * 0.5 + 0.2
    positive = torch.rand(number, 7, generator=generator) > 0.5
    positive[:, 2] = True
    masks = 3 * torch.randn(queries, points, generator=generator)
    point_targets = torch.rand(number, points, generator=generator)
    return logits, boxes, objects, positive, masks, point_targets


def test_published_pairs():
    with np.load(PUBLISHED) as stored:
        cost = matching_cost(
            torch.from_numpy(stored["ota_logits"][0]),
            torch.from_numpy(stored["ota_boxes"][0]),
            torch.from_numpy(stored["ota_gt"]),
            torch.from_numpy(stored["ota_positive_map"]).bool(),
            CostWeights(),
        )
        query, chosen = assign(cost)
        assert query.tolist() == stored["hungarian_query"].tolist()
        assert chosen.tolist() == stored["hungarian_target"].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
def test_no_assignment_is_cheaper(seed, queries, number):
    cost = torch.randn(queries, number, generator=torch.Generator().manual_seed(seed))
    query, chosen = assign(cost)
    assert len(query) == min(queries, number)
    assert len(set(chosen.tolist())) == len(query)
    if queries >= number:
        options = itertools.permutations(range(queries), number)
        best = min(sum(cost[q, j].item() for j, q in enumerate(o)) for o in options)
    else:
        options = itertools.permutations(range(number), queries)
        best = min(sum(cost[q, j].item() for q, j in enumerate(o)) for o in options)
    assert cost[query, chosen].sum().item() == pytest.approx(best, abs=1e-5)


def test_cost_equals_the_sum_of_its_terms():
    logits, boxes, objects, positive, masks, point_targets = random_case(1)
    weights = CostWeights(class_=4.0, box=5.0, giou=2.0, mask=5.0, dice=5.0)
    cost = matching_cost(
        logits, boxes, objects, positive, weights, point_logits=masks, point_targets=point_targets
    )
    probability = logits.double().sigmoid()
    expected = torch.zeros(6, 3, dtype=torch.double)
    for q, j in itertools.product(range(6), range(3)):
        p = probability[q, positive[j]]
        as_positive = (
            F.binary_cross_entropy(p, torch.ones_like(p), reduction="none") * 0.25 * (1 - p) ** 2
        )
        as_negative = F.binary_cross_entropy(p, torch.zeros_like(p), reduction="none") * 0.75 * p**2
        m, g = masks[q].double(), point_targets[j].double()
        s = m.sigmoid()
        expected[q, j] = (
            4 * (as_positive - as_negative).mean()
            + 5 * (boxes[q].double() - objects[j].double()).abs().sum()
            + 5 * F.binary_cross_entropy_with_logits(m, g)
            + 5 * (1 - (2 * (s * g).sum() + 1) / (s.sum() + g.sum() + 1))
        )
    corners = [box_convert(b.double(), "cxcywh", "xyxy") for b in (boxes, objects)]
    expected -= 2 * generalized_box_iou(*corners)
    torch.testing.assert_close(cost.double(), expected, atol=2e-5, rtol=1e-5)


def test_box_cost_of_objects_without_boxes_is_the_mean():
    logits, boxes, objects, positive, _, _ = random_case(2)
    weights = CostWeights(class_=0.0, box=5.0, giou=2.0)
    has_box = torch.tensor([True, False, True])
    cost = matching_cost(logits, boxes, objects, positive, weights, has_box=has_box)
    assert torch.allclose(cost[:, 1], cost[:, has_box].mean().expand(6))
    none = torch.zeros(3, dtype=torch.bool)
    cost = matching_cost(logits, boxes, objects, positive, weights, has_box=none)
    assert torch.equal(cost, torch.zeros(6, 3))


def test_class_cost_of_a_name_outside_the_caption_is_zero():
    logits, boxes, objects, positive, _, _ = random_case(3)
    positive[1] = False
    cost = matching_cost(logits, boxes, objects, positive, CostWeights(box=0.0, giou=0.0))
    assert torch.equal(cost[:, 1], torch.zeros(6))


def test_extreme_logits_and_flat_boxes_have_finite_costs():
    logits, boxes, objects, positive, masks, point_targets = random_case(4)
    logits[0], logits[1] = 50000.0, -50000.0
    masks[0], masks[1] = 1e4, -1e4
    boxes[2, 2:] = objects[0, 2:] = 0.0
    boxes[2, :2] = objects[0, :2]
    cost = matching_cost(
        logits,
        boxes,
        objects,
        positive,
        CostWeights(mask=5.0, dice=5.0),
        point_logits=masks,
        point_targets=point_targets,
    )
    assert cost.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 5), st.integers(0, 2))
def test_pairs_without_a_finite_cost_are_avoided(value, query, chosen):
    cost = torch.zeros(6, 3)
    cost[query, chosen] = value
    assert (query, chosen) not in zip(*(index.tolist() for index in assign(cost)), strict=True)
    queries, _ = assign(torch.full((6, 3), value))
    assert len(queries.unique()) == 3


def test_no_objects_give_no_pairs():
    query, chosen = assign(torch.zeros(5, 0))
    assert len(query) == len(chosen) == 0 and query.dtype == torch.long


def test_costs_are_float32_under_autocast():
    case = random_case(5)
    plain = matching_cost(*case[:4], CostWeights(), point_logits=case[4], point_targets=case[5])
    with torch.autocast("cpu", torch.bfloat16):
        cost = matching_cost(*case[:4], CostWeights(), point_logits=case[4], point_targets=case[5])
    assert torch.equal(plain, cost)
