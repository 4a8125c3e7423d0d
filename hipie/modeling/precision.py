"""Number formats of inference: their names, and bfloat16 with weights that are cast once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import nn

from hipie.errors import InputError

FLOAT32, BFLOAT16, INT8, AUTO = "float32", "bfloat16", "int8", "auto"
PRECISIONS = (FLOAT32, BFLOAT16, INT8, AUTO)
# Instructions that multiply matrices of bfloat16, by their names in `torch.cpu.get_capabilities`.
CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")

Method = TypeVar("Method", bound=Callable[..., Any])
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 in hardware.

    CPUs with AVX512_BF16, AMX or Arm's BF16 do, and GPUs from Ampere on.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in CPU_INSTRUCTIONS)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision that a name stands for on a device.

    Args:
        precision: one of `PRECISIONS`; "auto" is bfloat16 where `computes_bfloat16`, else float32.
        device: of the model.

    Raises:
        InputError: for another name.
    """
    if precision not in PRECISIONS:
        raise InputError(
            f"MODEL.PRECISION is {precision!r}; it has to be {', '.join(PRECISIONS[:-1])} or "
            f"{PRECISIONS[-1]}"
        )
    if precision == AUTO:
        return BFLOAT16 if computes_bfloat16(device) else FLOAT32
    return precision


def cast_weights(model: nn.Module, float32: Iterable[nn.Module] = ()) -> None:
    """Cast the weights of matrix products and convolutions to bfloat16, in place.

    For inference under autocast, which then has no weight left to cast. Weights of convolutions are
    stored channels last. Norms and embeddings keep float32. Modules that keep float32 run without
    autocast, on inputs that are cast to float32.

    Args:
        model: in evaluation mode.
        float32: modules that keep float32 with everything in them.
    """
    kept: set[nn.Module] = set()
    for module in float32:
        kept.update(module.modules())
        module.forward = partial(_in_float32, module)
    for module in model.modules():
        if module in kept or not isinstance(module, _CAST):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            data = parameter.detach().to(torch.bfloat16)
            if data.dim() == 4:
                data = data.contiguous(memory_format=torch.channels_last)
            setattr(module, name, nn.Parameter(data, requires_grad=False))


def in_model_precision(method: Method) -> Method:
    """Decorate a method of a `SegmentationModel` to run in the model's precision."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.inference_autocast():
            return method(self, *args, **kwargs)

    return cast(Method, call)


def _in_float32(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module without autocast; tensors of bfloat16 among the arguments become float32."""
    args = tuple(_float32(value) for value in args)
    kwargs = {name: _float32(value) for name, value in kwargs.items()}
    device = next(chain(module.parameters(), module.buffers())).device
    with torch.autocast(device.type, enabled=False):
        return type(module).forward(module, *args, **kwargs)


def _float32(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_float32(entry) for entry in value)
    is_reduced = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
    return value.float() if is_reduced else value
