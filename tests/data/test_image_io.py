"""Images of every kind, good and bad."""

from __future__ import annotations

import logging
import os
import struct
import tracemalloc
import zlib
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie.data.image_io import (
    FORMATS,
    ImageError,
    as_rgb,
    image_file_name,
    read_image,
    read_image_size,
    read_label_map,
    read_record_image,
    read_saliency_mask,
    resized_shape,
    to_rgb_array,
)


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


WRITTEN = {".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".ppm", ".avif"}
READERS = [read_image, read_label_map, read_saliency_mask, read_image_size]


@pytest.mark.parametrize("suffix", sorted(WRITTEN))
def test_listed_formats_are_read(tmp_path: Path, gradient: np.ndarray, suffix: str) -> None:
    Image.fromarray(gradient).save(tmp_path / f"a{suffix}")
    found = read_image(tmp_path / f"a{suffix}")
    assert found.shape == gradient.shape
    assert read_image_size(tmp_path / f"a{suffix}") == gradient.shape[:2]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["EPS", "ICNS", "PCX", "TGA", "DDS", "SGI"])
def test_other_formats_are_not_opened(tmp_path: Path, gradient: np.ndarray, reader, kind) -> None:
    Image.fromarray(gradient[:32, :32]).save(tmp_path / "a.png", format=kind)
    assert kind not in FORMATS
    with pytest.raises(ImageError, match=r"a\.png: this "):
        reader(tmp_path / "a.png")


@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(tmp_path: Path, reader) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="pipe.png: this is not a regular file"):
        reader(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="this is a folder"):
        reader(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match="empty.png: .* an empty file"):
        reader(tmp_path / "empty.png")
    with pytest.raises(ImageError, match="https://host/a.png: addresses are not read"):
        reader("https://host/a.png")


