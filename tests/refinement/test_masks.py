"""Refinement of masks by a dense CRF, PAMR and SAM."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from hipie.errors import InputError
from hipie.modeling.sam.predictor import Sam
from hipie.modeling.sam.refinement import refine_things, without_overlap
from hipie.refinement import REFINEMENTS, refine_masks
from hipie.segmentation import Segment, Segmentation

SIZE = (48, 64)
needs_crf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None, reason="pydensecrf2 is not installed"
)
METHODS = [pytest.param("crf", marks=needs_crf), "pamr"]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image with a disc and a bar, their masks, and the same in blocks of 8 pixels."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (rows - 24) ** 2 + (columns - 20) ** 2 < 15**2
    bar = (columns > 45) & (columns < 58)
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:] = (60, 90, 60)
    image[disc], image[bar] = (200, 60, 40), (40, 60, 210)
    noise = np.random.default_rng(0).integers(-9, 10, image.shape)
    image = (image + noise).clip(0, 255).astype(np.uint8)
    masks = np.stack([disc, bar])
    coarse = masks.reshape(2, 6, 8, 8, 8).mean((2, 4)) > 0.5
    return image, masks, coarse.repeat(8, 1).repeat(8, 2)


@pytest.mark.parametrize("method", METHODS)
def test_coarse_masks_follow_the_colours(scene, method) -> None:
    image, masks, coarse = scene
    refined = refine_masks(image, coarse, method)
    for mask, before, after in zip(masks, coarse, refined, strict=True):
        assert iou(before, mask) < 0.9 < 0.97 < iou(after, mask)
    assert not (refined[0] & refined[1]).any()


@pytest.mark.parametrize("method", METHODS)
def test_masks_that_overlap_are_refined_one_by_one(scene, method) -> None:
    image, _, coarse = scene
    twice = np.stack([coarse[0], coarse[0] | coarse[1], coarse[1]])
    refined = refine_masks(image, twice, method)
    for row in range(3):
        assert np.array_equal(refined[row], refine_masks(image, twice[row : row + 1], method)[0])


@pytest.mark.parametrize("method", METHODS)
def test_empty_masks_stay_empty_and_masks_of_everything_stay(scene, method) -> None:
    image = scene[0]
    empty, full = np.zeros((1, *SIZE), bool), np.ones((1, *SIZE), bool)
    assert not refine_masks(image, empty, method).any()
    assert refine_masks(image, full, method).all()
    assert refine_masks(image, empty[:0], method).shape == (0, *SIZE)


def test_sam_replaces_things_and_stuff_loses_their_pixels(scene) -> None:
    image, _, coarse = scene
    sam = Sam.from_source("random:tiny")
    stuff = ~coarse.any(0)
    masks = np.concatenate([coarse, stuff[None]])
    scores = (0.4, 0.9, 0.5)
    refined = refine_masks(
        image, masks, "sam", is_stuff=(False, False, True), scores=scores, sam=sam
    )
    things = refine_things(sam.encode(image), torch.from_numpy(coarse))
    things = without_overlap(things, torch.tensor(scores[:2])).numpy()
    kept = [thing if thing.any() else old for thing, old in zip(things, coarse, strict=True)]
    assert np.array_equal(refined[:2], np.stack(kept))
    rest = stuff & ~things.any(0)
    assert np.array_equal(refined[2], rest if rest.any() else stuff)


def test_unusable_input_is_named(scene, monkeypatch) -> None:
    image, _, coarse = scene
    with pytest.raises(InputError, match='no refinement "crff"; there are crf, pamr, sam'):
        refine_masks(image, coarse, "crff")
    with pytest.raises(InputError, match='"sam" needs a model'):
        refine_masks(image, coarse, "sam")
    with pytest.raises(InputError, match=r"masks are \[2, 47, 64\], and the image needs"):
        refine_masks(image, coarse[:, 1:], "pamr")
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(InputError, match="needs the package pydensecrf2: pip install"):
        refine_masks(image, coarse, "crf")


def test_results_are_refined_with_their_parts(scene) -> None:
    image, masks, coarse = scene
    top = coarse[0].copy()
    top[24:] = False
    part = Segment("top", "part", top, 0.5)
    segments = [
        Segment("disc", "thing", coarse[0], 0.8, [part]),
        Segment("bar", "stuff", coarse[1], 0.7),
    ]
    result = Segmentation(image, segments, ("bar", "disc"), "a.png")
    refined = result.refine("pamr")
    assert np.array_equal(refined.masks, refine_masks(image, coarse, "pamr"))
    assert [(s.label, s.kind, s.score) for s in refined] == [
        ("disc", "thing", 0.8),
        ("bar", "stuff", 0.7),
    ]
    (new_part,) = refined.segments[0].parts
    assert iou(refined.masks[0], masks[0]) > 0.97 and refined.consistency == 1
    assert np.array_equal(
        new_part.mask, refine_masks(image, top[None], "pamr")[0] & refined.masks[0]
    )
    assert refined.class_names == result.class_names and refined.file_name == "a.png"
    with pytest.raises(InputError, match="there are crf, pamr, sam"):
        Segmentation(image, []).refine("otsu")
    assert set(REFINEMENTS) == {"crf", "pamr", "sam"}
