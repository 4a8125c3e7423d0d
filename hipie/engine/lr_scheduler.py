"""Learning rates over a run: Detectron2's schedules, and the polynomial one."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler as detectron2_scheduler
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

POLYNOMIAL = "WarmupPolyLR"


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The schedule of `cfg.SOLVER.LR_SCHEDULER_NAME`.

    "WarmupPolyLR" is (1 - iteration / MAX_ITER) to the power of POLY_POWER, after a warm-up by the
    WARMUP_* keys that ends on that curve.

    Raises:
        ValueError: for a name that neither this package nor Detectron2 knows.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != POLYNOMIAL:
        return detectron2_scheduler(cfg, optimizer)
    curve = WarmupParamScheduler(
        PolynomialDecayParamScheduler(1.0, solver.POLY_POWER),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=curve, max_iter=solver.MAX_ITER)
