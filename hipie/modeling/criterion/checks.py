"""Checks for values that are not finite where they enter the losses."""

from __future__ import annotations

import torch
from torch import Tensor

from hipie.errors import HipieError
from hipie.structures import LayerOutput


class NonFiniteError(HipieError, FloatingPointError):
    """A prediction is nan or infinite, so that neither matching nor losses are defined."""


def require_finite(values: Tensor, name: str) -> None:
    """Raise an error if a value is not finite.

    Args:
        values: any floating tensor.
        name: of the tensor, for the message ("boxes of thing layer 3").

    Raises:
        NonFiniteError: with the name, the number of values, and the index of the first.
    """
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    index = (~finite).nonzero()
    raise NonFiniteError(
        f"{name}: {len(index)} of {values.numel()} values are nan or infinite, the first at "
        f"index {tuple(index[0].tolist())}; lower the learning rate or inspect this batch"
    )


def require_finite_layer(layer: LayerOutput, text_mask: Tensor | None, name: str) -> None:
    """Check the class logits of real tokens, the boxes and the IoU logits of a layer.

    Args:
        layer: with class logits.
        text_mask: [B, T] bool, True for real tokens; None = all are real.
        name: of the layer, for the message.

    Raises:
        NonFiniteError: naming the tensor.
    """
    logits = layer.require_logits().detach()
    if text_mask is not None:
        logits = logits.masked_fill(~text_mask.bool()[:, None, :], 0.0)
    require_finite(logits, f"class logits of {name}")
    require_finite(layer.boxes.detach(), f"boxes of {name}")
    if layer.iou_logits is not None:
        require_finite(layer.iou_logits.detach(), f"IoU logits of {name}")
