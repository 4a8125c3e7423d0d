"""Architectures without group modules on groups of images: one evaluator for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hipie import model_zoo
from hipie.data.datasets import register_all
from hipie.engine.trainer import Trainer

ROOT = Path(__file__).parents[1]
SMALL_BERT = "SMALL_BERT"
METHODS = {
    "HIPIE": (
        *("tests/tiny.yaml", "MODEL.HIPIE.TEXT.SOURCE", SMALL_BERT),
        *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96),
    ),
    "ReferSAM": (
        "projects/ReferSAM/configs/refersam_nano_picturebook_128.yaml",
        *("MODEL.REFERSAM.TEXT.SOURCE", SMALL_BERT, "MODEL.REFERSAM.TEXT.FROZEN", False),
        *("MODEL.REFERSAM.TEST.NO_TARGET_PIXELS", 50, "INPUT.SQUARE_SIZE", 64),
    ),
    "LAVT": (
        *("projects/GRSer/configs/lavt_nano_picturebook.yaml", "MODEL.TIMM.WEIGHTS", ""),
        *("MODEL.GRSER.TEXT.SOURCE", SMALL_BERT, "MODEL.GRSER.TEXT.FROZEN", False),
        *("INPUT.SQUARE_SIZE", 64),
    ),
    "GlobalLocalCLIP": ("projects/TrainingFree/configs/global_local_random.yaml",),
}


@pytest.mark.parametrize("method", METHODS)
def test_method_is_scored_on_groups(method, tiny_text, tiny_book, tmp_path):
    if method == "ReferSAM":
        pytest.importorskip("segment_anything")
    file, *options = (str(tiny_text) if value == SMALL_BERT else value for value in METHODS[method])
    torch.manual_seed(0)
    cfg = model_zoo.get_config(
        str(ROOT / file),
        [
            *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", str(tmp_path)),
            *("DATASETS.TEST", "('picturebook_val_group',)", "PICTUREBOOK.VAL_GROUPS", 1),
            *("PICTUREBOOK.ROOT", str(tiny_book), "PICTUREBOOK.VAL_PAGES", 3),
            *("PICTUREBOOK.TRAIN_PAGES", 8, "PICTUREBOOK.TRAIN_GROUPS", 2),
            *options,
        ],
    )
    assert cfg.MODEL.META_ARCHITECTURE in (method, "GRSer")
    register_all(cfg)
    Trainer.test(cfg, Trainer.build_model(cfg).eval())
    results = json.loads((tmp_path / "results.json").read_text())["picturebook_val_group"]["group"]
    assert results["groups"] == 1 and results["pairs"] >= 4
    for name in ("mIoU", "mIoU-positive", "N-acc", "T-acc", "P@0.5", "P@0.5-box"):
        assert 0 <= results[name] <= 100, name
