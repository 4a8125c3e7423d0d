"""Images of every kind, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie.data.image_io import ImageError, as_rgb, read_image, resized_shape


@pytest.fixture
def gradient() -> np.ndarray:
    """An image whose four corners differ, smooth enough for JPEG."""
    rows, columns = np.mgrid[0:40, 0:60]
    return np.stack([rows * 6, columns * 4, 255 - rows * 3], axis=2).astype(np.uint8)


def test_jpeg_keeps_size_and_colour_order(tmp_path: Path, gradient: np.ndarray) -> None:
    Image.fromarray(gradient).save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg")
    assert found.dtype == np.uint8 and found.shape == (40, 60, 3)
    assert np.abs(found.astype(int) - gradient).mean() < 4


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_modes_become_rgb(tmp_path: Path, gradient: np.ndarray, mode: str, suffix: str) -> None:
    image = Image.fromarray(gradient).convert(mode)
    try:
        image.save(tmp_path / f"a{suffix}")
    except (OSError, KeyError):
        pytest.skip(f"Pillow does not write {mode} as {suffix}")
    found = read_image(tmp_path / f"a{suffix}")
    assert found.shape == (40, 60, 3) and found.dtype == np.uint8
    if mode in ("CMYK", "YCbCr"):
        assert np.abs(found.astype(int) - gradient).mean() < 4
    if mode in ("L", "LA", "1"):
        assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()


def test_cmyk_jpeg(tmp_path: Path, gradient: np.ndarray) -> None:
    Image.fromarray(gradient).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg")
    assert np.abs(found.astype(int) - gradient).mean() < 8


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found[0, 0].tolist() == [0, 0, 0] and found[-1, -1].tolist() == [255, 255, 255]
    assert np.abs(found[..., 0].astype(int) - grey // 257).max() == 0


def test_transparent_is_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[1, 1] = (0, 0, 0, 51)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [204, 204, 204]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, gradient: np.ndarray, orientation: int) -> None:
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient).save(tmp_path / "a.png", exif=exif)
    assert (read_image(tmp_path / "a.png") == upright[orientation](gradient)).all()


@pytest.mark.parametrize("size", [(1, 1), (8000, 200), (200, 8000)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (size[1], size[0], 3)


def test_images_of_floats(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").tolist() == [[[0] * 3, [255] * 3]]
    Image.fromarray(np.array([[0.0, 300.0]], dtype=np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match="b.tif: an image of floats must be in 0..1"):
        read_image(tmp_path / "b.tif")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_not_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not an image at all")
    with pytest.raises(ImageError, match="notes.jpg: this is not an image"):
        read_image(tmp_path / "notes.jpg")


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=tmp_path.name):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_file_is_named(
    tmp_path: Path, gradient: np.ndarray, suffix: str, share: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=f"cut{suffix}: the image is damaged or cut short"):
        read_image(path)


def test_decompression_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="big.png: the image has too many pixels"):
        read_image(tmp_path / "big.png")


@pytest.mark.parametrize(
    ("array", "pixel"),
    [
        (np.full((2, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 1), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3), 65535, np.uint16), [255, 255, 255]),
        (np.full((2, 3), 0.5), [128, 128, 128]),
        (np.ones((2, 3), bool), [255, 255, 255]),
        (np.zeros((2, 3, 4), np.uint8), [255, 255, 255]),
    ],
)
def test_arrays(array: np.ndarray, pixel: list[int]) -> None:
    found = as_rgb(array)
    assert found.shape == (2, 3, 3) and found.dtype == np.uint8
    assert (found == pixel).all()


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((2, 3, 5), np.uint8), "shape"),
        (np.zeros((0, 3, 3), np.uint8), "shape"),
        (np.zeros(3, np.uint8), "shape"),
        (np.zeros((2, 3), np.int64), "int64"),
        (np.full((2, 3), 255.0), "0..1"),
        (np.full((2, 3), np.nan), "0..1"),
    ],
)
def test_invalid_arrays_are_reported(array: np.ndarray, word: str) -> None:
    with pytest.raises(ImageError, match=word):
        as_rgb(array)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (300, 400)),
        ((640, 480), (400, 300)),
        ((200, 8000), (13, 500)),
        ((1, 10000), (1, 500)),
        ((1, 1), (300, 300)),
    ],
)
def test_resized_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_shape(*size, 300, 500) == expected
