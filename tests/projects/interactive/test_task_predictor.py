"""`Segmenter.prompt`: prompts of one image share SAM's features."""

from __future__ import annotations

from pathlib import Path

import pytest

from hipie import Segmenter
from hipie.modeling.sam.predictor import Sam

CONFIG = Path(__file__).parents[3] / "projects/Interactive/configs/sam_random_picturebook.yaml"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_config(CONFIG, device="cpu")


def test_prompts_on_a_set_image_encode_it_once(segmenter, pixels, monkeypatch) -> None:
    prompts = [[{"inside": [(40, 30)]}], [{"box": (5, 5, 50, 50)}, {"inside": [(20, 20)]}]]
    expected = [segmenter.prompt(pixels, some) for some in prompts]
    encoded, encode = [], Sam.encode
    monkeypatch.setattr(Sam, "encode", lambda sam, image: encoded.append(1) or encode(sam, image))
    segmenter.set_image(pixels)
    assert [segmenter.prompt(prompts=some) for some in prompts] == expected
    assert len(encoded) == 1
    segmenter.reset_image()
    with pytest.raises(ValueError, match="pass one, or call set_image first"):
        segmenter.prompt(prompts=prompts[0])


def test_images_are_encoded_together(segmenter, pixels, monkeypatch) -> None:
    prompts = [{"inside": [(40, 30)]}]
    images = [pixels, 255 - pixels]
    expected = [segmenter.prompt(image, prompts).segments[0] for image in images]
    prepared = [segmenter.prepare(image) for image in images]
    segmenter.task_predictor("interactive", "prompt").encode_together(prepared)
    monkeypatch.delattr(Sam, "encode")
    for image, alone in zip(prepared, expected, strict=True):
        together = segmenter.prompt(image, prompts).segments[0]
        assert together.score == pytest.approx(alone.score, abs=1e-4)
        assert (together.mask != alone.mask).mean() < 1e-3
