"""Configurations: keys, data sets, and a small one of each architecture from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from hipie import Segmenter, add_hipie_config
from hipie.config.loading import check, merge
from hipie.data.datasets import register_all

FOLDER = Path(__file__).parents[3] / "projects/TrainedCLIP/configs"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("Base-"))
RANDOM = [path for path in FILES if path.stem.endswith("_random")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configuration_is_valid(path):
    from hipie.modeling.open_vocabulary.clip_loading import require_clip

    cfg = get_cfg()
    add_hipie_config(cfg)
    merge(cfg, path)
    check(cfg)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    require_clip(cfg.MODEL.TRAINED_CLIP.CLIP.MODEL, cfg.MODEL.TRAINED_CLIP.CLIP.WEIGHTS)
    register_all(cfg)
    assert set(cfg.DATASETS.TRAIN) | set(cfg.DATASETS.TEST) <= set(DatasetCatalog.list())
    if cfg.MODEL.META_ARCHITECTURE != "ZegCLIP":
        assert cfg.INPUT.SQUARE_SIZE % 32 == 0 and cfg.INPUT.SQUARE_SIZE > 0


def run(path: Path, folder: Path, book: Path, *arguments: str) -> None:
    from hipie.cli import train

    options = [
        *("PICTUREBOOK.ROOT", str(book), "PICTUREBOOK.TRAIN_PAGES", "6"),
        *("PICTUREBOOK.VAL_PAGES", "2", "OUTPUT_DIR", str(folder), "SOLVER.CHECKPOINT_PERIOD", "2"),
    ]
    train.run(train.parse_arguments(["--config-file", str(path), *arguments, *options]))


@pytest.mark.slow
@pytest.mark.parametrize("path", RANDOM, ids=lambda path: path.stem)
def test_training_resumes_is_evaluated_and_segments(path, tiny_book, tmp_path):
    book = tiny_book / "trained_clip"
    run(path, tmp_path, book, "SOLVER.MAX_ITER", "2")
    run(path, tmp_path, book, "--resume", "SOLVER.MAX_ITER", "4")
    steps = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert max(step["iteration"] for step in steps if "total_loss" in step) == 3
    results = json.loads((tmp_path / "results.json").read_text())
    (tasks,) = results.values()
    if path.stem.startswith("zegclip"):
        scores = tasks["sem_seg"]
        assert {"mIoU-seen", "mIoU-unseen", "hIoU"} <= set(scores)
    else:
        assert 0 <= tasks["refer"]["oIoU"] <= 100
    segmenter = Segmenter.from_config(path, tmp_path / "model_final.pth", "cpu")
    image = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8).numpy()
    if path.stem.startswith("zegclip"):
        assert set(segmenter.segment(image, ["dog"], ["grass"]).labels) <= {"dog", "grass"}
    else:
        assert segmenter.refer(image, ["a dog"]).labels == ["a dog"]
