"""`hipie demo` and `demo.py`, with a stand-in for the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hipie.cli import demo
from hipie.cli.demo import SEED, PictureBookDemo
from hipie.cli.main import main
from hipie.data.image_io import read_image
from hipie.segmentation import Segment, Segmentation

ROOT = Path(__file__).parents[1]


class StubSegmenter:
    """Segments a box in the middle of every image."""

    def segment(self, image, things, stuff=(), parts=None):
        assert not set(things) & set(stuff)
        return Segmentation(image, [Segment(things[0], "thing", self.middle(image), 0.5)])

    def refer(self, image, expression):
        return Segmentation(image, [Segment(expression, "expression", self.middle(image), 0.5)])

    def refer_group(self, images, expression):
        return [self.refer(image, expression) for image in images]

    @staticmethod
    def middle(image) -> np.ndarray:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), bool)
        mask[height // 4 : height // 2, width // 4 : width // 2] = True
        return mask


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    PictureBookDemo(StubSegmenter(), folder).run()
    return folder


def test_at_least_eight_drawings_can_be_opened(output: Path) -> None:
    drawings = list(output.glob("*.png"))
    assert len(drawings) >= 8
    for drawing in drawings:
        assert min(Image.open(drawing).size) > 100


def test_results_hold_every_mask(output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    assert {path.stem for path in output.glob("*.png")} == set(results)
    for entry in results.values():
        assert entry["title"]
        for converted in entry["segments"]:
            for segment in converted if isinstance(converted, list) else [converted]:
                mask = coco_mask.decode(segment["segmentation"])
                assert list(mask.shape) == segment["segmentation"]["size"]
                assert mask.sum() == segment["area"]


def test_titles_of_photographs_name_the_limit_of_the_weights(output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    photographs = [name for name in results if name.startswith("photo_")]
    assert len(photographs) == 2
    assert all("not trained on photographs" in results[name]["title"] for name in photographs)


def test_pages_differ_from_those_of_training() -> None:
    from detectron2.config import get_cfg

    from hipie.config import add_hipie_config

    cfg = get_cfg()
    add_hipie_config(cfg)
    assert cfg.PICTUREBOOK.SEED != SEED


def test_program_without_class_names_names_the_arguments(tmp_path: Path) -> None:
    command = [sys.executable, "demo.py", "--input", "image.jpg", "--output", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "--things" in ended.stderr.splitlines()[-1]


@pytest.fixture
def run_on_three_images(tmp_path: Path, monkeypatch):
    """`hipie demo` on three images, the second broken, with a stub that reads files."""

    class FileSegmenter(StubSegmenter):
        model = SimpleNamespace(tasks={"referring"})

        def set_image(self, image):
            self.pixels = read_image(image)

        def refer(self, image, expressions):
            pixels = self.pixels if image is None else read_image(image)
            (expression,) = [expressions] if isinstance(expressions, str) else expressions
            return super().refer(pixels, expression)

    monkeypatch.setattr(demo, "build_segmenter", lambda _: FileSegmenter())
    names = [str(tmp_path / f"{number}.png") for number in range(3)]
    for name in names:
        Image.new("RGB", (60, 40)).save(name)
    Path(names[1]).write_bytes(b"no image")

    def run(*more: str, tasks=("referring",)) -> dict:
        FileSegmenter.model.tasks = set(tasks)
        given = ["--input", *names, "--expression", "the dog", "--output", str(tmp_path / "out")]
        try:
            assert main(["demo", *given, *more]) == 0
        finally:
            results = json.loads((tmp_path / "out/results.json").read_text())
        return {Path(name).name: entries for name, entries in results.items()}

    return run


def test_broken_image_is_named_and_earlier_results_are_kept(
    run_on_three_images, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"^hipie demo: .*1\.png"):
        run_on_three_images()
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results[str(tmp_path / "0.png")]["expressions"][0]["area"]


def test_broken_image_can_be_skipped(run_on_three_images) -> None:
    results = run_on_three_images("--skip-broken")
    assert list(results) == ["0.png", "2.png"]
    assert all(set(entries) == {"expressions", "group"} for entries in results.values())


def test_group_results_replace_single_image_results(run_on_three_images) -> None:
    results = run_on_three_images("--skip-broken", tasks=("referring", "group"))
    for entries in results.values():
        assert set(entries) == {"group"} and entries["group"]["the dog"]["shown"]
        assert len(entries["group"]["the dog"]["annotations"]) == 1
