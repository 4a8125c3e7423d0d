"""Masks of support examples, in every form in which people have them."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from hipie_fewshot.support_set import Example, ExampleError, read_mask

SIZE = (72, 96)


@pytest.fixture
def disc() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (y - 30) ** 2 + (x - 40) ** 2 < 150


def forms(disc: np.ndarray) -> dict[str, object]:
    """The same mask as images and arrays of different kinds."""
    grey = disc.astype(np.uint8)
    white = np.repeat(grey[:, :, None] * 255, 3, axis=2)
    colour = np.random.default_rng(0).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
    palette = Image.fromarray(grey * 3, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 64, 0, 0])
    # Palettes need not begin with black.
    swapped = Image.fromarray(1 - grey, "P")
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    return {
        "bool": disc,
        "0 and 1": grey,
        "0 and 255": grey * 255,
        "ids": grey * 7,
        "floats": disc.astype(np.float32),
        "16 bits": grey.astype(np.uint16) * 65535,
        "tensor": torch.from_numpy(disc),
        "one bit": Image.fromarray(disc),
        "palette": palette,
        "swapped palette": swapped,
        "white on black": Image.fromarray(white),
        "dark red": Image.fromarray(grey[:, :, None] * np.array([64, 0, 0], np.uint8)),
        "cut out by alpha": Image.fromarray(np.dstack([colour, grey * 255])),
        "grey with alpha": Image.fromarray(np.dstack([colour[:, :, 0], grey * 255]), "LA"),
        "opaque alpha": Image.fromarray(
            np.dstack([*[grey * 255] * 3, np.full(SIZE, 255, np.uint8)])
        ),
        "16-bit image": Image.fromarray(grey.astype(np.uint16) * 65535),
    }


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("kind", forms(np.zeros(SIZE, bool)))
def test_masks_of_every_kind_are_the_same(disc, kind: str, tmp_path, caplog) -> None:
    mask = forms(disc)[kind]
    read = read_mask(mask)
    assert read.dtype == bool and np.array_equal(read, disc)
    if isinstance(mask, Image.Image):
        mask.save(tmp_path / "mask.png")
        assert np.array_equal(read_mask(tmp_path / "mask.png"), disc)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["grey", "alpha", "floats", "red"])
def test_soft_edges_are_thresholded_at_half(disc, kind: str, caplog) -> None:
    soft = cv2.GaussianBlur(disc.astype(np.float32), (0, 0), 3)
    soft = soft / soft.max()
    eight_bits = np.rint(soft * 255).astype(np.uint8)
    alpha = np.dstack([np.full((*SIZE, 3), 200, np.uint8), eight_bits])
    red = np.dstack([eight_bits, np.zeros((*SIZE, 2), np.uint8)])
    masks = {"grey": Image.fromarray(eight_bits), "alpha": Image.fromarray(alpha)}
    with caplog.at_level(logging.WARNING, "hipie_fewshot"):
        read = read_mask({**masks, "floats": soft, "red": Image.fromarray(red)}[kind])
    assert np.array_equal(read, soft >= 0.5) or (read ^ (soft >= 0.5)).sum() <= 2
    (record,) = caplog.records
    assert (
        f"{read.sum():,} of {read.size:,} pixels ({100 * read.mean():.1f} %)" in record.getMessage()
    )


def test_example_has_its_share_and_names_its_faults(disc) -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    example = Example.parse((image, disc, "cup"))
    assert example.label == "cup" and example.share == disc.mean()
    assert Example.parse(example) is example
    for wrong, message in (
        ("support.jpg", r"an example is \(image, mask\) or"),
        ((image,), r"an example is \(image, mask\) or"),
        ((image, disc, 3), "the label of an example is a string, not 3"),
        ((image, disc[:9]), "an example's mask is 96x9, and its image is 96x72"),
        ((image, disc & False), "is empty"),
        ((image, np.full(SIZE, np.nan)), "not finite"),
        ((image, np.zeros((2, *SIZE))), "cannot be read; expected"),
    ):
        with pytest.raises(ExampleError, match=message):
            Example.parse(wrong)
    with pytest.raises(ExampleError, match="mask is bool"):
        Example(image, disc.astype(float))
