"""Examples are looked at once, however many images follow, and anew when they change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie_fewshot import Example, ExampleError
from hipie_fewshot.feature_cache import Remembered
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
def test_of_the_second_image_only_the_image_is_encoded(sam, dino, pixels, example, build, network):
    if network == "dino" and build(sam, dino).__class__ is Matcher:
        pytest.importorskip("ot")
    method = build(sam, dino)
    seen = sam.model.image_encoder if network == "sam" else dino.model
    first = method.find(pixels, [example, example])
    calls = []
    hook = seen.register_forward_pre_hook(lambda *given: calls.append(1))
    own = dino.patches
    if network == "dino":
        dino.patches = lambda images: calls.append(1) or own(images)
    same = Example(example.image.copy(), example.mask.copy(), "another name")
    again = method.find(pixels, [same, same])
    hook.remove()
    if network == "dino":
        del dino.patches
    assert len(calls) == 1
    assert np.array_equal(first.mask, again.mask) and first.score == again.score
    assert np.array_equal(build(sam, dino).find(pixels, [same, same]).mask, again.mask)


def test_what_changed_is_made_anew(example):
    made = []
    counted = Remembered(lambda shown: made.append(len(shown)) or len(made))
    assert counted([example], CPU) == counted([example], CPU) == 1
    assert counted([example, example], CPU) == 2
    wider = Example(example.image, np.ones_like(example.mask))
    assert counted([wider], CPU) == 3
    image = example.image.copy()
    written = Example(image, example.mask)
    assert counted([written], CPU) == 1
    image[0, 0, 0] ^= 1
    assert counted([written], CPU) == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert counted([example], CPU) == 5, "rough features are not exact ones"


def test_shapes_of_the_same_pixels_differ():
    pixels = np.zeros((4, 6, 3), np.uint8)
    counted = Remembered(lambda shown: shown[0].image.shape)
    assert counted([Example(pixels, np.ones((4, 6), bool))], CPU) == (4, 6, 3)
    turned = Example(pixels.reshape(6, 4, 3), np.ones((6, 4), bool))
    assert counted([turned], CPU) == (6, 4, 3)


def test_the_oldest_is_forgotten(example):
    made = []
    counted = Remembered(lambda shown: made.append(1), kept=2)
    lists = [[example] * count for count in (1, 2, 3)]
    for shown in lists:
        counted(shown, CPU)
    counted(lists[2], CPU)
    assert len(made) == 3
    counted(lists[0], CPU)
    assert len(made) == 4
    with pytest.raises(ExampleError, match="there is no example"):
        counted([], CPU)
