"""The command line: one drawing an image, and errors in one sentence."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from PIL import Image

from hipie import Segmenter, add_hipie_config
from hipie.result_files import is_result_file
from hipie.segmentation import Segment, Segmentation
from hipie_fewshot.__main__ import main
from tests.exit_status import exit_status


class StubSegmenter:
    """Returns the mask of the first example."""

    def __init__(self):
        self.model, self.cfg = torch.nn.Linear(1, 1), get_cfg()
        add_hipie_config(self.cfg)

    def like(self, image, examples):
        pixels = np.asarray(Image.open(image).convert("RGB"))
        mask = np.zeros(pixels.shape[:2], bool)
        mask[:5] = True
        return Segmentation(pixels, [Segment(examples[0].label, "thing", mask, 0.5)], ("cup",))


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """A command line with an example and two images of one name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Segmenter, "from_config", lambda *_, **__: StubSegmenter())
    for name in ("example.png", "a/1.png", "b/1.png"):
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        Image.new("RGB", (30, 20), (9, 9, 9)).save(name)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:15] = 255
    Image.fromarray(mask).save("mask.png")
    given = ["--config-file", "any.yaml", "--example", "example.png", "mask.png", "--label", "cup"]
    return [*given, "--input", "a/1.png", "b/1.png", "--output", "out"]


def test_every_image_has_its_drawing(arguments, capsys):
    for _ in range(2):
        assert exit_status(main, arguments) == 0
        assert sorted(os.listdir("out")) == ["1.png", "1_2.png"]
    assert "mask.png: 16.7 % of the pixels are the object" in capsys.readouterr().out


def test_folders_are_segmented_and_go_on(arguments, monkeypatch, capsys):
    """Examples are part of the settings, by their content."""
    built, calls = StubSegmenter(), []

    def like(pixels, examples):
        calls.append(pixels.shape)
        return Segmentation(pixels, [Segment("cup", "thing", np.ones((20, 30), bool), 0.5)])

    built.like = like
    monkeypatch.setattr(Segmenter, "from_config", lambda *_, **__: built)
    position = arguments.index("--input")
    folders = [*arguments[:position], "--input", "a", "b", "--output", "many"]
    assert exit_status(main, folders) == 0
    assert os.path.exists("many/a/1.json") and os.path.exists("many/b/1.png")
    os.rename("many/a/1.json", "many/a/moved.json")
    assert exit_status(main, folders) == 0
    assert len(calls) == 2 and os.path.exists("many/a/1.json")
    Image.new("L", (30, 20), 255).save("mask.png")
    capsys.readouterr()
    assert exit_status(main, folders) == 2
    assert "results of another examples" in capsys.readouterr().err


def test_files_of_the_user_are_kept(arguments, capsys):
    os.mkdir("out")
    os.link("a/1.png", "out/1.png")
    assert exit_status(main, arguments) == 2
    assert "out/1.png would overwrite the image a/1.png" in capsys.readouterr().err
    os.unlink("out/1.png")
    Image.new("RGB", (3, 3)).save("out/1.png")
    assert exit_status(main, arguments) == 2
    assert "out/1.png exists and is not a result of hipie" in capsys.readouterr().err
    assert exit_status(main, [*arguments[:-2], "--overwrite", *arguments[-2:]]) == 0
    assert is_result_file("out/1.png")


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError("foreign"), 1), (KeyboardInterrupt(), 130), (MemoryError("foreign"), 1)],
)
def test_errors_end_in_one_sentence(arguments, error, status, monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(Segmenter, "from_config", fail)
    assert exit_status(main, arguments) == status
    printed = capsys.readouterr().err
    assert "foreign" not in printed and "Traceback" not in printed
    assert len(printed.splitlines()) == (1 if status == 1 else 0)


def test_a_broken_mask_is_named(arguments, capsys):
    with open("mask.png", "w") as file:
        file.write("no image")
    assert exit_status(main, arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m hipie_fewshot: ") and "mask.png" in line


def test_examples_have_the_limit_of_pixels(arguments, monkeypatch, capsys):
    built = StubSegmenter()
    built.cfg.INPUT.MAX_PIXELS = 30 * 20 - 1
    monkeypatch.setattr(Segmenter, "from_config", lambda *_, **__: built)
    assert exit_status(main, arguments) == 1
    assert "example.png: 30x20 are too many pixels" in capsys.readouterr().err
