"""Refinement of things and parts, compared with `SamPredictor` on the same random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from hipie.modeling.sam.automatic_masks import automatic_masks
from hipie.modeling.sam.refinement import (
    farthest_inside_point,
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


def test_things_are_prompted_by_their_boxes(sam, pixels, library, coarse):
    refined = refine_things(sam.encode(pixels), coarse)
    for i, box in enumerate(([20, 10, 50, 40], [60, 30, 90, 70])):
        own = library.predict(box=np.array(box), multimask_output=False)[0][0]
        expected = own if own.any() else coarse[i].numpy()
        assert np.array_equal(refined[i].numpy(), expected)
    assert not refined[2].any(), "an empty mask stays empty"
    assert not refine_things(sam.encode(pixels), coarse[2:]).any()


def test_parts_are_prompted_by_box_and_point_and_kept_in_the_whole(sam, pixels, library, coarse):
    parts = torch.zeros(3, 70, 90, dtype=torch.bool)
    parts[0, 15:26, 25:36] = True
    parts[1, 50:60, 70:75] = True
    refined = refine_parts(sam.encode(pixels), parts, coarse)
    unclipped = refine_parts(sam.encode(pixels), parts, coarse, clip=False)
    for i, (box, point) in enumerate(
        (([25, 15, 36, 26], (30, 20)), ([70, 50, 75, 60], farthest_inside_point(parts[1].numpy())))
    ):
        own = library.predict(np.array([point]), np.array([1]), np.array(box), None, False)[0][0]
        inside = own & coarse[i].numpy()
        assert np.array_equal(refined[i].numpy(), inside if inside.any() else parts[i].numpy())
        assert np.array_equal(unclipped[i].numpy(), own if own.any() else parts[i].numpy())
        assert not (refined[i] & ~coarse[i]).any()
    assert not refined[2].any()


def test_farthest_inside_point_is_the_centre_of_the_largest_disc():
    mask = np.zeros((20, 30), bool)
    mask[5:16, 2:13] = True
    mask[10, 13:29] = True
    assert farthest_inside_point(mask) == (7, 10)
    edge = np.zeros((9, 9), bool)
    edge[:, :5] = True
    assert farthest_inside_point(edge)[0] == 2, "the image's edge counts as outside"


def test_mask_with_the_higher_score_keeps_a_pixel():
    masks = torch.ones(3, 4, 4, dtype=torch.bool)
    masks[1, :, 2:] = False
    masks[2, 2:] = False
    disjoint = without_overlap(masks, torch.tensor([0.1, 0.9, 0.5]))
    assert (disjoint.sum(0) == 1).all()
    assert torch.equal(disjoint[1], masks[1]) and torch.equal(disjoint[2], masks[2] & ~masks[1])


def test_automatic_masks_equal_the_generator_without_encoding_again(sam, pixels):
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
    masks, predicted_iou = automatic_masks(sam, pixels, image, **options)
    sam.model.image_encoder.forward = own
    assert calls == [] and len(masks) == len(expected) > 0
    assert (predicted_iou[:-1] >= predicted_iou[1:]).all()
    records = sorted(expected, key=lambda record: -record["predicted_iou"])
    for mask, record in zip(masks, records, strict=True):
        assert np.array_equal(mask.numpy(), record["segmentation"])
    none, scores = automatic_masks(sam, pixels, points_per_side=2, pred_iou_thresh=99.0)
    assert none.shape == (0, 70, 90) and len(scores) == 0
