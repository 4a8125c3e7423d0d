"""Inference with linear layers of 8-bit integers, by torchao."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from torch import nn

from hipie.errors import MissingPackageError
from hipie.ops.module import MSDeformAttn

# Smallest width of the inputs and of the outputs of a layer that is quantised.
MIN_FEATURES = 128


def quantizable_layers(modules: Iterable[nn.Module]) -> list[nn.Linear]:
    """Linear layers that are large enough to gain from 8-bit integers.

    The layers of a deformable attention that predict its sampling locations and weights are left
    out, and layers of a subclass, whose weights their owner reads (`nn.MultiheadAttention`).

    Args:
        modules: to search, with everything in them.

    Returns:
        Each layer once, in the order of the modules.
    """
    layers: dict[nn.Linear, None] = {}
    kept: set[nn.Module] = set()
    for module in modules:
        for inner in module.modules():
            if isinstance(inner, MSDeformAttn):
                kept |= {inner.sampling_offsets, inner.attention_weights}
            elif type(inner) is nn.Linear and _is_large(inner):
                layers[inner] = None
    return [layer for layer in layers if layer not in kept]


def _is_large(layer: nn.Linear) -> bool:
    return min(layer.in_features, layer.out_features) >= MIN_FEATURES


def quantize_layers(model: nn.Module, layers: Iterable[nn.Linear]) -> None:
    """Quantise linear layers of a model to 8-bit integers, in place, for inference.

    Weights get one scale an output channel, once; inputs one scale a token, at every call (dynamic
    quantisation). Products are summed in 32-bit integers; outputs have the type of the inputs.

    Args:
        model: in evaluation mode.
        layers: of the model.

    Raises:
        MissingPackageError: without torchao.
    """
    if find_spec("torchao") is None:
        raise MissingPackageError('precision int8 needs torchao: pip install "hipie[int8]"')
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    chosen = set(layers)
    quantize_(model, Int8DynamicActivationInt8WeightConfig(), lambda module, _: module in chosen)
    for layer in chosen:  # torchao replaces this method by one that cannot be pickled
        vars(layer).pop("extra_repr", None)
