"""`hipie show` with a data set that a module registers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie.cli.main import main
from tests.cli.annotated_sets import write_sets

MODULE = """
from detectron2.data.datasets import register_coco_instances

register_coco_instances("{name}", {{}}, "{root}/shelf/val.json", "{root}/shelf/images")
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A file that registers a data set of four images with bottles and boxes."""
    write_sets(tmp_path)
    file = tmp_path / "my_sets.py"
    file.write_text(MODULE.format(name=f"shelf_of_{tmp_path.name}", root=tmp_path))
    return file


def test_a_set_that_a_module_registers(module: Path, restored_logging) -> None:
    name, output = f"shelf_of_{module.parent.name}", module.parent / "sheets"
    arguments = ["hipie-nano-picturebook", "--import", str(module), "--data", name]
    assert main(["show", *arguments, "--count", "3", "--output", str(output)]) == 0
    scores = json.loads((output / f"{name}_scores.json").read_text())["images"]
    assert len(scores) == 4
    values = [one["score"] for one in scores]
    assert values == sorted(values) and all(0 <= value <= 1 for value in values)
    sheet = np.asarray(Image.open(output / f"{name}_0.png").convert("RGB")).astype(int)
    # The image is drawn at least twice: beside its annotation and beside the prediction.
    assert min(sheet.shape[:2]) > 100 and sheet.std() > 10


def test_a_set_that_nothing_registers_is_named(module: Path, restored_logging) -> None:
    arguments = ["hipie-nano-picturebook", "--data", "shelf_of_nobody"]
    with pytest.raises(SystemExit, match='there is no data set "shelf_of_nobody"; --import regist'):
        main(["show", *arguments, "--output", str(module.parent / "sheets")])
    assert not (module.parent / "sheets").exists()
