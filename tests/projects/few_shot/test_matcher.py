"""Matcher end to end: an image as its own example, and no usable mask."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg

from hipie import add_hipie_config
from hipie_fewshot import Example, ExampleError
from hipie_fewshot.build import build_method
from hipie_fewshot.modeling.mask_proposals import ProposalSettings
from hipie_fewshot.modeling.matcher import Matcher
from hipie_fewshot.modeling.patch_features import (
    normalized_features,
    resize_to_square,
    support_features,
)
from hipie_fewshot.modeling.patch_matching import match_patches
from tests.projects.few_shot.rule_based_weights import ellipse_mask, make_image


def test_prediction_has_the_size_of_the_image(dino, sam, pixels, example):
    pytest.importorskip("ot")
    result = Matcher(dino, sam, ProposalSettings(draws=4, grid=2)).predict(pixels, [example])
    assert result.mask.shape == (60, 90)
    assert 0 <= result.score <= 1


def test_same_seed_gives_the_same_mask(dino, sam, example):
    pytest.importorskip("ot")
    settings = ProposalSettings(draws=4, grid=0)
    image = make_image(9, 112, 112)
    result = [Matcher(dino, sam, settings, seed=3).predict(image, [example]) for _ in range(2)]
    assert torch.equal(result[0].mask, result[1].mask)


def test_an_image_matches_itself(dino):
    image, mask = make_image(0, 112, 112), ellipse_mask(1, 112, 112)
    support, fractions = support_features(dino, [Example(image, mask)])
    similarity = support @ normalized_features(dino, [resize_to_square(image, 112)])[0].T
    torch.testing.assert_close(similarity.diagonal(), torch.ones(64))
    result = match_patches(similarity, fractions > 0)
    assert set(result.tolist()) <= set((fractions > 0).nonzero().flatten().tolist())
    assert len(result) >= 0.9 * int((fractions > 0).sum())


def test_no_usable_mask_gives_an_empty_prediction(dino, sam, pixels, example):
    settings = ProposalSettings(draws=2, grid=0, quality=9.0)
    result = Matcher(dino, sam, settings).predict(pixels, [example])
    assert not result.mask.any()
    assert result.score == 0


def test_no_example_is_refused(dino, sam, pixels):
    with pytest.raises(ExampleError, match="there are no examples"):
        Matcher(dino, sam).predict(pixels, [])


@pytest.mark.parametrize("points", [(3, 1), (0, 2), (1,)])
def test_numbers_of_points_are_checked_when_the_method_is_built(points):
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.MODEL.FEWSHOT.MATCHER.POINTS = points
    with pytest.raises(ValueError, match=r"MATCHER\.POINTS is \(.*\); it has to be two numbers"):
        build_method(cfg)
