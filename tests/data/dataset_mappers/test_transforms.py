"""Drawn changes of an image."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T

from hipie.data.dataset_mappers.transforms import (
    LargeScaleJitter,
    flip_text,
    resize_transform,
    sample_augmentation,
    training_sizes,
)


def draw(seed: int, height: int = 60, width: int = 90, **settings):
    arguments = {"min_sizes": (40, 50), "max_size": 100, **settings}
    return sample_augmentation(np.random.default_rng(seed), height, width, **arguments)


def test_seed_determines_the_augmentation() -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    for seed in range(12):
        np.random.seed(seed + 1)
        first = draw(seed, jitter=LargeScaleJitter(0.5, 0.3, 2.0, 64)).transform.apply_image(image)
        np.random.seed(0)
        again = draw(seed, jitter=LargeScaleJitter(0.5, 0.3, 2.0, 64)).transform.apply_image(image)
        assert first.shape == again.shape and (first == again).all()


def test_sizes_without_jitter() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    shapes = {draw(seed).transform.apply_image(image).shape[:2] for seed in range(30)}
    assert shapes == {(40, 60), (50, 75)}
    long = draw(0, 60, 600).transform.apply_image(np.zeros((60, 600, 3), np.uint8))
    assert long.shape[:2] == (10, 100)


def test_flip() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, :45] = 200
    flags = []
    for seed in range(60):
        change = draw(seed)
        out = change.transform.apply_image(image)
        assert (out[:, 0].mean() < 100) == change.flipped
        assert not change.cropped
        flags.append(change.flipped)
    assert 15 < sum(flags) < 45
    assert not any(draw(seed, flip_prob=0.0).flipped for seed in range(20))


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "none"])
def test_flip_of_each_direction(flip: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    expected = {"horizontal": image[:, ::-1], "vertical": image[::-1], "none": image}[flip]
    settings = {"min_sizes": (60,), "flip": flip}
    outputs = [draw(seed, **settings) for seed in range(20)]
    flipped = [not (out.transform.apply_image(image) == image).all() for out in outputs]
    assert 4 < sum(flipped) < 16 or flip == "none"
    for out, changed in zip(outputs, flipped, strict=True):
        result = out.transform.apply_image(image)
        assert (result == (expected if changed else image)).all()
        assert out.flipped == (changed and flip == "horizontal")


def test_flip_key_does_not_change_the_other_random_numbers() -> None:
    jitter = LargeScaleJitter(0.5, 0.3, 2.0, 64)
    for seed in range(8):
        resizes = [
            [str(t) for t in draw(seed, flip=flip, jitter=jitter).transform.transforms[-1:]]
            for flip in ("horizontal", "none")
        ]
        assert "Flip" in resizes[0][0] or resizes[0] == resizes[1]


@pytest.mark.parametrize("size", [(60, 90), (7, 4000), (1, 1)])
def test_shortest_side_0_is_no_resize_as_in_detectron2(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    reference = T.ResizeShortestEdge([0, 0], 100).get_transform(image).apply_image(image)
    assert (resize_transform(*size, 0, 100).apply_image(image) == reference).all()
    drawn = draw(1, *size, min_sizes=(0,), flip="none").transform.apply_image(image)
    assert (drawn == reference).all()


def test_range_of_sizes() -> None:
    assert training_sizes((40, 43), "range") == (40, 41, 42, 43)
    assert training_sizes((40, 43), "choice") == (40, 43)


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (1, 1), (5, 400)])
def test_jitter_gives_a_square_and_keeps_labels_on_their_pixels(size: tuple[int, int]) -> None:
    labels = np.ones(size, dtype=np.uint8)
    labels[:, size[1] // 2 :] = 2
    image = np.repeat(np.where(labels == 1, 40, 220).astype(np.uint8)[:, :, None], 3, axis=2)
    for seed in range(20):
        change = draw(seed, *size, jitter=LargeScaleJitter(1.0, 0.1, 2.0, 64))
        assert change.cropped
        out = change.transform.apply_image(image)[..., 0]
        found = change.transform.apply_segmentation(labels)
        assert out.shape == found.shape and out.shape[0] == out.shape[1]
        assert set(np.unique(found)) <= {0, 1, 2} and found.any()
        disagree = ((found == 1) & (out > 128)) | ((found == 2) & (out < 128))
        edge = np.abs(np.diff(found.astype(int), axis=1)) == 1
        assert disagree.sum() <= 2 * edge.sum()


def test_plain_resize_of_extremes() -> None:
    for height, width in ((1, 1), (200, 8000), (8000, 200), (1, 5000)):
        out = resize_transform(height, width, 40, 100).apply_image(
            np.zeros((height, width, 3), "uint8")
        )
        assert min(out.shape[:2]) >= 1 and max(out.shape[:2]) <= 100


@pytest.mark.parametrize(
    ("expression", "flipped"),
    [
        ("the car left of the tree", "the car right of the tree"),
        ("Left dog, RIGHT cat", "Right dog, LEFT cat"),
        ("the leftmost ball on the right-hand side", "the rightmost ball on the left-hand side"),
        ("rightside lefthand righter", "leftside righthand lefter"),
        ("a bright light, the leftover copyright", "a bright light, the leftover copyright"),
        ("upright man", "upright man"),
        ("person left arm", "person right arm"),
        ("lefty, topleft, righties", "righty, topright, lefties"),
        ("right_hand side of TopLeft", "left_hand side of TopRight"),
        ("left_most, farright, bottom_right", "right_most, farleft, bottom_left"),
        ("leftcorner backright left2", "rightcorner backleft right2"),
        ("outright rights, cleft, forthright", "outright rights, cleft, forthright"),
        ("", ""),
    ],
)
def test_flip_text_swaps_left_and_right(expression: str, flipped: str) -> None:
    assert flip_text(expression) == flipped
    assert flip_text(flipped) == expression


@pytest.mark.parametrize(
    ("expression", "flipped"),
    [
        ("lft guy", "right guy"),
        ("Rt cup, far rght", "Left cup, far left"),
        ("toplft", "topright"),
        ("a cart, art", "a cart, art"),
    ],
)
def test_short_forms_of_sides_are_swapped(expression: str, flipped: str) -> None:
    assert flip_text(expression) == flipped
