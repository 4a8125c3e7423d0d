"""Stuff criterion: names, empty batches, frame of boxes, denoising, boxes of stuff."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from tests.decoder_outputs import MASK_SIZE

TWO = [[True, False, True], [False, True]]


@pytest.fixture
def criterion():
    torch.manual_seed(0)
    return StuffCriterion(num_points=48)


def test_losses_are_named_after_their_layer(make_stuff_batch, criterion):
    batch = make_stuff_batch(TWO)
    losses = batch.run(criterion)
    suffixes = ["", "_0", "_1", "_interm", "_dn", "_dn_0", "_dn_1"]
    terms = ("ce", "mask", "dice", "bbox", "giou")
    assert set(losses) == {f"loss_{t}{p}_maskdino" for t in terms for p in suffixes}
    assert all(v.ndim == 0 and 0 < v.detach() < math.inf for v in losses.values())


def test_without_objects_there_are_negatives_only(make_stuff_batch, criterion):
    batch = make_stuff_batch([[], []])
    losses = batch.run(criterion)
    assert losses["loss_ce_maskdino"] > 0
    assert losses["loss_mask_maskdino"] == losses["loss_bbox_0_maskdino"] == 0
    sum(losses.values()).backward()
    assert (batch.output.layers[-1].logits.grad[1] > 0).all()


def test_boxes_are_in_the_frame_of_the_canvas(make_stuff_batch, criterion):
    batch = make_stuff_batch([[True]], groups=1)
    batch.replace_target(0, image_size=(32, 48))
    batch.replace_denoising_boxes(batch.targets[0].boxes[None] / 2)
    losses = batch.run(criterion)
    assert losses["loss_bbox_dn_maskdino"] < 1e-6
    assert losses["loss_giou_dn_0_maskdino"] < 1e-5


def test_denoising_losses_are_means_over_groups(make_stuff_batch, criterion):
    single = make_stuff_batch([[True, False]], groups=1)
    double = make_stuff_batch([[True, False]], groups=2)
    double.replace_denoising_boxes(single.output.denoising[0].boxes.detach().repeat(1, 2, 1))
    single.replace_denoising_boxes(single.output.denoising[0].boxes.detach())
    double.targets = single.targets
    first, second = single.run(criterion), double.run(criterion)
    torch.testing.assert_close(first["loss_bbox_dn_maskdino"], second["loss_bbox_dn_maskdino"])


def test_without_stuff_boxes_only_things_have_box_losses(make_stuff_batch):
    batch = make_stuff_batch([[False, True]], groups=1)
    criterion = StuffCriterion(48, stuff_boxes=False)
    sum(batch.run(criterion).values()).backward()
    index = next(
        i for i, leaf in enumerate(batch.leaves) if leaf is batch.output.denoising[-1].logits
    )
    gradient = batch.leaves[index + 1].grad[0]
    assert gradient[0].abs().sum() == 0
    assert gradient[1].abs().sum() > 0


@pytest.mark.parametrize("official", [False, True])
def test_official_frames_are_those_of_the_unpadded_image(make_stuff_batch, official):
    batch = make_stuff_batch([[True]], queries=2, groups=1)
    masks = torch.zeros_like(batch.targets[0].masks)
    masks[0, :32, :24] = True
    batch.replace_target(0, image_size=(32, 48), masks=masks)
    (target,) = batch.targets
    batch.replace_denoising_boxes((target.boxes if official else target.boxes_on_canvas())[None])
    halves = torch.full((1, 2, *MASK_SIZE), -9.0)
    halves[0, 0, :, :12] = halves[0, 1, :8, :6] = 9.0
    layer = replace(
        batch.output.layers[-1],
        boxes=torch.full((1, 2, 4), 0.5),
        mask_embeddings=halves.flatten(2),
    )
    layer.logits.data.zero_()
    batch.output = replace(batch.output, layers=(*batch.output.layers[:-1], layer))
    losses = batch.run(StuffCriterion(400, official_frames=official))
    assert losses["loss_bbox_dn_maskdino"] < 1e-6
    losses["loss_ce_maskdino"].backward()
    matched = layer.logits.grad[0, :, 0] < 0
    assert matched.tolist() == [official, not official]
