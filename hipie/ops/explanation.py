"""Report which implementation of the operator runs, why no other, and how to repair it."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .checks import check_arguments, check_levels
from .library import CPU_LIBRARY, DISTRIBUTION, cpu_problem, cuda_problem

PLAIN = "plain PyTorch"


@dataclass(frozen=True)
class Explanation:
    """Result of :func:`explain`; ``str()`` formats it for a terminal.

    Attributes:
        implementation: name of the implementation, or None where the arguments are invalid.
        refused: why the arguments are invalid, or None.
        rejected: why each of the other implementations does not run, by its name.
        versions: versions of Python, torch, CUDA and the devices.
        mend: the command that builds a missing kernel, or None.
    """

    implementation: str | None
    refused: str | None = None
    rejected: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    mend: str | None = None

    def __str__(self) -> str:
        lines = [f"runs:    {self.implementation or 'nothing: ' + str(self.refused)}"]
        lines += [f"not:     {name}, because {reason}" for name, reason in self.rejected.items()]
        lines += [f"version: {name} {version}" for name, version in self.versions.items()]
        if self.mend:
            lines.append(f"mend:    {self.mend}")
        return "\n".join(lines)


def explain(
    value: Tensor | None = None,
    spatial_shapes: Tensor | None = None,
    level_start_index: Tensor | None = None,
    sampling_locations: Tensor | None = None,
    attention_weights: Tensor | None = None,
) -> Explanation:
    """Report which implementation runs for these tensors; without any, for float32 on the CPU.

    Args:
        value: [B, S, M, D]; alone it is enough, as device and dtype decide.
        spatial_shapes: [L, 2].
        level_start_index: [L].
        sampling_locations: [B, Q, M, L, P, 2].
        attention_weights: [B, Q, M, L, P].
    """
    device = value.device.type if value is not None else "cpu"
    refused = None
    if (
        value is not None
        and spatial_shapes is not None
        and level_start_index is not None
        and sampling_locations is not None
        and attention_weights is not None
    ):
        try:
            check_arguments(
                value, spatial_shapes, level_start_index, sampling_locations, attention_weights
            )
            check_levels(value, spatial_shapes, level_start_index)
        except ValueError as error:
            refused = str(error)
    reasons = {
        _cpu_name(): _cpu_unavailable_reason(device),
        "native CUDA kernel": _cuda_unavailable_reason(device),
    }
    usable = [name for name, reason in reasons.items() if reason is None]
    implementation = usable[0] if usable else PLAIN
    rejected = {name: reason for name, reason in reasons.items() if reason is not None}
    if usable:
        rejected[PLAIN] = "there is a kernel"
    broken = {"cpu": cpu_problem, "cuda": cuda_problem}.get(device)
    return Explanation(
        implementation=None if refused else implementation,
        refused=refused,
        rejected=rejected,
        versions=versions(),
        mend=build_command(device) if broken else None,
    )


def _cpu_name() -> str:
    if cpu_problem:
        return "native CPU kernel"
    return f"native CPU kernel ({torch.ops.hipie.cpu_instruction_set()})"


def _cpu_unavailable_reason(device: str) -> str | None:
    return cpu_problem if device == "cpu" else f"the tensors are on {device}"


def _cuda_unavailable_reason(device: str) -> str | None:
    return cuda_problem if device == "cuda" else f"the tensors are on {device}"


def versions() -> dict[str, str]:
    """Return the versions that decide whether a kernel loads and runs, by their names."""
    table = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda or "none",
        "machine": platform.machine(),
    }
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        table[f"GPU {index}"] = f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"
    return table


def build_command(device: str = "cpu") -> str:
    """Return the command that builds the operator again, for this installation.

    Args:
        device: "cpu", or "cuda" to build the CUDA kernels too.
    """
    force = "FORCE_CUDA=1 " if device == "cuda" else ""
    source = CPU_LIBRARY.parents[2]
    if Path(source, "setup.py").exists() and Path(source, "setup_extension.py").exists():
        return f"cd {source} && {force}python setup.py build_ext --inplace"
    return f"{force}pip install --no-build-isolation --no-deps --force-reinstall {DISTRIBUTION}"
