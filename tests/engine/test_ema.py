"""Moving average of the weights: its formula, evaluation, files."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.engine.train_loop import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hipie.checkpoint import Checkpointer, CheckpointError, load_weights
from hipie.config.loading import ConfigError, check
from hipie.engine.ema import AVERAGED_WEIGHTS, ModelEMA
from tests.toy_trainer import Toy, ToyTrainer, run

ON = ("MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.9)


class SavingTrainer(ToyTrainer):
    """Trainer with this package's checkpointer, which keeps the weights that it evaluates."""

    evaluated: list[dict]

    @classmethod
    def build_checkpointer(cls, cfg, model, **checkpointables):
        return Checkpointer(model, cfg.OUTPUT_DIR, **checkpointables)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        cls.evaluated.append(weights_of(model))
        return super().test(cfg, model, evaluators)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Reference(HookBase):
    """PyTorch's own average of the same weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.average.update_parameters(model)  # the first call copies

    def after_step(self) -> None:
        self.average.update_parameters(self.model)


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_training_evaluates_saves_and_exports_the_average(make_trainer, tmp_path):
    SavingTrainer.evaluated = []
    trainer = make_trainer(*ON, "TEST.EVAL_PERIOD", 10, kind=SavingTrainer)
    trainer.resume_or_load(False)
    reference = Reference(trainer.model, 0.9)
    trainer.register_hooks([reference])
    trainer.train()
    expected = weights_of(reference.average.module)
    trained = weights_of(trainer.model)
    assert len(SavingTrainer.evaluated) == 2
    assert_same(SavingTrainer.evaluated[1], expected)
    assert all(not torch.equal(trained[name], expected[name]) for name in trained)
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert_same(checkpoint["model"], trained)
    assert_same(checkpoint["ema"], expected)
    for path in ("model_final.pth?ema=True", AVERAGED_WEIGHTS):
        other = Toy()
        assert load_weights(other, f"{tmp_path}/{path}").complete
        assert_same(weights_of(other), expected)


def test_average_starts_at_the_loaded_weights(make_trainer, tmp_path):
    start = Toy()
    torch.save({"model": start.state_dict()}, tmp_path / "start.pth")
    trainer = make_trainer(*ON, "MODEL.WEIGHTS", str(tmp_path / "start.pth"), kind=SavingTrainer)
    trainer.resume_or_load(False)
    assert_same(trainer.ema.state_dict(), weights_of(start))


def test_average_is_resumed_or_starts_anew(make_trainer, caplog):
    caplog.set_level(logging.WARNING)
    SavingTrainer.evaluated = []
    run(make_trainer("SOLVER.MAX_ITER", 5, kind=SavingTrainer))
    trainer = make_trainer(*ON, "SOLVER.MAX_ITER", 10, kind=SavingTrainer)
    run(trainer, resume=True)
    assert "no averaged weights: the average starts anew" in caplog.text
    caplog.clear()
    again = make_trainer(*ON, kind=SavingTrainer)
    again.resume_or_load(True)
    assert_same(again.ema.state_dict(), trainer.ema.state_dict())
    assert "averaged weights" not in caplog.text


def test_frozen_and_shared_parameters():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model["frozen"].requires_grad_(False)
    ema = ModelEMA(model, 0.5)
    with torch.no_grad():
        model["a"].weight.add_(1)
    before = weights_of(model)
    ema.update()
    state = ema.state_dict()
    assert state.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert torch.allclose(state["a.weight"], model["a"].weight - 0.5)
    assert state["b.weight"] is state["a.weight"]
    with pytest.raises(RuntimeError), ema.applied():
        assert torch.equal(model["b"].weight, state["a.weight"])
        raise RuntimeError
    assert_same(before, weights_of(model))


def test_file_without_average_is_an_error(tmp_path):
    torch.save({"model": Toy().state_dict()}, tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match="plain.pth: the file has no averaged weights"):
        load_weights(Toy(), f"{tmp_path}/plain.pth?ema=True")
    with pytest.raises(CheckpointError, match='the option "ema" is True or False, not 1'):
        load_weights(Toy(), f"{tmp_path}/plain.pth?ema=1")


def test_decay_of_1_is_an_error(tiny_cfg):
    tiny_cfg.MODEL_EMA.DECAY = 1.0
    with pytest.raises(ConfigError, match=r"MODEL_EMA.DECAY is 1.0; it has to be at least 0"):
        check(tiny_cfg)
