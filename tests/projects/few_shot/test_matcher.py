"""Matcher as a whole: on the image that is its own example, and where nothing can be used."""

from __future__ import annotations

import numpy as np
import pytest

from hipie_fewshot import Example, ExampleError
from hipie_fewshot.modeling.mask_proposals import ProposalSettings
from hipie_fewshot.modeling.matcher import Matcher
from hipie_fewshot.modeling.patch_matching import matched_patches
from tests.projects.few_shot.ruled import blob, image_of


def test_the_answer_has_the_images_size(dino, sam, pixels, example):
    pytest.importorskip("ot")
    found = Matcher(dino, sam, ProposalSettings(draws=4, grid=2)).find(pixels, [example])
    assert found.mask.shape == (60, 90)
    assert 0 <= found.score <= 1


def test_the_same_seed_finds_the_same(dino, sam, example):
    pytest.importorskip("ot")
    settings = ProposalSettings(draws=4, grid=0)
    images = image_of(9, 112, 112)
    found = [Matcher(dino, sam, settings, seed=3).find(images, [example]) for _ in range(2)]
    assert np.array_equal(found[0].mask, found[1].mask)


def test_an_image_matches_itself(dino):
    import torch

    from hipie_fewshot.modeling.patch_grid import example_features, features, squashed

    image, mask = image_of(0, 112, 112), blob(1, 112, 112)
    shown, shares = example_features(dino, [Example(image, mask)])
    similarity = shown @ features(dino, [squashed(image, 112)])[0].T
    torch.testing.assert_close(similarity.diagonal(), torch.ones(64))
    found = matched_patches(similarity, shares > 0)
    assert set(found.tolist()) <= set((shares > 0).nonzero().flatten().tolist())
    assert len(found) >= 0.9 * int((shares > 0).sum())


def test_if_sam_has_no_good_mask_the_answer_is_empty(dino, sam, pixels, example):
    settings = ProposalSettings(draws=2, grid=0, quality=9.0)
    found = Matcher(dino, sam, settings).find(pixels, [example])
    assert not found.mask.any()
    assert found.score == 0


def test_no_example_is_one_expression(dino, sam, pixels):
    with pytest.raises(ExampleError, match="there is no example"):
        Matcher(dino, sam).find(pixels, [])
