"""CutLER's drop loss: weights of the released program, and gradients of the criteria."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.errors import InputError
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie_unsupervised.modeling.drop_loss import (
    DropLossStuffCriterion,
    DropLossThingCriterion,
    drop_weights,
)

TWO = [[True, True], [True]]
CRITERIA = {
    "things": (ThingCriterion, DropLossThingCriterion),
    "stuff": (StuffCriterion, DropLossStuffCriterion),
}

pytest_plugins = ["tests.decoder_outputs"]


def test_weights_equal_those_of_the_released_program(published):
    boxes, objects = (torch.from_numpy(published[f"drop_{k}"]) for k in ("boxes", "objects"))
    weights = drop_weights(boxes, objects, 0.01)
    np.testing.assert_array_equal(weights.numpy(), published["drop_weights"])
    assert 0 < int(weights.sum()) < len(weights)


def test_without_objects_all_predictions_count():
    assert drop_weights(torch.rand(5, 4), torch.zeros(0, 4), 0.01).tolist() == [1.0] * 5


def _gradients(batch, criterion) -> torch.Tensor:
    for leaf in batch.leaves:
        leaf.grad = None
    torch.manual_seed(0)
    losses = batch.run(criterion)
    sum(value for name, value in losses.items() if name.startswith("loss_ce")).backward()
    return batch.output.layers[-1].logits.grad.abs().sum(-1)


@pytest.mark.parametrize("branch", CRITERIA)
def test_far_unmatched_queries_have_no_gradient_and_all_others_their_own(
    make_batch, make_stuff_batch, branch
):
    batch = (make_stuff_batch if branch == "stuff" else make_batch)(TWO)
    plain, dropping = (
        kind(48) if kind in (StuffCriterion, ThingCriterion) else kind(num_points=48)
        for kind in CRITERIA[branch]
    )
    dropping.drop_iou = 0.3
    before, after = _gradients(batch, plain), _gradients(batch, dropping)
    dropped = after == 0
    assert 0 < int(dropped.sum()) < dropped.numel() and (before > 0).all()
    torch.testing.assert_close(after[~dropped], before[~dropped])
    dropping.drop_iou = -1.0
    torch.testing.assert_close(_gradients(batch, dropping), before)


@pytest.mark.parametrize("branch", CRITERIA)
def test_matched_queries_are_never_dropped(make_batch, make_stuff_batch, branch):
    batch = (make_stuff_batch if branch == "stuff" else make_batch)(TWO)
    criterion = CRITERIA[branch][1](num_points=48, drop_iou=0.999)
    gradients = _gradients(batch, criterion)
    matched = (gradients > 0).sum(1).tolist()
    assert matched[0] >= 2 and matched[1] >= 1


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_that_is_no_iou_is_an_error(dino_cfg, threshold):
    dino_cfg.MODEL.UNSUPERVISED.DROP_LOSS_IOU = threshold
    for _, kind in CRITERIA.values():
        with pytest.raises(InputError, match="DROP_LOSS_IOU is"):
            kind.from_config(dino_cfg)
