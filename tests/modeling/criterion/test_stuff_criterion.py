"""The stuff losses: names, empty batches, canvas boxes, denoising, and what stuff boxes do."""

from __future__ import annotations

import math

import pytest
import torch

from hipie.modeling.criterion.stuff_criterion import StuffCriterion

TWO = [[True, False, True], [False, True]]


@pytest.fixture
def criterion():
    torch.manual_seed(0)
    return StuffCriterion(num_points=48)


def test_terms_are_named_after_their_layer(make_stuff_batch, criterion):
    batch = make_stuff_batch(TWO)
    losses = criterion(batch.output, batch.targets, batch.text_mask)
    places = ["", "_0", "_1", "_interm", "_dn", "_dn_0", "_dn_1"]
    terms = ("ce", "mask", "dice", "bbox", "giou")
    assert set(losses) == {f"loss_{t}{p}_maskdino" for t in terms for p in places}
    assert all(v.ndim == 0 and 0 < v.detach() < math.inf for v in losses.values())


def test_no_objects_leave_negatives_only(make_stuff_batch, criterion):
    batch = make_stuff_batch([[], []])
    losses = criterion(batch.output, batch.targets, batch.text_mask)
    assert losses["loss_ce_maskdino"] > 0
    assert losses["loss_mask_maskdino"] == losses["loss_bbox_0_maskdino"] == 0
    sum(losses.values()).backward()
    assert (batch.output.layers[-1].token_logits.grad[1] > 0).all()


def test_boxes_are_those_of_the_canvas(make_stuff_batch, criterion):
    batch = make_stuff_batch([[True]], groups=1)
    batch.targets[0].image_size = (32, 48)
    for layer in batch.output.denoising:
        layer.boxes = batch.targets[0].boxes[None] / 2
    losses = criterion(batch.output, batch.targets, batch.text_mask)
    assert losses["loss_bbox_dn_maskdino"] < 1e-6
    assert losses["loss_giou_dn_0_maskdino"] < 1e-5


def test_more_groups_do_not_weigh_more(make_stuff_batch, criterion):
    one = make_stuff_batch([[True, False]], groups=1)
    two = make_stuff_batch([[True, False]], groups=2)
    for layer, twice in zip(one.output.denoising, two.output.denoising, strict=True):
        twice.boxes = layer.boxes.detach().repeat(1, 2, 1)
    first = criterion(one.output, one.targets, one.text_mask)
    two.targets = one.targets
    second = criterion(two.output, two.targets, two.text_mask)
    torch.testing.assert_close(first["loss_bbox_dn_maskdino"], second["loss_bbox_dn_maskdino"])


def test_without_stuff_boxes_only_things_have_box_losses(make_stuff_batch):
    batch = make_stuff_batch([[False, True]], groups=1)
    criterion = StuffCriterion(48, stuff_boxes=False)
    sum(criterion(batch.output, batch.targets, batch.text_mask).values()).backward()
    index = next(
        i for i, leaf in enumerate(batch.leaves) if leaf is batch.output.denoising[-1].token_logits
    )
    gradient = batch.leaves[index + 1].grad[0]
    assert gradient[0].abs().sum() == 0
    assert gradient[1].abs().sum() > 0


@pytest.mark.parametrize("published", [False, True])
def test_the_published_frame_is_the_unpadded_image(make_stuff_batch, published):
    batch = make_stuff_batch([[True]], queries=2, groups=1)
    target = batch.targets[0]
    target.image_size = (32, 48)
    target.masks[:] = False
    target.masks[0, :32, :24] = True
    for layer in batch.output.denoising:
        layer.boxes = (target.boxes if published else target.boxes_on_canvas())[None]
    edge = torch.tensor([[0.5, 1.0], [0.25, 0.5]])
    layer = batch.output.layers[-1]
    layer.token_logits.data.zero_()
    layer.boxes = torch.full_like(layer.boxes, 0.5)
    layer.point_masks = lambda image, points: torch.where(
        (points[None] < edge[:, None]).all(dim=2), 9.0, -9.0
    )
    losses = StuffCriterion(400, published_frame=published)(batch.output, batch.targets)
    assert losses["loss_bbox_dn_maskdino"] < 1e-6
    losses["loss_ce_maskdino"].backward()
    matched = layer.token_logits.grad[0, :, 0] < 0
    assert matched.tolist() == [published, not published]
