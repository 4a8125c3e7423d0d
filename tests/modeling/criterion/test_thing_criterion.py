"""The thing losses: names, batches without things, gradients, and values done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from hipie.modeling.criterion.thing_criterion import ThingCriterion

TWO = [[True, False, True], [True, True]]


@pytest.fixture
def criterion():
    torch.manual_seed(0)
    return ThingCriterion(num_points=48)


def test_terms_are_named_after_their_layer(make_batch, criterion):
    batch = make_batch(TWO)
    losses = criterion(batch.output, batch.targets, batch.text_mask)
    terms = {"loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"}
    wanted = terms | {f"{t}_{i}" for t in terms for i in (0, 1)}
    wanted |= {f"loss_boxiou_{i}" for i in (0, 1)}
    wanted |= {"loss_ce_enc", "loss_bbox_enc", "loss_giou_enc"}
    assert set(losses) == wanted
    assert all(v.ndim == 0 and 0 < v.detach() < math.inf for v in losses.values())


def test_the_last_quality_head_learns_only_when_asked(make_batch):
    batch = make_batch(TWO)
    losses = ThingCriterion(48, final_quality=True)(batch.output, batch.targets, batch.text_mask)
    assert losses["loss_boxiou"] > 0
    sum(losses.values()).backward()
    assert batch.output.layers[-1].iou_logits.grad.abs().sum() > 0


def test_background_queries_get_no_gradient(make_batch, criterion):
    batch = make_batch(TWO, background=3)
    sum(criterion(batch.output, batch.targets, batch.text_mask).values()).backward()
    for layer in batch.output.layers:
        assert layer.token_logits.grad[:, :3].abs().sum() == 0
        assert layer.token_logits.grad[:, 3:].abs().sum() > 0


def test_padded_word_pieces_do_not_count(make_batch, criterion):
    batch = make_batch(TWO)
    losses = criterion(batch.output, batch.targets, batch.text_mask)
    losses["loss_ce"].backward()
    assert batch.output.layers[-1].token_logits.grad[0, :, 7:].abs().sum() == 0
    assert batch.output.layers[-1].token_logits.grad[1, 2:, 7:].abs().min() > 0


@pytest.mark.parametrize("kinds", [[[False, False], [False]], [[], []]])
def test_a_batch_without_things_gives_zeros_and_defined_gradients(make_batch, criterion, kinds):
    batch = make_batch(kinds)
    losses = criterion(batch.output, batch.targets, batch.text_mask)
    assert all(v == 0 for v in losses.values())
    sum(losses.values()).backward()
    grads = [leaf.grad for leaf in batch.leaves if leaf.grad is not None]
    assert grads and all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_one_image_without_objects_is_all_negatives(make_batch, criterion):
    batch = make_batch([[True, True], []])
    losses = criterion(batch.output, batch.targets, batch.text_mask)
    assert all(v.isfinite() for v in losses.values())
    losses["loss_ce"].backward()
    assert (batch.output.layers[-1].token_logits.grad[1, 2:] > 0).all()


def test_boxes_of_stuff_do_not_count(make_batch, criterion):
    batch = make_batch([[True, False]], background=0)
    torch.manual_seed(1)
    before = criterion(batch.output, batch.targets, batch.text_mask)
    copies = batch.output.denoising_layout
    stuff = [g * copies.group_size + 1 for g in range(copies.num_groups)]
    for layer in batch.output.denoising:
        layer.boxes = layer.boxes.detach().clone()
        layer.boxes[:, stuff] = 0.9
    torch.manual_seed(1)
    after = criterion(batch.output, batch.targets, batch.text_mask)
    assert torch.equal(before["loss_bbox"], after["loss_bbox"])
    assert torch.equal(before["loss_giou_0"], after["loss_giou_0"])


def test_masks_are_read_at_the_middle_of_four_by_four_pixels(make_batch, criterion):
    batch = make_batch([[True]])
    (image,) = batch.targets

    def dice(rows: slice, columns: slice) -> torch.Tensor:
        image.masks = torch.zeros_like(image.masks)
        image.masks[:, rows, columns] = True
        torch.manual_seed(1)
        return criterion(batch.output, batch.targets, batch.text_mask)["loss_dice"]

    corner = dice(slice(0, 4), slice(0, 4))
    assert torch.equal(dice(slice(2, 3), slice(2, 3)), corner)
    nothing = dice(slice(0, 0), slice(0, 0))
    assert not torch.equal(corner, nothing)
    assert torch.equal(dice(slice(0, 2), slice(0, 2)), nothing)
