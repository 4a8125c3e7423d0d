"""Images, words, configurations and weights of every bad kind, through `Segmenter` and `hipie`.

What can be read is segmented; the rest ends with one sentence that names the culprit.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie import Segmenter
from hipie.cli.main import main

TINY = str(Path(__file__).parent / "tiny.yaml")
WIDTH = ["MODEL.HIPIE.HIDDEN_DIM", "64"]


class RunsCode:
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
def expression(tiny_weights: Path, options: list[str], tmp_path: Path):
    """What `hipie segment` with these words ends with; weights and options may be others."""

    def say(picture: str, *words: str, weights: object = tiny_weights, more: list[str] = []) -> str:  # noqa: B006
        fixed = ["--config-file", TINY, "--weights", str(weights), "--device", "cpu"]
        fixed += ["--output", str(tmp_path / "out"), "--opts", *options, *more]
        with pytest.raises(SystemExit) as stop:
            main(["segment", picture, *words, *fixed])
        assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
        assert not (tmp_path / "out").exists()
        return stop.value.code

    return say


@pytest.fixture
def page(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "page.png")
    return str(tmp_path / "page.png")


@pytest.mark.parametrize("kind", ["L", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_images_of_every_mode_are_segmented(segmenter: Segmenter, kind: str, tmp_path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    if kind == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(kind)
    path = tmp_path / ("picture.tif" if kind == "CMYK" else "picture.png")
    image.save(path)
    found = segmenter.segment(path, ["dog"], ["sky"])
    assert found.image.shape == (48, 64, 3) and found.image.dtype == np.uint8
    assert found.masks.shape[1:] == (48, 64)
    assert segmenter.refer(path, "the dog").masks.shape == (1, 48, 64)


def test_a_turned_photograph_is_segmented_upright(segmenter: Segmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert segmenter.segment(tmp_path / "turned.jpg", ["dog"]).image.shape == (64, 40, 3)


@pytest.mark.parametrize("size", [(1, 1), (200, 8000), (8000, 200)])
def test_tiny_and_long_images(segmenter: Segmenter, size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 90, np.uint8)
    assert segmenter.segment(pixels, ["dog"], ["sky"]).masks.shape[1:] == size
    assert segmenter.refer(pixels, "the dog").masks.shape == (1, *size)


def test_five_thousand_names(segmenter: Segmenter) -> None:
    names = [f"thing number {i}" for i in range(5000)]
    found = segmenter.segment(np.zeros((32, 48, 3), np.uint8), names)
    assert set(found.labels) <= set(names)


def test_images_that_cannot_be_read_are_named(expression, tmp_path: Path, page: str) -> None:
    (tmp_path / "letter.jpg").write_text("Dear reader")
    Image.open(page).resize((300, 300)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    for name in ("letter.jpg", "cut.jpg", "nowhere.jpg", ""):
        assert str(tmp_path / name) in expression(str(tmp_path / name), "--things", "dog")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "at least one class"),
        (["--things", "dog; dog"], "dog"),
        (["--things", "dog", "--stuff", "dog"], "dog"),
        (["--things", "?!"], "?!"),
        (["--parts", "wheel"], "whole: part"),
    ],
)
def test_bad_words_are_named(expression, page: str, words: list[str], said: str) -> None:
    assert said in expression(page, *words)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["MODEL.HIPIE.HIDEN_DIM", "64"], "MODEL.HIPIE.HIDDEN_DIM"),
        (["MODEL.HIPIE.HIDDEN_DIM", "wide"], "MODEL.HIPIE.HIDDEN_DIM cannot be 'wide'"),
        (["MODEL.HIPIE.HIDDEN_DIM", "63"], "a multiple of 32"),
        (["MODEL.HIPIE.TEST.TOKEN_POOLING", "sum"], "mean or max"),
        (["SEED"], "has no value"),
        (["MODEL.HIPIE.TEXT.SOURCE", "./nowhere"], '"./nowhere" is no text encoder'),
    ],
)
def test_keys_and_values_that_do_not_exist(
    expression, page: str, more: list[str], said: str
) -> None:
    assert said in expression(page, "--things", "dog", more=more)


def test_weights_that_cannot_be_used_are_named(
    expression, page: str, tiny_weights, tmp_path
) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(tiny_weights.read_bytes()[:5000])
    trap = tmp_path / "trap.pkl"
    trap.write_bytes(pickle.dumps({"model": RunsCode(str(tmp_path / "owned"))}))
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.ones(3, 3)}, other)
    for file in (cut, trap, other, tmp_path / "none.pth"):
        assert file.name in expression(page, "--things", "dog", weights=file)
    assert not (tmp_path / "owned").exists()
