"""Nano configuration through the command line and the API, and errors for invalid input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie import Segmenter, model_zoo
from hipie.checkpoint import save_weights
from hipie.cli.main import main

CONFIG = str(
    Path(__file__).parents[3] / "projects/ReferSAM/configs/refersam_nano_picturebook_128.yaml"
)
EXPRESSIONS = ["the red car on the left", "a dog"]


@pytest.fixture(scope="module")
def options(tiny_text) -> list[str]:
    """Text width 32, images of 64x64."""
    return ["MODEL.REFERSAM.TEXT.SOURCE", str(tiny_text), "INPUT.SQUARE_SIZE", "64"]


@pytest.fixture(scope="module")
def weights(options, tmp_path_factory) -> Path:
    """File with random weights."""
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    model = build_model(model_zoo.get_config(CONFIG, options))
    file = tmp_path_factory.mktemp("weights") / "refersam.safetensors"
    save_weights(model, file)
    return file


@pytest.fixture
def image_file(tmp_path) -> str:
    """File of an image that is not square."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def command(options, weights, tmp_path):
    """Build the last arguments of a command line."""
    out = str(tmp_path / "out")
    return lambda **changes: [
        *("--config-file", changes.get("config", CONFIG)),
        *("--weights", str(changes.get("weights", weights)), "--device", "cpu", "--output", out),
        *("--opts", *options, *changes.get("more", [])),
    ]


def test_segmenter_segments_every_expression(options, weights, image_file):
    segmenter = Segmenter.from_config(CONFIG, weights, "cpu", options)
    segmentation = segmenter.refer(image_file, EXPRESSIONS)
    assert segmentation.labels == EXPRESSIONS and segmentation.masks.shape == (2, 60, 100)
    with pytest.raises(ValueError, match=r"ReferSAM cannot segment\(\)"):
        segmenter.segment(image_file, ["dog"])
    group_results = segmenter.refer_group([image_file, image_file], EXPRESSIONS[0])
    with pytest.raises(ValueError, match="heatmaps need a model .*ReferSAM segments"):
        segmenter.refer_group([image_file], EXPRESSIONS[0], heatmaps=True)
    assert np.array_equal(group_results[0].masks, group_results[1].masks)


def test_refer_command_and_demo_write_results(command, image_file, tmp_path):
    main(["refer", image_file, *EXPRESSIONS, *command()])
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".png", ".json"}
    arguments = [value for text in EXPRESSIONS for value in ("--expression", text)]
    main(["demo", "--input", image_file, *arguments, *command()])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (entry,) = results["images"]
    assert entry["image"]["file"] == image_file and len(entry["expressions"]) == 2
    assert Image.open(tmp_path / "out" / "image_expressions.png").size[0] > 100


@pytest.mark.parametrize(
    ("expression", "changes", "message"),
    [
        ("?!", {}, "\\?!"),
        ("a dog", {"more": ["INPUT.SQUARE_SIZE", "80"]}, "80x80 pixels.*divisible by 32"),
        ("a dog", {"more": ["MODEL.REFERSAM.SAM", "vit_z"]}, '"vit_z"; available: vit_t, vit_b'),
        ("a dog", {"more": ["MODEL.REFERSAM.SPARSE", "1"]}, "MODEL.REFERSAM.SPARSE_TOKENS"),
        ("a dog", {"weights": "nowhere.pth"}, "nowhere.pth"),
        (
            "a dog",
            {"weights": "sam_vit_b_01ec64.pth"},
            "sam_vit_b_01ec64.pth: there is no such file.*dl.fbaipublicfiles.com/segment_anything/",
        ),
    ],
)
def test_invalid_input_exits_with_one_line(
    command, image_file, expression, changes, message, tmp_path
):
    with pytest.raises(SystemExit, match=f"(?s){message}") as stop:
        main(["refer", image_file, expression, *command(**changes)])
    assert "\n" not in stop.value.code
    assert not (tmp_path / "out").exists()


def test_missing_weights_exit_with_an_error(image_file):
    with pytest.raises(SystemExit, match="no weights for this configuration"):
        main(["refer", image_file, "a dog", "--config-file", CONFIG, "--device", "cpu"])
