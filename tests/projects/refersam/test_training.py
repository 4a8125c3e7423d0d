"""Training by the trainer: resuming, decrease of the loss, and parameter groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hipie.engine.trainer import Trainer
from refersam import add_refersam_config

CONFIG = Path(__file__).parents[3] / "projects/ReferSAM/configs/refersam_nano_picturebook.yaml"


@pytest.fixture
def cfg(tiny_text, tiny_book, tmp_path):
    """Nano configuration with images of 64 pixels and a text width of 32."""
    from detectron2.config import get_cfg

    from hipie import add_hipie_config
    from hipie.data.datasets import register_all

    cfg = get_cfg()
    add_hipie_config(cfg)
    plain = cfg.clone()
    add_refersam_config(cfg)
    cfg.merge_from_file(str(CONFIG))
    cfg.MODEL.REFERSAM.TEXT.SOURCE = str(tiny_text)
    cfg.MODEL.REFERSAM.TEXT.FROZEN = False
    cfg.MODEL.REFERSAM.LOSS.NUM_POINTS = 64
    cfg.PICTUREBOOK.ROOT = str(tiny_book)
    cfg.PICTUREBOOK.TRAIN_PAGES, cfg.PICTUREBOOK.VAL_PAGES = 8, 3
    cfg.PICTUREBOOK.UNSEEN_PAGES = 2
    cfg.INPUT.SQUARE_SIZE = 64
    cfg.INPUT.EXPRESSIONS_PER_IMAGE = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 20
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 10
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
    uninterrupted = train(cfg, 20, False)._trainer
    cfg.OUTPUT_DIR = str(tmp_path / "pieces")
    train(cfg, 10, False)
    torch.rand(17)
    resumed = train(cfg, 20, True)
    assert resumed.start_iter == 10
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(value, resumed._trainer.model.state_dict()[name]), name
    state, resumed_state = (
        uninterrupted.optimizer.state_dict(),
        resumed._trainer.optimizer.state_dict(),
    )
    assert state["param_groups"] == resumed_state["param_groups"]
    for key, moments in state["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, resumed_state["state"][key][name])


@pytest.mark.slow
def test_loss_decreases(cfg):
    """Compare the last five steps on one batch with the first five."""
    cfg.DATASETS.TRAIN = ("picturebook_train_refer",)
    cfg.INPUT.EXPRESSION_FLIP_PROB = 0.0
    cfg.PICTUREBOOK.TRAIN_PAGES = 8
    trainer = Trainer(cfg)
    batch = next(iter(trainer.build_train_loader(cfg)))
    model, optimizer = trainer._trainer.model.train(), trainer._trainer.optimizer
    losses = []
    for _ in range(20):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_learning_rates_and_weight_decay(cfg):
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    trainer = Trainer(cfg)
    rates = {}
    names = {id(p): name for name, p in trainer._trainer.model.named_parameters()}
    for group in trainer._trainer.optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            rates[name] = group["initial_lr"] / cfg.SOLVER.BASE_LR, group["weight_decay"]
    assert rates["image_encoder.blocks.0.attn.qkv.weight"] == pytest.approx((0.1, 0.01))
    assert rates["image_encoder.pos_embed"] == pytest.approx((0.1, 0.0))
    assert rates["text_encoder.model.encoder.layer.0.output.dense.weight"] == pytest.approx(
        (0.1, 0.01)
    )
    assert rates["mask_decoder.mask_tokens.weight"] == pytest.approx((1.0, 0.0))
    assert rates["mask_decoder.output_upscaling.0.weight"] == pytest.approx((1.0, 0.01))
    offsets = "interactor.interactions.0.injector.attention.sampling_offsets.weight"
    assert rates[offsets] == pytest.approx((1.0, 0.01))
