"""Images whose refs have no sentence, as in gRefCOCO's val: every architecture is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie import model_zoo
from hipie.data.datasets.catalog import register_dataset
from hipie.engine.trainer import Trainer

ROOT = Path(__file__).parents[2]
NAMES = ("some_refs", "some_refs_less")


@pytest.fixture
def datasets(tmp_path: Path) -> Iterator[None]:
    """The same images with and without one that has no expression."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(3):
        file = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(file)
        polygon = [4, 4, 24, 4, 24, 24, 4, 24]
        target = {"bbox": [4, 4, 20, 20], "segmentation": [polygon], "category_id": 0}
        expressions = [
            {"expression": "the dog", "targets": [0], "ref_id": number},
            {"expression": "a cat", "targets": [], "ref_id": 10 + number},
        ]
        records.append(
            {
                "file_name": str(file),
                "height": 40,
                "width": 56,
                "image_id": number,
                "annotations": [{**target, "iscrowd": 0}],
                "expressions": [] if number == 1 else expressions,
            }
        )
    for name, own in zip(NAMES, (records, [records[0], records[2]]), strict=True):
        register_dataset(name, lambda own=own: own, task="referring", evaluator_type="grefer")
    yield
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    "file",
    [
        "projects/TrainingFree/configs/global_local_random.yaml",
        pytest.param("configs/nano/hipie_nano_picturebook.yaml", marks=pytest.mark.slow),
        pytest.param(
            "projects/ReferSAM/configs/refersam_nano_picturebook.yaml", marks=pytest.mark.slow
        ),
        pytest.param("projects/GRSer/configs/grser_nano_picturebook.yaml", marks=pytest.mark.slow),
    ],
)
def test_they_do_not_change_the_scores(file: str, datasets, tmp_path: Path) -> None:
    options = ["MODEL.DEVICE", "cpu", "DATASETS.TEST", NAMES, "DATALOADER.NUM_WORKERS", 0]
    cfg = model_zoo.get_config(str(ROOT / file), [*options, "OUTPUT_DIR", str(tmp_path / "out")])
    torch.manual_seed(0)
    results = Trainer.test(cfg, Trainer.build_model(cfg))
    scores, expected = (results[name]["grefer"] for name in NAMES)
    assert scores["expressions"] == 4 and 0 <= scores["gIoU"] <= 100
    assert scores == pytest.approx(expected, nan_ok=True)
