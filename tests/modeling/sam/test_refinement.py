"""SAM's refinement of things and parts against `SamPredictor` on the same random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from torchvision.ops import masks_to_boxes

from hipie.modeling.sam.automatic_masks import automatic_masks
from hipie.modeling.sam.refinement import (
    boxes_of,
    deepest,
    refine_parts,
    refine_things,
    without_overlap,
)


@pytest.fixture
def library(sam, pixels):
    predictor = SamPredictor(sam.model)
    predictor.set_image(pixels)
    return predictor


@pytest.fixture
def coarse() -> torch.Tensor:
    masks = torch.zeros(3, 70, 90, dtype=torch.bool)
    masks[0, 10:40, 20:50] = True
    masks[1, 30:70, 60:90] = True
    return masks


def test_boxes_of_things_are_the_prompts(sam, pixels, library, coarse):
    found = refine_things(sam.encode(pixels), coarse)
    for i, box in enumerate(([20, 10, 50, 40], [60, 30, 90, 70])):
        own = library.predict(box=np.array(box), multimask_output=False)[0][0]
        expected = own if own.any() else coarse[i].numpy()
        assert np.array_equal(found[i].numpy(), expected)
    assert not found[2].any(), "an empty mask stays empty"
    assert not refine_things(sam.encode(pixels), coarse[2:]).any()


def test_parts_are_asked_for_by_box_and_click_and_kept_in_the_whole(sam, pixels, library, coarse):
    parts = torch.zeros(3, 70, 90, dtype=torch.bool)
    parts[0, 15:26, 25:36] = True
    parts[1, 50:60, 70:75] = True
    found = refine_parts(sam.encode(pixels), parts, coarse)
    free = refine_parts(sam.encode(pixels), parts, coarse, clip=False)
    for i, (box, click) in enumerate(
        (([25, 15, 36, 26], (30, 20)), ([70, 50, 75, 60], deepest(parts[1].numpy())))
    ):
        own = library.predict(np.array([click]), np.array([1]), np.array(box), None, False)[0][0]
        inside = own & coarse[i].numpy()
        assert np.array_equal(found[i].numpy(), inside if inside.any() else parts[i].numpy())
        assert np.array_equal(free[i].numpy(), own if own.any() else parts[i].numpy())
        assert not (found[i] & ~coarse[i]).any()
    assert not found[2].any()


def test_the_deepest_pixel_is_the_middle_of_the_largest_disc():
    mask = np.zeros((20, 30), bool)
    mask[5:16, 2:13] = True
    mask[10, 13:29] = True
    assert deepest(mask) == (7, 10)
    edge = np.zeros((9, 9), bool)
    edge[:, :5] = True
    assert deepest(edge)[0] == 2, "the image's edge counts as outside"


def test_boxes_against_torchvision():
    masks = torch.rand(6, 30, 40, generator=torch.Generator().manual_seed(0)) > 0.99
    masks[5] = True
    expected = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(boxes_of(masks), expected)


def test_the_surer_mask_keeps_a_pixel():
    masks = torch.ones(3, 4, 4, dtype=torch.bool)
    masks[1, :, 2:] = False
    masks[2, 2:] = False
    apart = without_overlap(masks, torch.tensor([0.1, 0.9, 0.5]))
    assert (apart.sum(0) == 1).all()
    assert torch.equal(apart[1], masks[1]) and torch.equal(apart[2], masks[2] & ~masks[1])


def test_automatic_masks_equal_the_generators_own_and_encode_nothing_again(sam, pixels):
    options = {
        "points_per_side": 5,
        "pred_iou_thresh": -10.0,
        "stability_score_thresh": 0.0,
        "box_nms_thresh": 0.9,
    }
    expected = SamAutomaticMaskGenerator(sam.model, **options).generate(pixels)
    image = sam.encode(pixels)
    calls, own = [], sam.model.image_encoder.forward
    sam.model.image_encoder.forward = lambda x: calls.append(1) or own(x)
    masks, quality = automatic_masks(sam, pixels, image, **options)
    sam.model.image_encoder.forward = own
    assert calls == [] and len(masks) == len(expected) > 0
    assert (quality[:-1] >= quality[1:]).all()
    theirs = sorted(expected, key=lambda one: -one["predicted_iou"])
    for mask, one in zip(masks, theirs, strict=True):
        assert np.array_equal(mask.numpy(), one["segmentation"])
    none, scores = automatic_masks(sam, pixels, points_per_side=2, pred_iou_thresh=99.0)
    assert none.shape == (0, 70, 90) and len(scores) == 0
