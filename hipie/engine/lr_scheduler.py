"""Learning-rate schedules: Detectron2's and the polynomial one."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler as detectron2_scheduler
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hipie.errors import InputError

POLYNOMIAL = "WarmupPolyLR"


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """Build the schedule that `cfg.SOLVER.LR_SCHEDULER_NAME` names.

    "WarmupPolyLR" is (1 - iteration / MAX_ITER) ** POLY_POWER after a warm-up by the WARMUP_* keys,
    which ends at that curve.

    Args:
        cfg: reads SOLVER.
        optimizer: its learning rates are scheduled.

    Raises:
        InputError: for a name that neither this package nor Detectron2 has, or steps at MAX_ITER.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != POLYNOMIAL:
        try:
            return detectron2_scheduler(cfg, optimizer)
        except ValueError as error:
            raise InputError(f"the learning-rate schedule of SOLVER: {error}") from error
    curve = WarmupParamScheduler(
        PolynomialDecayParamScheduler(1.0, solver.POLY_POWER),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=curve, max_iter=solver.MAX_ITER)
