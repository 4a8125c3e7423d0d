"""PerSAM beyond its published numbers: what does not depend on weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie_fewshot import ExampleError
from hipie_fewshot.modeling.persam import PerSam, box_of, first_round
from hipie_fewshot.modeling.prompted_decoder import guided_masks
from hipie_fewshot.modeling.prototype import Found


def test_the_answer_is_a_mask_of_the_image(sam, pixels, example):
    found = PerSam(sam).find(pixels, [example])
    assert isinstance(found, Found)
    assert found.mask.shape == (60, 90)
    assert found.mask.dtype == bool
    assert 0 <= found.score <= 1


def test_an_image_is_encoded_once_however_often_sam_is_asked(sam, pixels, example):
    calls = []
    hook = sam.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    PerSam(sam).find(pixels, [example, example])
    hook.remove()
    assert len(calls) == 3


def test_without_guidance_only_the_second_softmax_remains(sam, pixels):
    """With sharp attention the second softmax alone changes the masks; a hint changes them more."""
    image = sam.encode(pixels)
    model = sam.model
    point = (torch.tensor([[[30.0, 40.0]]]), torch.ones(1, 1))
    sparse, dense = model.prompt_encoder(points=point, boxes=None, masks=None)
    places = model.prompt_encoder.get_dense_pe()

    def masks(where, what):
        given = (model.mask_decoder, image.features, places, sparse, dense)
        return guided_masks(*given, where=where, what=what)

    nothing, none = torch.zeros(64), torch.zeros(32)
    plain, scores = masks(nothing, none)
    assert plain.shape == (1, 4, 32, 32)
    assert scores.shape == (1, 4)
    # Adding the same everywhere is no hint.
    torch.testing.assert_close(masks(nothing + 0.7, none)[0], plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(masks(torch.rand(64), none)[0], plain, atol=1e-2)
    assert not torch.allclose(masks(nothing, torch.rand(32))[0], plain, atol=1e-2)


def test_boxes_are_the_outermost_pixels_and_never_flat():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    assert box_of(mask) is None
    mask[4, 7] = True
    assert box_of(mask).tolist() == [7, 4, 8, 5]
    mask[10, 20] = True
    assert box_of(mask).tolist() == [7, 4, 20, 10]


def test_an_empty_second_mask_ends_it(sam, pixels, example, monkeypatch):
    from hipie.modeling.sam.predictor import SamImage, SamMasks

    asked = []

    def nothing(self, **given):
        asked.append(given)
        empty = torch.zeros(1, 3, 60, 90, dtype=torch.bool)
        return SamMasks(empty, torch.zeros(1, 3), torch.zeros(1, 3, 32, 32))

    monkeypatch.setattr(SamImage, "predict", nothing)
    found = PerSam(sam).find(pixels, [example])
    assert not found.mask.any()
    assert len(asked) == 1


def test_the_options_differ(sam, pixels, example):
    from hipie_fewshot.modeling.location_prior import location_prior, target_feature

    image = sam.encode(pixels)
    target = target_feature(sam, [example])
    rounds = [
        first_round(image, location_prior(image, target, stretched), target)
        for stretched in (True, False)
    ]
    assert not np.allclose(*(one.numpy() for one in rounds), atol=1e-3)


def test_no_example_is_one_expression(sam, pixels):
    with pytest.raises(ExampleError, match="there is no example"):
        PerSam(sam).find(pixels, [])
