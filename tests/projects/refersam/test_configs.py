"""Configurations of ReferSAM."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from hipie import add_hipie_config
from hipie.config.loading import check, merge
from hipie.data.datasets import register_all
from refersam import add_refersam_config
from refersam.modeling.sam import VARIANTS

FOLDER = Path(__file__).parents[3] / "projects/ReferSAM/configs"
FILES = sorted(path for path in FOLDER.glob("**/*.yaml") if not path.name.startswith("Base-"))


def read(path: Path):
    cfg = get_cfg()
    add_hipie_config(cfg)
    add_refersam_config(cfg)
    merge(cfg, path)
    check(cfg)
    return cfg


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configuration_is_valid(path):
    cfg = read(path)
    assert cfg.MODEL.META_ARCHITECTURE == "ReferSAM"
    assert cfg.MODEL.REFERSAM.SAM in VARIANTS
    assert cfg.INPUT.SQUARE_SIZE % 32 == 0 and cfg.INPUT.SQUARE_SIZE > 0
    register_all(cfg)
    registered = set(DatasetCatalog.list())
    assert set(cfg.DATASETS.TRAIN) | set(cfg.DATASETS.TEST) <= registered


def test_only_datasets_without_targets_clear_small_masks():
    configs = {p.stem: read(p) for p in FILES}
    clearing = {name for name, cfg in configs.items() if cfg.MODEL.REFERSAM.TEST.NO_TARGET_PIXELS}
    generalized = {name for name, cfg in configs.items() if cfg.INPUT.GENERALIZED_EXPRESSIONS}
    assert generalized == {"refersam_vit_b_grefcoco", "refersam_vit_b_refzom"}
    # GRD's groups have images without the target; the training on RefCOCO has none.
    assert clearing == {*generalized, "refersam_vit_b_grd"}
