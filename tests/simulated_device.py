"""A device that is simulated on the CPU, and counts what makes the host wait for it.

Tensors on it compute on the CPU, but report another device: copies to and from the host are
visible, as they are not between tensors of the CPU. Nothing outside this module is patched, and no
process-wide state changes but inside the context `SimulatedDevice`.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten

# PyTorch knows the type, has no kernels for it, and runs its backward passes in the calling thread.
DEVICE = torch.device("lazy", 0)

# Operators whose result, or its size, is a number on the host. CUDA waits for all of them.
READS_VALUES = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
    torch.ops.torchvision.nms.default,
}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
COPIES = {aten._to_copy.default, aten.copy_.default}


class DeviceTensor(Tensor):
    """A tensor of the simulated device: the values are those of `inner`, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        """Wrap a tensor of the CPU, without its gradient."""
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse to compute outside the context."""
        raise RuntimeError(f"{func} of the simulated device outside its context")

    def __repr__(self) -> str:
        return f"DeviceTensor({self.inner!r})"

    def tolist(self) -> Any:
        """Values as Python numbers, which the C++ method refuses to give for subclasses."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        """A tensor of the same type on the same device."""
        return _tensor(data, dtype=dtype or self.dtype, device=device or self.device)

    def __getitem__(self, index: Any) -> Tensor:
        """Index, with lists copied to the device as PyTorch does."""
        return super().__getitem__(self._with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        """Set by index, likewise."""
        super().__setitem__(self._with_tensors(index), value)

    def _with_tensors(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(
            _tensor(part, device=self.device) if isinstance(part, list) else part for part in parts
        )
        return parts if isinstance(index, tuple) else parts[0]

    def numpy(self, **_options: Any) -> Any:
        """Refuse, as CUDA's tensors do."""
        raise TypeError("can't convert a tensor of the simulated device to numpy; use .cpu() first")


class SimulatedDevice(TorchDispatchMode):
    """Context in which tensors of `DEVICE` compute, and operators and waiting are counted.

    Attributes:
        operators: number of calls of every operator with a tensor of the device.
        waits: number of calls of every operator that makes the host wait for the device, by its
            name and the line of the caller inside the repository. As with
            `torch.cuda.set_sync_debug_mode`, copies from the host count unless they are
            `non_blocking`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._patched = mock.patch.multiple(
            torch,
            autocast=_Autocast,
            is_autocast_enabled=_is_autocast_enabled,
            tensor=_tensor,
            as_tensor=_as_tensor,
        )

    def __enter__(self) -> SimulatedDevice:
        self._patched.start()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._patched.stop()

    def reset(self) -> None:
        """Start counting anew."""
        self.operators.clear()
        self.waits.clear()

    def report(self) -> str:
        """Every place where the host waits, with the number of times, most frequent first."""
        return "\n".join(f"{count:5d}  {place}" for place, count in self.waits.most_common())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on the CPU, and count it where it concerns the device."""
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [isinstance(tensor, DeviceTensor) for tensor in tensors]
        target = kwargs.get("device")
        to_device = target is not None and torch.device(target).type == DEVICE.type
        if not any(on_device) and not to_device:
            return func(*args, **kwargs)
        self.operators[str(func)] += 1
        if self._waits(func, args, kwargs, on_device):
            self.waits[f"{func} at {_caller()}"] += 1
        if func not in COPIES | INDEXING and not all(
            device or tensor.ndim == 0 for tensor, device in zip(tensors, on_device, strict=True)
        ):
            raise RuntimeError(f"{func} with tensors on the simulated device and on the host")
        if to_device:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner_kwargs = tree_map(_unwrap, (args, kwargs))
        out = func(*inner_args, **inner_kwargs)
        if func is aten.copy_.default:
            return args[0]
        if func is aten._to_copy.default and target is not None and not to_device:
            return out
        out = tree_map(lambda x: DeviceTensor(x) if isinstance(x, Tensor) else x, out)
        return return_and_correct_aliasing(func, args, kwargs, out)

    @staticmethod
    def _waits(func: Any, args: Any, kwargs: dict[str, Any], on_device: list[bool]) -> bool:
        if func is aten.repeat_interleave.Tensor:
            return kwargs.get("output_size") is None
        if func in READS_VALUES:
            return True
        if func is aten.copy_.default:
            blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            return not all(on_device) and (blocking or not on_device[0])
        if func is aten._to_copy.default:
            target = kwargs.get("device")
            if target is None or (torch.device(target).type == DEVICE.type) == on_device[0]:
                return False
            return on_device[0] or not kwargs.get("non_blocking", False)
        if func in INDEXING:
            index = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
            by_mask = any(leaf.dtype in (torch.bool, torch.uint8) for leaf in index)
            return by_mask or not all(on_device)
        return False


class _Autocast(torch.autocast):
    """Autocast, which is never enabled on the simulated device."""

    def __new__(cls, device_type: str, *args: Any, **kwargs: Any) -> Any:
        if device_type == DEVICE.type:
            return nullcontext()
        return super().__new__(cls)


_autocast_enabled = torch.is_autocast_enabled


def _is_autocast_enabled(*device_type: str) -> bool:
    return device_type != (DEVICE.type,) and _autocast_enabled(*device_type)


_cpu_tensor = torch.tensor


def _tensor(data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor`, whose copy of a list to a device no mode sees."""
    tensor = _cpu_tensor(data, dtype=dtype, **options)
    return tensor if device is None else tensor.to(device)


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`torch.as_tensor`, for the same reason."""
    tensor = data if isinstance(data, Tensor) else _cpu_tensor(data)
    tensor = tensor if dtype is None else tensor.to(dtype)
    return tensor if device is None else tensor.to(device)


def _unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, DeviceTensor) else value


def _caller() -> str:
    """`file:line function` of the innermost call inside the repository, but not in the tests."""
    for frame in reversed(traceback.extract_stack()):
        if "/hipie/" in frame.filename or "/projects/" in frame.filename:
            name = frame.filename.rsplit("/hipie/", 1)[-1]
            return f"{name}:{frame.lineno} {frame.name}"
    return "elsewhere"


def to_device(module: nn.Module) -> nn.Module:
    """Move parameters and buffers of a module to the simulated device, in place."""
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            on_device = DeviceTensor(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                on_device = nn.Parameter(on_device, requires_grad=tensor.requires_grad)
            moved[id(tensor)] = on_device
        return moved[id(tensor)]

    with SimulatedDevice():
        for part in module.modules():
            for registered in (part._parameters, part._buffers):
                for name, tensor in registered.items():
                    if tensor is not None:
                        registered[name] = move(tensor)
    return module