def _png_of_declared_size(width: int, height: int) -> bytes:
    """A small PNG file whose header declares a large grey image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def _webp_of_declared_size(width: int, height: int, kind: bytes) -> bytes:
    if kind == b"VP8X":
        data = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        data = b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + bytes(5)
    else:
        data = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "content",
    [
        _png_of_declared_size(60_000, 60_000),
        *(_webp_of_declared_size(16383, 10900, kind) for kind in (b"VP8X", b"VP8L", b"VP8 ")),
    ],
    ids=["png", "webp extended", "webp lossless", "webp lossy"],
)
@pytest.mark.parametrize("reader", READERS)
def test_large_images_are_refused_before_they_are_decoded(tmp_path, content, reader) -> None:
    (tmp_path / "a.png").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"a\.png: .*too many pixels"):
        reader(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_size_is_that_of_the_header(tmp_path: Path, lossless: bool) -> None:
    for width, height in ((1, 1), (300, 17), (17, 300)):
        Image.new("RGB", (width, height)).save(tmp_path / "a.webp", lossless=lossless)
        with pytest.raises(ImageError, match=f"{width}x{height} are too many pixels"):
            read_image(tmp_path / "a.webp", max_pixels=width * height - 1)
        found = read_image(tmp_path / "a.webp", max_pixels=width * height)
        assert found.shape[:2] == (height, width)


def test_small_integers_of_32_bits_are_kept(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.int32).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    assert (read_image(tmp_path / "a.tif")[..., 0] == grey).all()
    Image.fromarray(grey + 70000).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match="b.tif: grey values are 0 to 65535, .* 70000 to 70255"):
        read_image(tmp_path / "b.tif")


def _with_significant_bits(path: Path, bits: int) -> None:
    """Insert an sBIT chunk after the header of a PNG file."""
    content = path.read_bytes()
    data = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(content[:33] + chunk + content[33:])


def test_twelve_bits_by_the_significant_bits_of_a_png(tmp_path: Path, caplog) -> None:
    grey = np.linspace(0, 4095, 600).reshape(20, 30).astype(np.uint16)
    path = tmp_path / "a.png"
    Image.fromarray(grey).save(path)
    with caplog.at_level(logging.WARNING):
        assert read_image(path).max() == 15
    assert f"{path}: grey values from 0 to 4095 of 65535" in caplog.text
    caplog.clear()
    _with_significant_bits(path, 12)
    with caplog.at_level(logging.WARNING):
        found = read_image(path)[..., 0]
    assert not caplog.text
    assert (found == grey.astype(int) * 255 // 4095).all()


def test_twelve_bits_of_a_tiff(tmp_path: Path) -> None:
    values = np.array([0, 1, 2048, 4095], np.uint16)
    packed = bytes([0x00, 0x00, 0x01, 0x80, 0x0F, 0xFF])
    entries = [(256, 3, 4), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 3, 1), (279, 4, len(packed))]
    body = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        body += struct.pack("<HHII", tag, kind, 1, value)
    (tmp_path / "a.tif").write_bytes(body + bytes(4))
    expected = values.astype(int) * 255 // 4095
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == expected.tolist()


def test_size_error_names_the_exif_orientation(tmp_path: Path, gradient: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient).save(tmp_path / "a.jpg", exif=exif)
    record = {"file_name": str(tmp_path / "a.jpg"), "height": 40, "width": 60}
    with pytest.raises(ValueError, match=r"a\.jpg: the image has 40x60 .* 60x40 \(.*EXIF"):
        read_record_image(record)
    assert read_image_size(tmp_path / "a.jpg") == (60, 40)


@pytest.mark.parametrize(
    ("start", "name"),
    [(b"\0\0\0\x18ftypheic", "HEIC"), (b"%PDF-1.7", "PDF"), (b"<!DOCTYPE html>", "a web page")],
)
def test_other_files_are_named(tmp_path: Path, start: bytes, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(start + bytes(100))
    with pytest.raises(ImageError, match=f"a.jpg: this is {name}, which is not read"):
        read_image(tmp_path / "a.jpg")


def test_conversion_of_large_images_is_in_strips() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (700, 40, 4), dtype=np.uint8)
    opacity = rgba[..., 3:] / 255
    expected = rgba[..., :3] * opacity + 255 * (1 - opacity)
    assert np.abs(as_rgb(rgba) - expected).max() <= 0.51


def test_images_in_every_form_are_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    with open(path, "rb") as file:
        forms = [str(path), path, data, bytearray(data), memoryview(data), file, BytesIO(data)]
        forms += [Image.open(path), pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
        for form in forms:
            assert np.array_equal(to_rgb_array(form), pixels)
        with pytest.raises(ImageError, match=r"image\.png has nothing left to read; .*seek\(0\)"):
            to_rgb_array(file)
        assert image_file_name(file) == image_file_name(path) == str(path)
    assert image_file_name(data) == image_file_name(pixels) == ""


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"the image is None, which cv2\.imread returns for a file that it cannot read"),
        (b"", "the bytes: the image is an empty file"),
        (b"Dear reader", "the bytes: this is not an image that can be read"),
        (StringIO("Dear reader"), "the open file is open for text; open images with mode 'rb'"),
        (BytesIO(b"<html>"), "the open file: this is a web page, which is not read"),
        ([[0, 0], [0, 0]], r"an image of type list cannot be read; .*numpy\.array\(rows"),
        (3, "an image of type int cannot be read; expected a path, the bytes of a file"),
        ("", "the name of the image is empty"),
        (torch.zeros(3, 4, 4).to_sparse(), "cannot be a sparse, quantized, complex or meta"),
        (torch.zeros(3, 4, 4, device="meta"), "cannot be a sparse, quantized, complex or meta"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"an array of shape \(1, 4, 4, 3\) is not an image"),
        (np.zeros((4, 4, 3), complex), "an array of complex128 is not an image"),
        (np.array([["a"]]), "is not an image"),
    ],
)
def test_what_is_no_image_is_refused(image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        to_rgb_array(image)
    assert "\n" not in str(caught.value)


def test_damaged_and_large_images_in_memory_are_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.jpg")
    data = (tmp_path / "image.jpg").read_bytes()
    half = data[: len(data) // 2]
    (tmp_path / "half.jpg").write_bytes(half)
    for form in (half, BytesIO(half), Image.open(tmp_path / "half.jpg")):
        with pytest.raises(ImageError, match="damaged or cut short"):
            to_rgb_array(form)
    with pytest.raises(ImageError, match="60x60 are too many pixels: at most 99 are read"):
        to_rgb_array(data, 99)


@pytest.mark.parametrize("name", ["AVIF", "BLP", "SPIDER", "WEBP", "JPEG", "TIFF"])
def test_damaged_files_of_any_format_are_one_sentence(tmp_path, name):
    mode = {"BLP": "P", "SPIDER": "F"}.get(name, "RGB")
    stream = BytesIO()
    Image.new("RGB", (64, 64), (200, 1, 2)).convert(mode).save(stream, name)
    whole = stream.getvalue()
    middle = len(whole) // 2
    damaged = [whole[:middle], whole[:40], whole[:12], whole[:middle] + b"\xff" * middle]
    if name in ("BLP", "SPIDER"):
        damaged.append(whole)
    for index, data in enumerate(damaged):
        path = tmp_path / f"{index}.png"
        path.write_bytes(data)
        try:
            assert read_image(path).shape == (64, 64, 3)
            assert index == 3, "a decoder may read past damaged bytes, not past the end"
        except ImageError as error:
            assert str(error).startswith(f"{path}: ")
            assert str(error).isprintable()
