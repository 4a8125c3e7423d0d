"""The demonstration and the program around it, with a model of random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hipie.demonstration import SEED, Demonstration
from hipie.segmentation import Segment, Segmentation

ROOT = Path(__file__).parents[1]


class Standin:
    """Answers with a box in the middle, so that only the demonstration itself is tested."""

    def segment(self, image, things, stuff=(), parts=None):
        assert not set(things) & set(stuff)
        return Segmentation(image, [Segment(things[0], "thing", self.middle(image), 0.5)])

    def refer(self, image, sentence):
        return Segmentation(image, [Segment(sentence, "sentence", self.middle(image), 0.5)])

    def refer_group(self, images, sentence):
        return [self.refer(image, sentence) for image in images]

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
