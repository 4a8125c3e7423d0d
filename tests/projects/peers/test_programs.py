"""The command line, the page and the evaluators take networks of other groups as well."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hipie.cli.main import main


@pytest.fixture
def image(page, tmp_path):
    file = tmp_path / "page.png"
    Image.fromarray(page).save(file)
    return str(file)


def options(tiny_book, tmp_path):
    return [
        *("PICTUREBOOK.ROOT", str(tiny_book / "peers"), "PICTUREBOOK.VAL_PAGES", "2"),
        *("OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"),
    ]


def test_commands_segment_and_refer(image, tmp_path):
    names = ["--things", "dog; car", "--stuff", "sky"]
    for config in ("sam3", "oneformer"):
        output = tmp_path / config
        command = ["segment", image, *names, "--output", str(output), "--device", "cpu"]
        assert main([*command, "--config-file", f"hipie_peers/{config}_random.yaml"]) == 0
        assert any(output.rglob("*.png")) and any(output.rglob("*.json"))
    output = tmp_path / "refer"
    command = ["refer", image, "the red car", "--output", str(output), "--device", "cpu"]
    assert main([*command, "--config-file", "hipie_peers/florence2_random.yaml"]) == 0
    assert any(output.rglob("*.png"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("sam3", {"panoptic_seg": "PQ", "sem_seg": "mIoU", "segm": "AP"}),
        ("grounded_sam", {"panoptic_seg": "PQ", "sem_seg": "mIoU", "segm": "AP"}),
        ("oneformer", {"panoptic_seg": "PQ", "sem_seg": "mIoU"}),
        ("clipseg", {"panoptic_seg": "PQ", "sem_seg": "mIoU"}),
        ("florence2", {"refer": "oIoU"}),
    ],
)
def test_evaluation_on_the_picture_book(config, expected, tiny_book, tmp_path):
    from hipie.cli import train

    line = ["--config-file", f"hipie_peers/{config}_random.yaml", "--eval-only"]
    train.run(train.parse_arguments([*line, *options(tiny_book, tmp_path)]))
    (tasks,) = json.loads((tmp_path / "results.json").read_text()).values()
    for task, metric in expected.items():
        value = tasks[task][metric]
        assert value is not None and (0 <= value <= 100 or np.isnan(value)), (task, value)
    assert ("segm" in tasks) == (config in ("sam3", "grounded_sam", "oneformer"))


def test_the_page_loads_and_compares_them(page):
    pytest.importorskip("gradio")
    from hipie.app.models import ModelPool, ModelSpec

    pool = ModelPool([ModelSpec("clipseg", "hipie_peers/clipseg_random.yaml", True)], "cpu")
    segmenter = pool.get("clipseg")
    assert {"universal", "referring"} <= segmenter.model.tasks
    assert len(segmenter.segment(page, ["dog"], ["sky"]))
