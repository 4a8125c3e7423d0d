"""Number formats of mixed-precision training, and the scaler that float16 needs."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.modeling.precision import computes_bfloat16

logger = get_logger(__name__)

AUTO = "auto"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """Return the number format of activations in training.

    Args:
        cfg: reads SOLVER.AMP.{ENABLED, PRECISION}. "auto" is bfloat16 where `computes_bfloat16`,
            float16 on other GPUs and float32 on other CPUs, which emulate both slowly.
        device: of the model.

    Returns:
        None for float32.

    Raises:
        InputError: for another name.
    """
    amp = cfg.SOLVER.AMP
    if not amp.ENABLED:
        return None
    if amp.PRECISION not in (AUTO, *DTYPES):
        raise InputError(
            f"SOLVER.AMP.PRECISION is {amp.PRECISION!r}; it has to be {AUTO} or "
            f"{' or '.join(DTYPES)}"
        )
    fast, is_gpu = computes_bfloat16(device), device.type == "cuda"
    if amp.PRECISION == AUTO:
        other = torch.float16 if is_gpu else torch.float32
        dtype = torch.bfloat16 if fast else other
        logger.info("SOLVER.AMP: activations are %s", str(dtype).removeprefix("torch."))
        return None if dtype == torch.float32 else dtype
    if amp.PRECISION == "bfloat16" and not fast:
        logger.warning(
            "SOLVER.AMP.PRECISION is bfloat16, which %s emulates slowly; use %s.",
            torch.cuda.get_device_name(device) if is_gpu else "this processor",
            f"float16 or {AUTO}" if is_gpu else AUTO,
        )
    return DTYPES[amp.PRECISION]


def build_grad_scaler(dtype: torch.dtype | None, device: torch.device) -> torch.amp.GradScaler:
    """Build a scaler of losses, which is off unless gradients are float16.

    It multiplies the loss so that small gradients do not vanish in float16, skips a step whose
    gradients overflow, and adapts the factor.
    """
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
