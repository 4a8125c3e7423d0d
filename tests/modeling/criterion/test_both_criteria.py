"""What the criteria of both branches do alike: they descend, and name what is not finite."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from hipie.modeling.criterion.checks import NonFiniteError
from hipie.modeling.criterion.stuff_criterion import StuffCriterion, StuffWeights
from hipie.modeling.criterion.thing_criterion import ThingCriterion, ThingWeights

CRITERIA = {"thing": ThingCriterion, "stuff": StuffCriterion}
WEIGHTS = {"thing": ThingWeights, "stuff": StuffWeights}
# Class, box and giou; quality, for things alone; mask and dice.
PUBLISHED = {"thing": (2.0, 5.0, 2.0, 1.0, 5.0, 5.0), "stuff": (4.0, 5.0, 2.0, 5.0, 5.0)}
KINDS = [[True, False, True], [True, True]]


@pytest.fixture(params=CRITERIA)
def branch(request):
    """The name that messages give to the branch."""
    return request.param


@pytest.fixture
def batch(branch, make_batch, make_stuff_batch):
    """Two images with objects, and predictions of them."""
    return (make_batch if branch == "thing" else make_stuff_batch)(KINDS)


@pytest.fixture
def losses(branch, batch):
    """Takes the losses of the batch, at the same random points every time."""
    criterion = CRITERIA[branch](num_points=48)

    def take():
        torch.manual_seed(5)
        return criterion(batch.output, batch.targets, batch.text_mask)

    return take


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("where", "words"),
    [
        (lambda o: o.layers[2].token_logits, "class logits of {} layer 2"),
        (lambda o: o.layers[0].boxes, "boxes of {} layer 0"),
        (lambda o: o.layers[1].iou_logits, "quality logits of {} layer 1"),
        (lambda o: o.proposals.boxes, "boxes of the {} proposals"),
        (lambda o: o.proposals.token_logits, "class logits of the {} proposals"),
        (lambda o: o.denoising[1].boxes, "boxes of {} denoising layer 1"),
        (lambda o: o.denoising[0].token_logits, "class logits of {} denoising layer 0"),
    ],
)
def test_what_is_not_finite_is_named(branch, batch, losses, value, where, words):
    where(batch.output).data[1, 3, 0] = value
    with pytest.raises(NonFiniteError, match=words.format(branch)):
        losses()


def test_masks_that_are_not_finite_are_named(branch, batch, losses):
    layer = batch.output.layers[1]
    for name in ("masks", "point_masks"):
        drawn = getattr(layer, name)
        setattr(layer, name, lambda *at, drawn=drawn: drawn(*at) * math.nan)
    with pytest.raises(NonFiniteError, match=f"masks of {branch} layer 1"):
        losses()


def test_a_broken_annotation_is_named(batch, losses):
    batch.targets[1].boxes[0, 2] = math.nan
    with pytest.raises(ValueError, match="image 1"):
        losses()


def test_a_step_against_the_gradient_lowers_the_loss(batch, losses):
    before = sum(losses().values())
    gradients = torch.autograd.grad(before, batch.leaves, allow_unused=True)
    with torch.no_grad():
        for leaf, gradient in zip(batch.leaves, gradients, strict=True):
            if gradient is not None:
                leaf -= 1e-3 * gradient
    for layer in [*batch.output.layers, batch.output.proposals, *batch.output.denoising]:
        index = next(i for i, leaf in enumerate(batch.leaves) if leaf is layer.token_logits)
        layer.boxes = batch.leaves[index + 1].sigmoid()
    assert sum(losses().values()) < before


def test_too_few_points_are_refused(branch):
    with pytest.raises(ValueError, match="at least 2 points"):
        CRITERIA[branch](num_points=1)


def test_masks_weigh_as_published_and_one_object_counts_once(branch, batch, losses):
    """Undecided masks where nothing is: ln 2 a point (weighed by 3/4 and 1/2 squared in the focal
    loss), and a dice loss that is known; each five times, of one object."""
    del batch.targets[1:]
    alone = batch.targets[0]
    alone.masks = torch.zeros_like(alone.masks[:1])
    for name in ("labels", "boxes", "is_thing", "positive_map"):
        setattr(alone, name, getattr(alone, name)[:1])
    output = batch.output
    batch.text_mask = batch.text_mask[:1]
    output.denoising = None
    for layer in [*output.layers, output.proposals]:
        layer.token_logits, layer.boxes = layer.token_logits[:1], layer.boxes[:1]
        layer.iou_logits = layer.iou_logits[:1]
        layer.masks = lambda image, query: torch.zeros(len(query), 16, 24)
        queries = layer.boxes.shape[1]
        layer.point_masks = lambda _, points, n=queries: torch.zeros(n, len(points))
    found = losses()
    ending = "" if branch == "thing" else "_maskdino"
    dice = 1 - 1 / (0.5 * 48 + 1)
    focal = 0.75 * 0.5**2 * math.log(2)
    pointwise = focal if branch == "thing" else math.log(2)
    assert float(found[f"loss_dice{ending}"]) == pytest.approx(5 * dice, rel=1e-5)
    assert float(found[f"loss_mask{ending}"]) == pytest.approx(5 * pointwise, rel=1e-5)


def test_weights_multiply_every_term(branch, batch):
    """All alike, so that the matching stays what it is."""
    kind = WEIGHTS[branch]
    found = []
    for weight in (1.0, 3.0):
        torch.manual_seed(5)
        weights = kind(*[weight] * len(fields(kind)))
        criterion = CRITERIA[branch](num_points=48, weights=weights)
        found.append(criterion(batch.output, batch.targets, batch.text_mask))
    once, thrice = found
    assert len(once) > 10 and sum(once.values()) > 0
    for name, value in once.items():
        torch.testing.assert_close(thrice[name], 3 * value, msg=name)


def test_weights_are_the_published_ones(branch):
    assert WEIGHTS[branch]() == WEIGHTS[branch](*PUBLISHED[branch])
