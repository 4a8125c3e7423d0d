"""The demonstration and the program around it, with a model of random weights."""

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

from hipie.cli.demo import SEED, Demonstration
from hipie.data.image_io import read_image
from hipie.segmentation import Segment, Segmentation

ROOT = Path(__file__).parents[1]


class Standin:
    """Answers with a box in the middle, so that only the demonstration itself is tested."""

    def segment(self, image, things, stuff=(), parts=None):
        assert not set(things) & set(stuff)
        return Segmentation(image, [Segment(things[0], "thing", self.middle(image), 0.5)])

    def refer(self, image, expression):
        return Segmentation(image, [Segment(expression, "sentence", self.middle(image), 0.5)])

    def refer_group(self, images, expression):
        return [self.refer(image, expression) for image in images]

    @staticmethod
    def middle(image) -> np.ndarray:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), bool)
        mask[height // 4 : height // 2, width // 4 : width // 2] = True
        return mask


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    Demonstration(Standin(), folder).run()
    return folder


def test_at_least_eight_drawings_that_open(shown: Path) -> None:
    drawings = list(shown.glob("*.png"))
    assert len(drawings) >= 8
    for drawing in drawings:
        assert min(Image.open(drawing).size) > 100


def test_results_hold_every_mask(shown: Path) -> None:
    results = json.loads((shown / "results.json").read_text())
    assert {path.stem for path in shown.glob("*.png")} == set(results)
    for answer in results.values():
        assert answer["title"]
        for found in answer["segments"]:
            for segment in found if isinstance(found, list) else [found]:
                mask = coco_mask.decode(segment["segmentation"])
                assert list(mask.shape) == segment["segmentation"]["size"]
                assert mask.sum() == segment["area"]


def test_photographs_are_said_to_be_foreign(shown: Path) -> None:
    results = json.loads((shown / "results.json").read_text())
    photographs = [name for name in results if name.startswith("photo_")]
    assert len(photographs) == 2
    assert all("never seen a photograph" in results[name]["title"] for name in photographs)


def test_its_pages_are_not_those_of_training() -> None:
    from detectron2.config import get_cfg

    from hipie.config import add_hipie_config

    cfg = get_cfg()
    add_hipie_config(cfg)
    assert cfg.PICTUREBOOK.SEED != SEED


def test_without_words_the_program_says_what_to_give(tmp_path: Path) -> None:
    command = [sys.executable, "demo.py", "--input", "page.jpg", "--output", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "--things" in ended.stderr.splitlines()[-1]


@pytest.fixture
def three(tmp_path: Path, monkeypatch):
    """demo.py on three images, the second broken, with a stand-in that reads files."""
    import demo

    class Reads(Standin):
        model = SimpleNamespace(tasks={"referring"})

        def refer(self, image, expressions):
            pixels = read_image(image)
            (expression,) = [expressions] if isinstance(expressions, str) else expressions
            return super().refer(pixels, expression)

    monkeypatch.setattr(demo.Segmenter, "from_config", lambda *_: Reads())
    names = [str(tmp_path / f"{number}.png") for number in range(3)]
    for name in names:
        Image.new("RGB", (60, 40)).save(name)
    Path(names[1]).write_bytes(b"no image")

    def call(*more: str, tasks=("referring",)) -> dict:
        Reads.model.tasks = set(tasks)
        given = ["--input", *names, "--expression", "the dog", "--output", str(tmp_path / "out")]
        try:
            demo.main([*given, *more])
        finally:
            results = json.loads((tmp_path / "out/results.json").read_text())
        return {Path(name).name: answers for name, answers in results.items()}

    return call


def test_a_broken_image_ends_the_program_with_an_expression_and_loses_nothing(
    three, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"^demo.py: .*1\.png"):
        three()
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results[str(tmp_path / "0.png")]["sentences"][0]["area"]


def test_or_is_left_out(three) -> None:
    found = three("--skip-broken")
    assert list(found) == ["0.png", "2.png"]
    assert all(set(one) == {"sentences", "group"} for one in found.values())


def test_what_a_model_of_groups_says_is_in_the_results(three) -> None:
    found = three("--skip-broken", tasks=("referring", "group"))
    for answers in found.values():
        assert set(answers) == {"group"} and answers["group"]["the dog"]["shown"]
        assert len(answers["group"]["the dog"]["annotations"]) == 1
