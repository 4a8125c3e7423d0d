"""Fully sharded data parallelism (FSDP2): every process stores its share of the parameters.

A layer's parameters are gathered for its forward and its backward pass only; gradients and the
optimizer's state exist as shares. The numbers are those of `DistributedDataParallel` (Zhao et al.,
2023, "PyTorch FSDP").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.modeling.criterion.normalizer_averaging import num_processes
from hipie.modeling.meta_arch.base import SegmentationModel

logger = get_logger(__name__)
MIB = 2**20


class ShardingError(InputError):
    """Model or configuration that cannot be sharded; the message names the key or parameter."""


def check_sharding(cfg: CfgNode) -> None:
    """Check that nothing is on that does not go with sharding.

    Raises:
        ShardingError: naming the key.
    """
    if cfg.TEST.BEST_CHECKPOINT_METRIC:
        raise ShardingError(
            "TEST.BEST_CHECKPOINT_METRIC does not go with SOLVER.FSDP.ENABLED, where all processes "
            "write a checkpoint and the first one alone knows the results; set it to ''"
        )


def shard_model(model: nn.Module, min_layer_parameters: int) -> None:
    """Distribute the parameters of a model over all processes, in place.

    Each of `SegmentationModel.layer_groups` with enough parameters is gathered on its own; the rest
    of the model is gathered for the whole step. Every process starts with the values of the first.
    Parameters become `DTensor`s, so the optimizer is built afterwards. All processes call it.

    Args:
        model: on the device of the training.
        min_layer_parameters: layers with fewer parameters are part of the rest.

    Raises:
        ShardingError: for a single process, for trainable parameters of no dimension, and for a
            parameter that a layer shares with another module.
    """
    if num_processes() == 1:
        raise ShardingError(
            "SOLVER.FSDP.ENABLED needs several processes (--num-gpus, --cpu-workers or torchrun)"
        )
    scalars = {name: p for name, p in model.named_parameters() if p.dim() == 0}
    trainable = [name for name, parameter in scalars.items() if parameter.requires_grad]
    if trainable:
        raise ShardingError(
            f"SOLVER.FSDP.ENABLED: the parameter {trainable[0]} has no dimension to shard; make it "
            "a vector of one number"
        )
    layers = _layers(model, min_layer_parameters)
    _check_shared_parameters(model, layers)
    total = sum(parameter.nbytes for parameter in model.parameters())
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    device_type = next(model.parameters()).device.type
    mesh = init_device_mesh(device_type, (num_processes(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=set(scalars.values()))
    shares = _gather_number(parameter_bytes(model), device_type)
    logger.info(
        "Sharded parameters (FSDP2): %s of %.1f MiB by rank; %d layers are gathered one by one",
        ", ".join(f"{share / MIB:.1f}" for share in shares),
        total / MIB,
        len(layers),
    )


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` was applied."""
    return isinstance(model, FSDPModule)


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of the parameters that this process stores between two steps."""
    return sum(
        (parameter.to_local() if isinstance(parameter, DTensor) else parameter).nbytes
        for parameter in model.parameters()
    )


def fill_missing_gradients(model: nn.Module) -> None:
    """Give trainable parameters without a gradient one of zeros, as `DistributedDataParallel` does.

    A task does not use all heads; their moments and weight decay go on. Nothing is communicated.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@contextmanager
def full_weights(model: nn.Module) -> Iterator[None]:
    """Gather all parameters of a sharded model in every process while the context is open.

    The processes may then call the model independently of each other, as in an evaluation, where
    their shares of the data differ. Models that are not sharded stay as they are.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            # The rest of the model stays gathered for the whole step.
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def allocate_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Create the state of an optimizer before its first step, so that it can be loaded in place.

    Gradients are removed; the parameters stay as they are.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"].zero_()


def _layers(model: nn.Module, min_parameters: int) -> list[nn.Module]:
    if not isinstance(model, SegmentationModel):
        return []
    layers = [layer for group in model.layer_groups().values() for layer in group]
    return [x for x in layers if sum(p.numel() for p in x.parameters()) >= min_parameters]


def _check_shared_parameters(model: nn.Module, layers: list[nn.Module]) -> None:
    owners: dict[nn.Parameter, int] = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters():
            owners.setdefault(parameter, index)
    inside = {name: i for i, x in enumerate(layers) for name in _names_inside(model, x)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter in owners and owners[parameter] != inside.get(name):
            raise ShardingError(
                f"SOLVER.FSDP.ENABLED: {name} is also a parameter of another layer; shared "
                "parameters cannot be sharded"
            )


def _names_inside(model: nn.Module, layer: nn.Module) -> list[str]:
    prefix = next(name for name, module in model.named_modules() if module is layer)
    return [f"{prefix}.{name}" for name, _ in layer.named_parameters(remove_duplicate=False)]


def _gather_number(value: int, device_type: str) -> list[int]:
    own = torch.tensor([value], device=device_type)
    numbers = own.new_empty(num_processes())
    dist.all_gather_into_tensor(numbers, own)
    return [int(number) for number in numbers.tolist()]
