"""Number format of activations, and scaled losses in float16."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.config import get_cfg

from hipie.config import add_hipie_config
from hipie.engine.hooks import DivergedError
from hipie.engine.precision import autocast_dtype
from hipie.errors import InputError
from tests.toy_trainer import Toy, ToyTrainer, run


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float16"])
def test_precision_of_activations(make_trainer, monkeypatch, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    options = ("SOLVER.MAX_ITER", 2, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", precision)
    trainer = run(make_trainer(*options))
    expected = torch.float16 if precision == "float16" else torch.bfloat16
    assert trainer._trainer.model.hidden_dtype == expected
    assert trainer._trainer.grad_scaler.is_enabled() == (precision == "float16")
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in trainer.model.parameters())


class SmallLoss(Toy):
    """Model whose losses, in float32, have gradients below what float16 can represent."""

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: 1e-8 * loss.float() for name, loss in super().forward(batch).items()}


def test_scaler_keeps_small_float16_gradients_and_unscales_them_before_clipping(make_trainer):
    class Small(ToyTrainer):
        @classmethod
        def build_model(cls, cfg):
            torch.manual_seed(5)
            return SmallLoss()

    def gradients(*options) -> list[torch.Tensor]:
        trainer = make_trainer("SOLVER.MAX_ITER", 1, *options, kind=Small)
        return [p.grad for p in run(trainer).model.parameters()]

    expected = gradients()
    half = gradients("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "float16")
    for exact, rounded in zip(expected, half, strict=True):
        assert exact.abs().max() > 0
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=1e-10)


def test_overflow_halves_the_scale_and_leaves_the_weights(make_trainer):
    options = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "float16", "SOLVER.MAX_ITER", 3)
    trainer = make_trainer(*options)
    trainer._trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(DivergedError, match="the last 3 of 3 steps are not finite"):
        run(trainer)
    assert trainer._trainer.skipped_in_a_row == 3
    assert trainer._trainer.grad_scaler.get_scale() == 2.0**37
    assert all(map(torch.equal, before, trainer.model.parameters()))


@pytest.mark.parametrize("has_instructions", [False, True])
def test_processors_without_bfloat16_train_in_float32(monkeypatch, caplog, has_instructions):
    caplog.set_level(logging.WARNING)
    capabilities = {"avx512_bf16": has_instructions}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.SOLVER.AMP.ENABLED = True
    cpu = torch.device("cpu")
    assert autocast_dtype(cfg, cpu) == (torch.bfloat16 if has_instructions else None)
    cfg.SOLVER.AMP.PRECISION = "bfloat16"
    assert autocast_dtype(cfg, cpu) == torch.bfloat16
    assert ("this processor emulates slowly; use auto" in caplog.text) != has_instructions


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
def test_older_gpus_train_in_float16(monkeypatch, caplog, capability):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an older card")
    cfg = get_cfg()
    add_hipie_config(cfg)
    cuda = torch.device("cuda")
    assert autocast_dtype(cfg, cuda) is None
    cfg.SOLVER.AMP.ENABLED = True
    is_old = capability < (8, 0)
    assert autocast_dtype(cfg, cuda) == (torch.float16 if is_old else torch.bfloat16)
    cfg.SOLVER.AMP.PRECISION = "bfloat16"
    assert autocast_dtype(cfg, cuda) == torch.bfloat16
    assert ("an older card emulates slowly" in caplog.text) == is_old
    cfg.SOLVER.AMP.PRECISION = "float8"
    with pytest.raises(InputError, match="SOLVER.AMP.PRECISION is 'float8'"):
        autocast_dtype(cfg, cuda)
