"""Support features are computed once for any number of images, and again when pixels change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie_fewshot import Example, ExampleError
from hipie_fewshot.feature_cache import FeatureCache
from hipie_fewshot.modeling.mask_proposals import ProposalSettings
from hipie_fewshot.modeling.matcher import Matcher
from hipie_fewshot.modeling.persam import PerSam
from hipie_fewshot.modeling.persam_f import PerSamF
from hipie_fewshot.modeling.prototype import Prototype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("build", "network"),
    [
        (lambda sam, dino: Prototype(dino), "dino"),
        (lambda sam, dino: PerSam(sam), "sam"),
        (lambda sam, dino: PerSamF(sam, steps=2), "sam"),
        (lambda sam, dino: Matcher(dino, sam, ProposalSettings(grid=0, draws=2)), "dino"),
    ],
    ids=["prototype", "persam", "persam_f", "matcher"],
)
def test_only_the_query_is_encoded_for_the_second_image(sam, dino, pixels, example, build, network):
    if network == "dino" and build(sam, dino).__class__ is Matcher:
        pytest.importorskip("ot")
    method = build(sam, dino)
    encoder = sam.model.image_encoder if network == "sam" else dino.model
    first = method.predict(pixels, [example, example])
    calls = []
    hook = encoder.register_forward_pre_hook(lambda *args: calls.append(1))
    extract_features = dino.extract_features
    if network == "dino":
        dino.extract_features = lambda x: calls.append(1) or extract_features(x)
    same = Example(example.image.copy(), example.mask.copy(), "another name")
    again = method.predict(pixels, [same, same])
    hook.remove()
    if network == "dino":
        del dino.extract_features
    assert len(calls) == 1
    assert torch.equal(first.mask, again.mask) and first.score == again.score
    assert torch.equal(build(sam, dino).predict(pixels, [same, same]).mask, again.mask)


def test_changed_pixels_are_computed_again(example):
    computed = []
    cache = FeatureCache(lambda examples: computed.append(len(examples)) or len(computed))
    assert cache([example], CPU) == cache([example], CPU) == 1
    assert cache([example, example], CPU) == 2
    wider = Example(example.image, np.ones_like(example.mask))
    assert cache([wider], CPU) == 3
    image = example.image.copy()
    written = Example(image, example.mask)
    assert cache([written], CPU) == 1
    image[0, 0, 0] ^= 1
    assert cache([written], CPU) == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert cache([example], CPU) == 5, "autocast is part of the key"


def test_equal_pixels_of_another_shape_are_another_entry():
    pixels = np.zeros((4, 6, 3), np.uint8)
    cache = FeatureCache(lambda examples: examples[0].image.shape)
    assert cache([Example(pixels, np.ones((4, 6), bool))], CPU) == (4, 6, 3)
    reshaped = Example(pixels.reshape(6, 4, 3), np.ones((6, 4), bool))
    assert cache([reshaped], CPU) == (6, 4, 3)


def test_least_recently_used_entry_is_evicted(example):
    computed = []
    cache = FeatureCache(lambda examples: computed.append(1), max_size=2)
    lists = [[example] * count for count in (1, 2, 3)]
    for examples in lists:
        cache(examples, CPU)
    cache(lists[2], CPU)
    assert len(computed) == 3
    cache(lists[0], CPU)
    assert len(computed) == 4
    with pytest.raises(ExampleError, match="there are no examples"):
        cache([], CPU)
