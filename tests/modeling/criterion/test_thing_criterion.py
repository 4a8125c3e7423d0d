"""Thing criterion: names, batches without things, gradients, frames of boxes and masks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hipie.modeling.criterion.losses import THING_LOSSES
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.structures import LayerOutput

TWO = [[True, False, True], [True, True]]


@pytest.fixture
def criterion():
    torch.manual_seed(0)
    return ThingCriterion(num_points=48)


def test_losses_are_named_after_their_layer(make_batch, criterion):
    batch = make_batch(TWO)
    losses = batch.run(criterion)
    terms = {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"}
    expected = terms | {f"{t}_{i}" for t in terms for i in (0, 1)}
    expected |= {f"loss_boxiou_{i}" for i in (0, 1)}
    expected |= {"loss_ce_enc", "loss_bbox_enc", "loss_giou_enc"}
    assert set(losses) == expected
    assert all(v.ndim == 0 and 0 < v.detach() < math.inf for v in losses.values())


def test_iou_head_of_the_last_layer_is_supervised_by_option(make_batch):
    batch = make_batch(TWO)
    losses = batch.run(ThingCriterion(48, supervise_last_iou=True))
    assert losses["loss_boxiou"] > 0
    sum(losses.values()).backward()
    assert batch.output.layers[-1].iou_logits.grad.abs().sum() > 0


def test_padded_tokens_do_not_count(make_batch, criterion):
    batch = make_batch(TWO)
    losses = batch.run(criterion)
    losses["loss_ce"].backward()
    assert batch.output.layers[-1].logits.grad[0, :, 7:].abs().sum() == 0
    assert batch.output.layers[-1].logits.grad[1, :, 7:].abs().min() > 0


@pytest.mark.parametrize("kinds", [[[False, False], [False]], [[], []]])
def test_a_batch_without_things_has_zero_losses_and_gradients(make_batch, criterion, kinds):
    batch = make_batch(kinds)
    losses = batch.run(criterion)
    assert all(v == 0 for v in losses.values())
    sum(losses.values()).backward()
    grads = [leaf.grad for leaf in batch.leaves if leaf.grad is not None]
    assert grads and all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_an_image_without_objects_has_negatives_only(make_batch, criterion):
    batch = make_batch([[True, True], []])
    losses = batch.run(criterion)
    assert all(v.isfinite() for v in losses.values())
    losses["loss_ce"].backward()
    assert (batch.output.layers[-1].logits.grad[1] > 0).all()


def test_boxes_of_stuff_do_not_count(make_batch, criterion):
    batch = make_batch([[True, False]])
    torch.manual_seed(1)
    before = batch.run(criterion)
    layout = batch.output.denoising_layout
    stuff = [g * layout.group_size + 1 for g in range(layout.num_groups)]

    def move(layer: LayerOutput) -> LayerOutput:
        boxes = layer.boxes.detach().clone()
        boxes[:, stuff] = 0.9
        return replace(layer, boxes=boxes)

    batch.output = replace(batch.output, denoising=tuple(map(move, batch.output.denoising)))
    torch.manual_seed(1)
    after = batch.run(criterion)
    assert torch.equal(before["loss_bbox"], after["loss_bbox"])
    assert torch.equal(before["loss_giou_0"], after["loss_giou_0"])


def test_masks_are_sampled_at_the_middle_of_four_by_four_pixels(make_batch):
    batch, criterion = make_batch([[True]]), ThingCriterion(num_points=2000)

    def dice(rows: slice, columns: slice) -> torch.Tensor:
        masks = torch.zeros_like(batch.targets[0].masks)
        masks[:, rows, columns] = True
        batch.replace_target(0, masks=masks)
        torch.manual_seed(1)
        return batch.run(criterion)["loss_dice"]

    corner = dice(slice(0, 4), slice(0, 4))
    assert torch.equal(dice(slice(2, 3), slice(2, 3)), corner)
    empty = dice(slice(0, 0), slice(0, 0))
    assert not torch.equal(corner, empty)
    assert torch.equal(dice(slice(0, 2), slice(0, 2)), empty)


def test_expressions_without_target_push_every_query_to_no_object(make_batch):
    """Of the whole batch and of a part of it; boxes and masks learn nothing from them."""
    criterion = ThingCriterion(num_points=48, learn_from_empty_batches=True)
    batch = make_batch([[], []])
    losses = batch.run(criterion)
    sum(losses.values()).backward()
    last = batch.output.layers[-1]
    real = batch.text_mask[:, None].expand_as(last.logits)
    assert (last.logits.grad[real] > 0).all() and (batch.output.proposals.logits.grad > 0).all()
    others = [
        leaf.grad for leaf in batch.leaves if leaf.shape[-1] not in (1, last.logits.shape[-1])
    ]
    assert all(grad is None or not grad.any() for grad in others)
    probability = last.logits.detach()[real].double().sigmoid()
    expected = (0.75 * probability**2 * -(1 - probability).log()).sum() / 2
    weight = THING_LOSSES.weights["CLASS"]
    assert float(losses["loss_ce"].detach()) == pytest.approx(weight * float(expected), rel=1e-5)
    torch.manual_seed(1)
    batch = make_batch([[True, True], []])
    torch.manual_seed(2)
    published = batch.run(ThingCriterion(num_points=48))
    torch.manual_seed(2)
    same = batch.run(criterion)
    assert all(torch.equal(same[name], published[name]) for name in published)
