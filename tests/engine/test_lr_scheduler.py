"""Learning-rate schedules."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg

from hipie.config import add_hipie_config
from hipie.engine.lr_scheduler import build_lr_scheduler
from hipie.errors import InputError


def rates(**solver) -> list[float]:
    cfg = get_cfg()
    add_hipie_config(cfg)
    for key, value in {"MAX_ITER": 100, "WARMUP_ITERS": 0, **solver}.items():
        setattr(cfg.SOLVER, key, value)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = build_lr_scheduler(cfg, optimizer)
    lrs = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return lrs


def test_polynomial_decay():
    lrs = rates(LR_SCHEDULER_NAME="WarmupPolyLR")
    assert lrs == pytest.approx([2.0 * (1 - i / 100) ** 0.9 for i in range(100)])


def test_warm_up_ends_at_the_polynomial():
    lrs = rates(LR_SCHEDULER_NAME="WarmupPolyLR", WARMUP_ITERS=10, WARMUP_FACTOR=0.001)
    assert lrs[0] == pytest.approx(0.002)
    assert lrs[:11] == sorted(lrs[:11])
    assert lrs[10:] == pytest.approx([2.0 * (1 - i / 100) ** 0.9 for i in range(10, 100)])


def test_detectron2_schedules_are_available():
    lrs = rates(LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(50,), GAMMA=0.1)
    assert lrs == pytest.approx([2.0] * 50 + [0.2] * 50)
    with pytest.raises(InputError, match="WarmupWhatever"):
        rates(LR_SCHEDULER_NAME="WarmupWhatever")
    with pytest.raises(InputError, match="SOLVER: Milestone must be smaller than .*=100"):
        rates(LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(100,))
