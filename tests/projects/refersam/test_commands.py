"""The nano configuration through the command lines and the API, and what they say of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import demo
from hipie import Segmenter, model_zoo
from hipie.checkpoint import save_weights
from hipie.cli.main import main

CONFIG = str(
    Path(__file__).parents[3] / "projects/ReferSAM/configs/refersam_nano_picturebook_128.yaml"
)
EXPRESSIONS = ["the red car on the left", "a dog"]


@pytest.fixture(scope="module")
def options(tiny_text) -> list[str]:
    """Words 32 wide, images of 64x64."""
    return ["MODEL.REFERSAM.TEXT.SOURCE", str(tiny_text), "INPUT.SQUARE_SIZE", "64"]


@pytest.fixture(scope="module")
def weights(options, tmp_path_factory) -> Path:
    """A file of random weights."""
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    model = build_model(model_zoo.get_config(CONFIG, options))
    file = tmp_path_factory.mktemp("weights") / "refersam.safetensors"
    save_weights(model, file)
    return file


@pytest.fixture
def page(tmp_path) -> str:
    """An image that is not square."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "page.png")
    return str(tmp_path / "page.png")


@pytest.fixture
def command(options, weights, tmp_path):
    """The fixed end of a command line."""
    out = str(tmp_path / "out")
    return lambda **change: [
        *("--config-file", change.get("config", CONFIG)),
        *("--weights", str(change.get("weights", weights)), "--device", "cpu", "--output", out),
        *("--opts", *options, *change.get("more", [])),
    ]


def test_the_segmenter_answers_every_expression(options, weights, page):
    segmenter = Segmenter.from_config(CONFIG, weights, "cpu", options)
    found = segmenter.refer(page, EXPRESSIONS)
    assert found.labels == EXPRESSIONS and found.masks.shape == (2, 60, 100)
    with pytest.raises(ValueError, match=r"ReferSAM cannot segment\(\)"):
        segmenter.segment(page, ["dog"])
    several = segmenter.refer_group([page, page], EXPRESSIONS[0])
    assert np.array_equal(several[0].masks, several[1].masks)


def test_hipie_refer_and_demo_write_drawings(command, page, tmp_path):
    main(["refer", page, *EXPRESSIONS, *command()])
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".png", ".json"}
    expressions = [word for one in EXPRESSIONS for word in ("--expression", one)]
    demo.main(["--input", page, *expressions, *command()])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results[page]["sentences"]) == 2
    assert Image.open(tmp_path / "out" / "page_sentences.png").size[0] > 100


@pytest.mark.parametrize(
    ("expression", "change", "said"),
    [
        ("?!", {}, "\\?!"),
        ("a dog", {"more": ["INPUT.SQUARE_SIZE", "80"]}, "80x80 pixels.*divisible by 32"),
        ("a dog", {"more": ["MODEL.REFERSAM.SAM", "vit_z"]}, '"vit_z"; known are vit_t, vit_b'),
        ("a dog", {"more": ["MODEL.REFERSAM.SPARSE", "1"]}, "MODEL.REFERSAM.SPARSE_TOKENS"),
        ("a dog", {"weights": "nowhere.pth"}, "nowhere.pth"),
        (
            "a dog",
            {"weights": "sam_vit_b_01ec64.pth"},
            "sam_vit_b_01ec64.pth: there is no such file.*dl.fbaipublicfiles.com/segment_anything/",
        ),
    ],
)
def test_one_expression_for_bad_input(command, page, expression, change, said, tmp_path):
    with pytest.raises(SystemExit, match=f"(?s){said}") as stop:
        main(["refer", page, expression, *command(**change)])
    assert "\n" not in stop.value.code
    assert not (tmp_path / "out").exists()


def test_no_weights_at_all(page):
    with pytest.raises(SystemExit, match="no weights for this configuration"):
        main(["refer", page, "a dog", "--config-file", CONFIG, "--device", "cpu"])
