"""Which implementation of the operator would run, why not another, and how to mend it."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hipie.ops.checks import check_arguments, check_levels
from hipie.ops.library import CPU_LIBRARY, cpu_problem, cuda_problem

PLAIN = "plain PyTorch"


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``str()`` of it is for people.

    Attributes:
        implementation: name of what would run, or None where the operator would refuse.
        refused: why it would refuse.
        rejected: name of every other implementation, and why it would not run.
        versions: name and version of what matters.
        mend: the command that brings the kernel that is missing, or None.
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
    """What would run for these tensors; without any, for float32 on the CPU.

    Args:
        value: [B, S, M, D]; alone it is enough, as device and dtype decide.
        spatial_shapes: [L, 2].
        level_start_index: [L].
        sampling_locations: [B, Q, M, L, P, 2].
        attention_weights: [B, Q, M, L, P].
    """
    device = value.device.type if value is not None else "cpu"
    refused = None
    arguments = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    if all(argument is not None for argument in arguments):
        try:
            check_arguments(*arguments)
            check_levels(*arguments[:3])
        except ValueError as error:
            refused = str(error)
    reasons = {_cpu_name(): _why_not_cpu(device), "native CUDA kernel": _why_not_cuda(device)}
    able = [name for name, reason in reasons.items() if reason is None]
    chosen = able[0] if able else PLAIN
    rejected = {name: reason for name, reason in reasons.items() if reason is not None}
    if able:
        rejected[PLAIN] = "a kernel is there"
    broken = {"cpu": cpu_problem, "cuda": cuda_problem}.get(device)
    return Explanation(
        implementation=None if refused else chosen,
        refused=refused,
        rejected=rejected,
        versions=versions(),
        mend=mending_command(device) if broken else None,
    )


def _cpu_name() -> str:
    if cpu_problem:
        return "native CPU kernel"
    return f"native CPU kernel ({torch.ops.hipie.cpu_instruction_set()})"


def _why_not_cpu(device: str) -> str | None:
    return cpu_problem if device == "cpu" else f"the tensors are on {device}"


def _why_not_cuda(device: str) -> str | None:
    return cuda_problem if device == "cuda" else f"the tensors are on {device}"


def versions() -> dict[str, str]:
    """Versions that decide whether a kernel loads and runs."""
    found = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda or "none",
        "machine": platform.machine(),
    }
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        found[f"GPU {index}"] = f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"
    return found


def mending_command(device: str = "cpu") -> str:
    """The command that builds the operator again, for this installation."""
    force = "FORCE_CUDA=1 " if device == "cuda" else ""
    source = CPU_LIBRARY.parents[2]
    if Path(source, "setup.py").exists() and Path(source, "setup_extension.py").exists():
        return f"cd {source} && {force}python setup.py build_ext --inplace"
    return f"{force}pip install --no-build-isolation --no-deps --force-reinstall hipie"
