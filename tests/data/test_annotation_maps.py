"""Panoptic maps and class maps in the forms in which people save them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie.data.annotation_maps import (
    panoptic_ids,
    read_class_map,
    read_panoptic_map,
    require_segments,
)
from hipie.data.image_io import ImageError

LABELS = np.array([[0, 1, 2, 255], [7, 7, 3, 0]], np.uint8)
IDS = np.array([[1000, 1000, 70000], [300, 300, 70000]])
SEGMENTS = [{"id": int(number)} for number in np.unique(IDS)]


def colours_of(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], 2).astype(np.uint8)


def palette(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels, "P")
    image.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LABELS),
        palette(LABELS),
        Image.fromarray(LABELS.astype(np.uint16)),
        Image.fromarray(LABELS.astype(np.int32)),
        Image.fromarray(np.dstack([LABELS] * 3)),
        Image.fromarray(np.dstack([LABELS] * 3 + [np.full_like(LABELS, 255)])),
        Image.fromarray(np.dstack([LABELS, np.full_like(LABELS, 255)]), "LA"),
    ],
    ids=["grey", "palette", "16 bits", "32 bits", "rgb", "rgba", "la"],
)
def test_class_maps_have_the_stored_values(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "map.tiff")
    labels = read_class_map(tmp_path / "map.tiff")
    assert labels.ndim == 2 and np.array_equal(labels, LABELS)


def test_maps_of_one_bit_have_classes_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(LABELS > 2).save(tmp_path / "map.png")
    assert np.array_equal(read_class_map(tmp_path / "map.png"), LABELS > 2)


@pytest.mark.parametrize(
    ("name", "array", "mode", "message"),
    [
        ("a.png", np.dstack([LABELS, LABELS, LABELS + 1]), "RGB", "colours instead of class"),
        ("a.png", np.dstack([LABELS, LABELS]), "LA", "transparent pixels"),
        ("a.jpg", LABELS, "L", "cannot be a JPEG"),
        ("a.tiff", LABELS.astype(np.float32), "F", "mode F"),
    ],
)
def test_other_class_maps_are_one_sentence(
    name: str, array: np.ndarray, mode: str, message: str, tmp_path: Path
) -> None:
    Image.fromarray(array, mode).save(tmp_path / name)
    with pytest.raises(ImageError, match=f"{name}: .*{message}"):
        read_class_map(tmp_path / name)


def test_panoptic_maps_are_those_of_panopticapi(tmp_path: Path) -> None:
    rgb2id = pytest.importorskip("panopticapi.utils").rgb2id
    colours = colours_of(IDS)
    for name, array in (
        ("rgb.png", colours),
        ("rgba.png", np.dstack([colours, np.full(IDS.shape, 255, np.uint8)])),
    ):
        Image.fromarray(array).save(tmp_path / name)
        read = read_panoptic_map(tmp_path / name)
        assert np.array_equal(panoptic_ids(read), rgb2id(np.array(Image.open(tmp_path / name))))
        assert require_segments(name, read, SEGMENTS) == set()


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.png", Image.fromarray((IDS % 60000).astype(np.uint16)), "one channel"),
        ("a.png", palette(LABELS), r"one channel \(palette\)"),
        ("a.png", Image.fromarray(LABELS), r"one channel \(8-bit grey\)"),
        ("a.jpg", Image.fromarray(colours_of(IDS)), "cannot be a JPEG"),
    ],
)
def test_other_panoptic_maps_are_one_sentence(
    name: str, image: Image.Image, message: str, tmp_path: Path
) -> None:
    image.save(tmp_path / name)
    with pytest.raises(ImageError, match=f"{name}: .*{message}"):
        read_panoptic_map(tmp_path / name)


def test_panoptic_maps_of_other_ids_are_named() -> None:
    colours = colours_of(IDS)
    with pytest.raises(ImageError, match="a.png: .*BGR"):
        require_segments("a.png", colours[:, :, ::-1], SEGMENTS)
    with pytest.raises(ImageError, match="a.png: .*none of the segments.*first declared id is 5"):
        require_segments("a.png", colours, [{"id": 6}, {"id": 5}])
    assert require_segments("a.png", colours, [*SEGMENTS, {"id": 5}]) == {5}
    assert require_segments("a.png", colours, []) == set()
