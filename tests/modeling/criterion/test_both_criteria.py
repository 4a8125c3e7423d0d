"""Common properties of both criteria: descent, errors for values that are not finite, weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hipie.modeling.criterion.build import CRITERION_REGISTRY, build_criterion
from hipie.modeling.criterion.losses import STUFF_LOSSES, THING_LOSSES
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.structures import LayerOutput
from tests.decoder_outputs import MASK_SIZE

CRITERIA = {"thing": ThingCriterion, "stuff": StuffCriterion}
LOSSES = {"thing": THING_LOSSES, "stuff": STUFF_LOSSES}
PUBLISHED = {
    "thing": {"CLASS": 2.0, "BOX": 5.0, "GIOU": 2.0, "IOU": 1.0, "MASK": 5.0, "DICE": 5.0},
    "stuff": {"CLASS": 4.0, "BOX": 5.0, "GIOU": 2.0, "MASK": 5.0, "DICE": 5.0},
}
KINDS = [[True, False, True], [True, True]]


@pytest.fixture(params=CRITERIA)
def branch(request):
    """Name of the decoder in messages."""
    return request.param


@pytest.fixture
def batch(branch, make_batch, make_stuff_batch):
    """Two images with objects, and predictions of them."""
    return (make_batch if branch == "thing" else make_stuff_batch)(KINDS)


@pytest.fixture
def losses(branch, batch):
    """Compute the losses of the batch, with the same random points every time."""
    criterion = CRITERIA[branch](num_points=48)

    def compute():
        torch.manual_seed(5)
        return batch.run(criterion)

    return compute


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda o: o.layers[2].logits, "class logits of {} layer 2"),
        (lambda o: o.layers[0].boxes, "boxes of {} layer 0"),
        (lambda o: o.layers[1].iou_logits, "IoU logits of {} layer 1"),
        (lambda o: o.proposals.boxes, "boxes of the {} proposals"),
        (lambda o: o.proposals.logits, "class logits of the {} proposals"),
        (lambda o: o.denoising[1].boxes, "boxes of {} denoising layer 1"),
        (lambda o: o.denoising[0].logits, "class logits of {} denoising layer 0"),
    ],
)
def test_non_finite_prediction_is_named_and_its_losses_are_nan(
    branch, batch, losses, value, tensor, message, caplog
):
    """No error is raised in one process of several; the trainer skips the step in all."""
    tensor(batch.output).data[1, 3, 0] = value
    computed = losses()
    assert all(loss.isnan() for loss in computed.values())
    assert f"{message.format(branch)}: 1 of" in caplog.text
    assert "the first at index (1, 3, 0)" in caplog.text


def test_losses_of_non_finite_masks_are_nan(batch, losses):
    batch.output.layers[1].mask_embeddings.data.fill_(math.nan)
    computed = losses()
    assert any(loss.isnan() for name, loss in computed.items() if "_1" in name)


def test_non_finite_annotation_is_named(batch, losses):
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

    def recompute(layer: LayerOutput) -> LayerOutput:
        first = next(i for i, leaf in enumerate(batch.leaves) if leaf is layer.logits)
        boxes, masks = batch.leaves[first + 1], batch.leaves[first + 3]
        return replace(layer, boxes=boxes.sigmoid(), mask_embeddings=masks.flatten(2))

    batch.replace_layers(recompute)
    assert sum(losses().values()) < before


def test_too_few_points_are_refused(branch):
    with pytest.raises(ValueError, match="at least 2 points"):
        CRITERIA[branch](num_points=1)


def test_criteria_need_proposals(batch, losses):
    batch.output = replace(batch.output, proposals=None)
    with pytest.raises(ValueError, match="needs the proposals"):
        losses()


def test_mask_losses_of_one_object_have_the_published_weight(branch, batch, losses):
    """Undecided masks of an empty object cost ln 2 a point (3/16 of it in the focal loss)."""
    del batch.targets[1:]
    batch.replace_target(
        0,
        masks=torch.zeros_like(batch.targets[0].masks[:1]),
        **{
            name: getattr(batch.targets[0], name)[:1]
            for name in ("labels", "boxes", "is_thing", "positive_map")
        },
    )
    batch.text_mask = batch.text_mask[:1]

    def undecided(layer: LayerOutput) -> LayerOutput:
        first = layer.of_image(0)
        queries = first.boxes.shape[1]
        size = MASK_SIZE[0] * MASK_SIZE[1]
        return replace(first, mask_embeddings=torch.zeros(1, queries, size))

    batch.output = replace(batch.output, denoising=(), denoising_layout=None)
    batch.replace_layers(undecided)
    computed = losses()
    ending = "" if branch == "thing" else "_maskdino"
    dice = 1 - 1 / (0.5 * 48 + 1)
    focal = 0.75 * 0.5**2 * math.log(2)
    pointwise = focal if branch == "thing" else math.log(2)
    assert float(computed[f"loss_dice{ending}"]) == pytest.approx(5 * dice, rel=1e-5)
    assert float(computed[f"loss_mask{ending}"]) == pytest.approx(5 * pointwise, rel=1e-5)


def test_weights_multiply_every_term(branch, batch):
    """All weights are equal, so that the matching does not change."""
    computed = []
    for weight in (1.0, 3.0):
        torch.manual_seed(5)
        losses = replace(LOSSES[branch], weights=dict.fromkeys(LOSSES[branch].weights, weight))
        computed.append(batch.run(CRITERIA[branch](num_points=48, losses=losses)))
    once, thrice = computed
    assert len(once) > 10 and sum(once.values()) > 0
    for name, value in once.items():
        torch.testing.assert_close(thrice[name], 3 * value, msg=name)


def test_default_weights_are_the_published_ones(branch, tiny_cfg):
    assert LOSSES[branch].weights == PUBLISHED[branch]
    prefix = branch.upper()
    assert dict(tiny_cfg.MODEL.HIPIE.LOSS[f"{prefix}_WEIGHTS"]) == PUBLISHED[branch]
    assert tuple(tiny_cfg.MODEL.HIPIE.LOSS[f"{prefix}_TERMS"]) == LOSSES[branch].terms


def test_criteria_are_chosen_by_name(branch, batch, tiny_cfg):
    loss = tiny_cfg.MODEL.HIPIE.LOSS
    loss[f"{branch.upper()}_TERMS"] = ("class_loss",)
    loss[f"{branch.upper()}_MATCHER"] = "HungarianMatcher"
    loss.NUM_POINTS = 16
    criterion = build_criterion(CRITERIA[branch].__name__, tiny_cfg)
    assert {name.split("_")[1] for name in batch.run(criterion)} == {"ce"}
    assert type(criterion.matcher).__name__ == "HungarianMatcher"
    assert CRITERIA[branch].__name__ in CRITERION_REGISTRY
    with pytest.raises(KeyError, match="NoCriterion"):
        build_criterion("NoCriterion", tiny_cfg)
