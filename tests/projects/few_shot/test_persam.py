"""Properties of PerSAM that hold for any weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie_fewshot import ExampleError
from hipie_fewshot.modeling.method import MaskPrediction
from hipie_fewshot.modeling.persam import PerSam, guided_mask_logits, mask_to_box
from hipie_fewshot.modeling.prompted_decoder import decode_guided_masks


def test_prediction_is_a_mask_of_the_image(sam, pixels, example):
    result = PerSam(sam).predict(pixels, [example])
    assert isinstance(result, MaskPrediction)
    assert result.mask.shape == (60, 90)
    assert result.mask.dtype == torch.bool
    assert 0 <= result.score <= 1


def test_each_image_is_encoded_once(sam, pixels, example):
    calls = []
    hook = sam.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    PerSam(sam).predict(pixels, [example, example])
    hook.remove()
    assert len(calls) == 3


def test_uniform_guidance_changes_nothing(sam, pixels):
    """A constant bias leaves the second softmax unchanged; other guidance changes the masks."""
    image = sam.encode(pixels)
    model = sam.model
    point = (torch.tensor([[[30.0, 40.0]]]), torch.ones(1, 1))
    sparse, dense = model.prompt_encoder(points=point, boxes=None, masks=None)
    image_pe = model.prompt_encoder.get_dense_pe()

    def decode(guidance, target):
        inputs = (model.mask_decoder, image.features, image_pe, sparse, dense)
        return decode_guided_masks(*inputs, guidance=guidance, target=target)

    no_guidance, no_target = torch.zeros(64), torch.zeros(32)
    plain, scores = decode(no_guidance, no_target)
    assert plain.shape == (1, 4, 32, 32)
    assert scores.shape == (1, 4)
    torch.testing.assert_close(decode(no_guidance + 0.7, no_target)[0], plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(decode(torch.rand(64), no_target)[0], plain, atol=1e-2)
    assert not torch.allclose(decode(no_guidance, torch.rand(32))[0], plain, atol=1e-2)


def test_boxes_span_the_outermost_pixels_with_at_least_one_pixel():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    assert mask_to_box(mask) is None
    mask[4, 7] = True
    assert mask_to_box(mask).tolist() == [7, 4, 8, 5]
    mask[10, 20] = True
    assert mask_to_box(mask).tolist() == [7, 4, 20, 10]


def test_empty_second_mask_is_the_result(sam, pixels, example, monkeypatch):
    from hipie.modeling.sam.predictor import SamImage, SamMasks

    calls = []

    def predict_empty(self, **prompts):
        calls.append(prompts)
        empty = torch.zeros(1, 3, 60, 90, dtype=torch.bool)
        return SamMasks(empty, torch.zeros(1, 3), torch.zeros(1, 3, 32, 32))

    monkeypatch.setattr(SamImage, "predict", predict_empty)
    result = PerSam(sam).predict(pixels, [example])
    assert not result.mask.any()
    assert len(calls) == 1


def test_stretched_guidance_changes_the_first_round(sam, pixels, example):
    from hipie_fewshot.modeling.location_prior import location_prior, target_embedding

    image = sam.encode(pixels)
    target = target_embedding(sam, [example])
    rounds = [
        guided_mask_logits(image, location_prior(image, target, stretched), target)
        for stretched in (True, False)
    ]
    assert not np.allclose(*(logits.numpy() for logits in rounds), atol=1e-3)


def test_no_example_is_refused(sam, pixels):
    with pytest.raises(ExampleError, match="there are no examples"):
        PerSam(sam).predict(pixels, [])
