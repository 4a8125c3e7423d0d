"""Unusual and invalid images, class names, configurations and weights.

Readable images are segmented; `hipie` ends with one line that names any other input.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie import Segmenter
from hipie.cli.main import main

TINY = str(Path(__file__).parent / "tiny.yaml")
WIDTH = ["MODEL.HIPIE.HIDDEN_DIM", "64"]


class CodePickle:
    """Pickles into a call of `os.mkdir`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture(scope="module")
def options(tiny_text: Path) -> list[str]:
    return ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), *WIDTH]


@pytest.fixture(scope="module")
def segmenter(tiny_weights: Path, options: list[str]) -> Segmenter:
    return Segmenter.from_config(TINY, tiny_weights, "cpu", options)


@pytest.fixture
def error_message(tiny_weights: Path, options: list[str], tmp_path: Path):
    """Run `hipie segment` on input that it refuses, and return the message."""

    def run(
        image: str,
        *arguments: str,
        weights: object = tiny_weights,
        more_options: Sequence[str] = (),
    ) -> str:
        fixed = ["--config-file", TINY, "--weights", str(weights), "--device", "cpu"]
        fixed += ["--output", str(tmp_path / "out"), "--opts", *options, *more_options]
        with pytest.raises(SystemExit) as stop:
            main(["segment", image, *arguments, *fixed])
        assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
        assert not (tmp_path / "out").exists()
        return stop.value.code

    return run


@pytest.fixture
def image(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.mark.parametrize("kind", ["L", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_images_of_every_mode_are_segmented(segmenter: Segmenter, kind: str, tmp_path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    if kind == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(kind)
    path = tmp_path / ("image.tif" if kind == "CMYK" else "image.png")
    image.save(path)
    result = segmenter.segment(path, ["dog"], ["sky"])
    assert result.image.shape == (48, 64, 3) and result.image.dtype == np.uint8
    assert result.masks.shape[1:] == (48, 64)
    assert segmenter.refer(path, "the dog").masks.shape == (1, 48, 64)


def test_exif_orientation_is_applied(segmenter: Segmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40), "red").save(tmp_path / "rotated.jpg", exif=exif)
    assert segmenter.segment(tmp_path / "rotated.jpg", ["dog"]).image.shape == (64, 40, 3)


@pytest.mark.parametrize("size", [(1, 1), (200, 8000), (8000, 200)])
def test_tiny_and_elongated_images_are_segmented(
    segmenter: Segmenter, size: tuple[int, int]
) -> None:
    pixels = np.full((*size, 3), 90, np.uint8)
    assert segmenter.segment(pixels, ["dog"], ["sky"]).masks.shape[1:] == size
    assert segmenter.refer(pixels, "the dog").masks.shape == (1, *size)


def test_five_thousand_classes_are_segmented(segmenter: Segmenter) -> None:
    names = [f"thing number {i}" for i in range(5000)]
    result = segmenter.segment(np.zeros((32, 48, 3), np.uint8), names)
    assert set(result.labels) <= set(names)


def test_images_that_cannot_be_read_are_named(error_message, tmp_path: Path, image: str) -> None:
    (tmp_path / "letter.jpg").write_text("Dear reader")
    Image.open(image).resize((300, 300)).save(tmp_path / "valid.jpg")
    content = (tmp_path / "valid.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(content[: len(content) // 2])
    for name in ("letter.jpg", "truncated.jpg", "nowhere.jpg"):
        assert str(tmp_path / name) in error_message(str(tmp_path / name), "--things", "dog")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--things", "dog; dog"], "dog"),
        (["--things", "dog", "--stuff", "dog"], "dog"),
        (["--things", "?!"], "?!"),
    ],
)
def test_bad_class_names_are_named(
    error_message, image: str, arguments: list[str], message: str
) -> None:
    assert message in error_message(image, *arguments)


@pytest.mark.parametrize(
    ("more_options", "message"),
    [
        (["MODEL.HIPIE.HIDEN_DIM", "64"], "MODEL.HIPIE.HIDDEN_DIM"),
        (["MODEL.HIPIE.HIDDEN_DIM", "wide"], "MODEL.HIPIE.HIDDEN_DIM cannot be 'wide'"),
        (["MODEL.HIPIE.HIDDEN_DIM", "63"], "a multiple of 32"),
        (["MODEL.HIPIE.TEST.TOKEN_POOLING", "sum"], "mean or max"),
        (["SEED"], "has no value"),
        (["MODEL.HIPIE.TEXT.SOURCE", "./nowhere"], '"./nowhere" is not a text encoder'),
    ],
)
def test_unknown_keys_and_values_are_named(
    error_message, image: str, more_options: list[str], message: str
) -> None:
    assert message in error_message(image, "--things", "dog", more_options=more_options)


def test_weights_that_cannot_be_used_are_named(
    error_message, image: str, tiny_weights, tmp_path
) -> None:
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(tiny_weights.read_bytes()[:5000])
    malicious = tmp_path / "malicious.pkl"
    malicious.write_bytes(pickle.dumps({"model": CodePickle(str(tmp_path / "executed"))}))
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.ones(3, 3)}, other)
    for file in (truncated, malicious, other, tmp_path / "none.pth"):
        assert file.name in error_message(image, "--things", "dog", weights=file)
    assert not (tmp_path / "executed").exists()
