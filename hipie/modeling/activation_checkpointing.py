"""Activation checkpointing: layers are computed again in the backward pass (Chen et al., 2016).

The forward pass keeps the inputs of a layer only. Its backward pass runs the layer again, with the
random numbers and the autocast state of the first run, so that gradients are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hipie.errors import InputError

KEYS = "MODEL.ACTIVATION_CHECKPOINTING"


class ActivationCheckpointingError(InputError):
    """Part of a model whose activations cannot be recomputed; the message names the key."""


def checkpoint_activations(layers: Iterable[nn.Module]) -> None:
    """Recompute the activations of layers in the backward pass, in place.

    Parameters, their names and the results stay the same. Without gradients nothing changes.

    Args:
        layers: modules whose `forward` is a function of its arguments, the parameters and torch's
            random numbers.

    Raises:
        ActivationCheckpointingError: for a layer with a batch norm that is not frozen, which would
            update its statistics twice.
    """
    for layer in layers:
        norm = next((name for name, m in layer.named_modules() if isinstance(m, _BatchNorm)), None)
        if norm is not None:
            raise ActivationCheckpointingError(
                f"{KEYS}: {type(layer).__name__} has a batch norm ({norm}), whose statistics "
                "recomputation would update twice; freeze it (MODEL.RESNETS.NORM FrozenBN, "
                "MODEL.TIMM.FREEZE_NORM True)"
            )
        layer.forward = _CheckpointedForward(layer.forward)


def checkpointed_parts(cfg: CfgNode) -> tuple[str, ...]:
    """Return the parts that `MODEL.ACTIVATION_CHECKPOINTING` selects, such as "encoder"."""
    node = cfg.MODEL.ACTIVATION_CHECKPOINTING
    selected = {
        "backbone": node.BACKBONE,
        "fusion": node.FUSION,
        "encoder": node.ENCODER,
        "decoder": node.DECODER,
    }
    return tuple(part for part, on in selected.items() if on)


def checkpoint_layer_groups(
    groups: dict[str, list[nn.Module]], parts: Iterable[str], architecture: str
) -> None:
    """Recompute the activations of the named parts of a model.

    Args:
        groups: layers by part, see `SegmentationModel.layer_groups`.
        parts: names of parts.
        architecture: name of the model, for the message.

    Raises:
        ActivationCheckpointingError: if the model has no layers of that part; and see
            `checkpoint_activations`.
    """
    for part in parts:
        if not groups.get(part):
            raise ActivationCheckpointingError(
                f"{KEYS}.{part.upper()} is True, and this {architecture} has no {part} layers "
                "whose activations can be recomputed"
            )
        checkpoint_activations(groups[part])


class _CheckpointedForward:
    """A layer's `forward` that keeps its inputs only, wherever gradients are enabled."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
