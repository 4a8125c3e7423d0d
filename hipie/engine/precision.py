"""Number formats of mixed-precision training, and the scaler that float16 needs."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from hipie.errors import InputError
from hipie.logs import get_logger

logger = get_logger(__name__)

AUTO = "auto"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """Return the number format of activations in training.

    Args:
        cfg: reads SOLVER.AMP.{ENABLED, PRECISION}. "auto" is bfloat16 on CPUs and on GPUs that
            compute in it (Ampere and newer), float16 on other GPUs.
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
    fast = has_fast_bfloat16(device)
    if amp.PRECISION == AUTO:
        dtype = torch.bfloat16 if fast else torch.float16
        logger.info("SOLVER.AMP: activations are %s", str(dtype).removeprefix("torch."))
        return dtype
    if amp.PRECISION == "bfloat16" and not fast:
        logger.warning(
            "SOLVER.AMP.PRECISION is bfloat16, which %s emulates slowly; use float16 or %s.",
            torch.cuda.get_device_name(device),
            AUTO,
        )
    return DTYPES[amp.PRECISION]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16, rather than emulating it (GPUs before Ampere)."""
    if device.type != "cuda":
        return True
    return torch.cuda.get_device_capability(device) >= (8, 0)


def build_grad_scaler(dtype: torch.dtype | None, device: torch.device) -> torch.amp.GradScaler:
    """Build a scaler of losses, which is off unless gradients are float16.

    It multiplies the loss so that small gradients do not vanish in float16, skips a step whose
    gradients overflow, and adapts the factor.
    """
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
