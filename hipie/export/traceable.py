"""What an architecture gives to the exporters: traceable networks with example inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from hipie.errors import UnsupportedError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.vocabularies.vocabulary import Vocabulary

EXPORTER_REGISTRY = Registry("EXPORTER")
EXPORTER_REGISTRY.__doc__ = "Places of exporters, see `register_exporter`, by architecture."


@dataclass(frozen=True)
class ExportRequest:
    """What a model is exported for.

    Attributes:
        vocabulary: classes that become part of the file; None = class names or expressions are
            inputs of it.
        num_images: images of a group, for architectures that segment groups; None = their default.
    """

    vocabulary: Vocabulary | None = None
    num_images: int | None = None


@dataclass(frozen=True)
class TraceableNetwork:
    """A function of tensors that can be traced.

    Attributes:
        network: in evaluation mode, on the CPU.
        inputs: example arguments of its `forward`, by name and in order.
        output_names: of the tensors that it returns.
        description: what a program needs to prepare inputs and to read outputs; JSON can hold it.
        dynamic_shapes: of `torch.export.export`, by input; {} = every size is fixed.
    """

    network: nn.Module
    inputs: dict[str, Tensor]
    output_names: tuple[str, ...]
    description: dict[str, Any]
    dynamic_shapes: dict[str, Any] = field(default_factory=dict)


# Networks by the suffix of their file's name, "" for the first one.
Exporter = Callable[[SegmentationModel, CfgNode, ExportRequest], dict[str, TraceableNetwork]]


def register_exporter(architecture: str, place: str) -> None:
    """Register the exporter of an architecture, which is imported when it is used.

    The function takes a model, its configuration and an `ExportRequest`, and returns the networks
    to export by the suffix of their file's name ("" for the first one). It raises
    `UnsupportedError` for a model that cannot be exported, and `InputError` for a request that the
    architecture does not have.

    Args:
        architecture: name of the class in Detectron2's `META_ARCH_REGISTRY`.
        place: of the function, "package.module:function".
    """
    EXPORTER_REGISTRY._do_register(architecture, place)


def find_exporter(architecture: str) -> Exporter:
    """Import the exporter of an architecture.

    Raises:
        UnsupportedError: if there is none, with the architectures that have one.
    """
    if architecture not in EXPORTER_REGISTRY:
        known = ", ".join(sorted(name for name, _ in EXPORTER_REGISTRY))
        raise UnsupportedError(f"{architecture} cannot be exported; {known} can")
    module, _, name = EXPORTER_REGISTRY.get(architecture).partition(":")
    exporter: Exporter = getattr(import_module(module), name)
    return exporter


register_exporter("HIPIE", "hipie.export.network:hipie_networks")
