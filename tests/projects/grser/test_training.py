"""Training and evaluation by the trainer on groups of the picture book and public data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg

from grser import add_grser_config
from hipie import add_hipie_config
from hipie.data.datasets import register_all
from hipie.engine.trainer import Trainer
from tests import referring_trees as trees

CONFIG = Path(__file__).parents[3] / "projects/GRSer/configs/grser_nano_picturebook.yaml"


@pytest.fixture
def cfg(tiny_text, tiny_book, tmp_path):
    """Nano configuration with groups of three images of 64 pixels and a text width of 32."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    plain = cfg.clone()
    add_grser_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    keys = cfg.MODEL.GRSER
    keys.TEXT.SOURCE, keys.TEXT.FROZEN = str(tiny_text), False
    keys.GROUP_SIZE = keys.TRAIN.IMAGES_PER_GROUP = 3
    keys.DECODER_WIDTH = 16
    cfg.PICTUREBOOK.ROOT = str(tiny_book)
    cfg.PICTUREBOOK.TRAIN_PAGES, cfg.PICTUREBOOK.VAL_PAGES = 8, 3
    cfg.PICTUREBOOK.TRAIN_GROUPS, cfg.PICTUREBOOK.VAL_GROUPS = 2, 1
    cfg.INPUT.SQUARE_SIZE = 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER = 8
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 4
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    register_all(cfg)
    yield cfg
    register_all(plain)


def train(cfg, steps: int, resume: bool) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.max_iter = steps
    trainer.train()
    return trainer


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted_training(cfg, tmp_path):
    """Train four and four more of eight iterations on two data sets."""
    uninterrupted = train(cfg, 8, False)._trainer
    cfg.OUTPUT_DIR = str(tmp_path / "pieces")
    train(cfg, 4, False)
    torch.rand(17)
    resumed = train(cfg, 8, True)
    assert resumed.start_iter == 4
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(value, resumed._trainer.model.state_dict()[name]), name


@pytest.mark.slow
def test_loss_decreases(cfg):
    """Compare the last five steps on one batch with the first five."""
    cfg.INPUT.EXPRESSION_FLIP_PROB = 0.0
    trainer = Trainer(cfg)
    batch = next(iter(trainer.build_train_loader(cfg)))
    model, optimizer = trainer._trainer.model.train(), trainer._trainer.optimizer
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    losses = []
    for _ in range(40):
        loss_terms = model(batch)
        optimizer.zero_grad()
        sum(loss_terms.values()).backward()
        optimizer.step()
        losses.append(sum(value.item() for value in loss_terms.values()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_learning_rates_and_weight_decay(cfg):
    trainer = Trainer(cfg)
    names = {id(p): name for name, p in trainer._trainer.model.named_parameters()}
    rates = {}
    for group in trainer._trainer.optimizer.param_groups:
        for parameter in group["params"]:
            rate = group["initial_lr"] / cfg.SOLVER.BASE_LR
            rates[names[id(parameter)]] = rate, group["weight_decay"]
    backbone_rate = (cfg.SOLVER.BACKBONE_MULTIPLIER, 0.01)
    assert rates["lavt.encoder.backbone.stem.0.weight"] == pytest.approx(backbone_rate)
    assert rates["lavt.encoder.fusions.0.query.weight"] == pytest.approx((1, 0.01))
    assert rates["lavt.encoder.norms.0.weight"] == pytest.approx((1, 0))
    assert rates["lavt.decoder.levels.0.0.weight"] == pytest.approx((1, 0.01))
    assert rates["text_encoder.model.encoder.layer.0.output.dense.weight"][0] == 1


def results_of(cfg, *names: str) -> dict:
    cfg.DATASETS.TEST = names
    Trainer.test(cfg, Trainer.build_model(cfg).eval())
    return json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text())


def test_evaluation_of_groups(cfg):
    results = results_of(cfg, "picturebook_val_group")["picturebook_val_group"]["group"]
    assert results["groups"] == 1 and results["pairs"] >= 4
    expected_metrics = {"mIoU-positive", "oIoU-positive", "N-acc", "T-acc", "mIoU"}
    assert expected_metrics | {f"macro-{name}" for name in expected_metrics} <= set(results)


def test_metrics_of_a_model_that_rejects_all_images(cfg):
    cfg.MODEL.GRSER.TEST.MARGIN = 1e3
    results = results_of(cfg, "picturebook_val_group")["picturebook_val_group"]["group"]
    assert (results["N-acc"], results["T-acc"], results["mIoU-positive"]) == (100, 0, 0)


def test_evaluation_of_single_images(cfg):
    results = results_of(cfg, "picturebook_val_refer")["picturebook_val_refer"]["refer"]
    assert {"oIoU", "mIoU", "P@0.5"} <= set(results)


@pytest.fixture
def public_datasets(cfg, tmp_path, monkeypatch):
    """RefCOCO, GRD and co-saliency data sets in their public layouts."""
    downloads, root = tmp_path / "downloads", tmp_path / "sets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    trees.write_grd(downloads)
    trees.write_cosod(downloads)
    trees.write_refcoco(downloads, root)
    shutil.unpack_archive(downloads / "refcoco.zip", root)
    shutil.unpack_archive(downloads / "d3_pkl.zip", root / "grd")
    (root / "grd/d3_pkl").rename(root / "grd/pkl")
    (downloads / "d3_images").rename(root / "grd/images")
    (root / "cosod").mkdir()
    (downloads / "CoCA/binary").rename(downloads / "CoCA/gt")
    (downloads / "CoCA").rename(root / "cosod/CoCA")
    register_all(cfg)
    yield root
    monkeypatch.undo()
    register_all(cfg)


def test_evaluation_of_public_datasets(cfg, public_datasets):
    """All images of groups are rejected, those of co-saliency sets are not."""
    cfg.MODEL.GRSER.TEST.MARGIN = 1e3
    results = results_of(cfg, "grd_intra", "grd_intra_full", "refcoco_unc_val")
    intra, refcoco = results["grd_intra"]["group"], results["refcoco_unc_val"]["refer"]
    assert (intra["pairs"], intra["N-acc"]) == (4, 100)
    assert results["grd_intra_full"]["group"]["pairs"] == 8
    assert refcoco["expressions"] > 0
    cfg.MODEL.GRSER.TEST.REJECT_NEGATIVES, cfg.MODEL.GRSER.TEST.SOFT_MASKS = False, True
    soft_results = results_of(cfg, "coca")["coca"]["cosaliency"]
    assert soft_results["images"] == 4 and 0 < soft_results["MAE"] < 1


@pytest.mark.parametrize("name", ["refcoco_unc_train", "grd_intra_full", "coca"])
def test_public_datasets_give_training_groups(cfg, public_datasets, name):
    cfg.DATASETS.TRAIN, cfg.DATALOADER.DATASET_RATIO = (name,), ()
    cfg.SOLVER.IMS_PER_BATCH = 1
    loader = iter(Trainer.build_train_loader(cfg))
    for _ in range(4):
        ((group),) = next(loader)
        assert len(group["images"]) == 3 and group["expression"]
        assert any(image["target"].any() for image in group["images"])
