"""Loss terms of known pairs: whose masks are drawn, and values done by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.criterion.losses import mask_sums
from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.matcher.matching import Matching

SIZE = (8, 8)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


@pytest.fixture
def prediction() -> LayerPrediction:
    """One image, eight queries; `asked` keeps the queries whose masks were drawn."""

    def masks(image: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        masks.asked = query.tolist()
        return torch.zeros(len(query), *SIZE)

    return LayerPrediction(
        token_logits=torch.zeros(1, 8, 2),
        boxes=torch.full((1, 8, 4), 0.5, requires_grad=True),
        iou_logits=None,
        masks=masks,
        point_masks=None,
    )


def pairs(*queries: int) -> Matching:
    return Matching.join([(torch.tensor(queries, dtype=torch.long), torch.arange(len(queries)))])


def sums(prediction: LayerPrediction, matching: Matching, **more: int):
    objects = torch.zeros(len(matching), *SIZE, dtype=torch.bool)
    return mask_sums(prediction, matching, objects, num_points=40, pointwise=cross_entropy, **more)


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_masks_are_those_of_the_matched_queries(prediction, first):
    sums(prediction, pairs(0, 3, 1, 2), first_query=first)
    assert prediction.masks.asked == [first, first + 3, first + 1, first + 2]


def test_terms_are_means_over_points_and_sums_over_pairs(prediction):
    pointwise, dice = sums(prediction, pairs(1, 4, 6))
    assert float(pointwise) == pytest.approx(3 * math.log(2))
    assert float(dice) == pytest.approx(3 * (1 - 1 / (40 / 2 + 1)))


def test_no_pair_is_zero_with_a_gradient(prediction):
    terms = sums(prediction, pairs())
    assert all(term == 0 for term in terms)
    sum(terms).backward()
    assert torch.equal(prediction.boxes.grad, torch.zeros(1, 8, 4))
