"""Checks for values that are not finite where they enter the losses.

Nothing is raised: in a training of several processes the others would wait for this one. The losses
become nan instead, and the trainer skips the step in all processes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.modeling.device_transfer import HostSteps
from hipie.structures import BatchedTargets, LayerOutput

logger = get_logger(__name__)


class FiniteChecks:
    """Tensors whose values have to be finite, checked by one transfer to the host."""

    def __init__(self) -> None:
        self._checked: list[tuple[str, Tensor]] = []

    def add(self, values: Tensor, name: str) -> None:
        """Add a tensor.

        Args:
            values: floating point.
            name: of the tensor, for the message ("boxes of thing layer 3").
        """
        if values.numel():
            self._checked.append((name, values.detach()))

    def add_layer(self, layer: LayerOutput, padded: Tensor | None, name: str) -> None:
        """Add the class logits of real tokens, the boxes and the IoU logits of a layer.

        Args:
            layer: with class logits.
            padded: [B, 1, T] bool, True for padded tokens; None = all are real.
            name: of the layer, for the message.
        """
        logits = layer.require_logits().detach()
        if padded is not None:
            logits = logits.masked_fill(padded, 0.0)
        self.add(logits, f"class logits of {name}")
        self.add(layer.boxes, f"boxes of {name}")
        if layer.iou_logits is not None:
            self.add(layer.iou_logits, f"IoU logits of {name}")

    def run(self) -> HostSteps[bool]:
        """Check all tensors, and log the first with a value that is not finite.

        Returns:
            Whether all values are finite.
        """
        if not self._checked:
            return True
        # The least and the largest value are finite if and only if all are.
        extremes = [part.float() for _, values in self._checked for part in values.aminmax()]
        (extremes_on_host,) = yield [torch.stack(extremes)]
        finite = extremes_on_host.isfinite().view(-1, 2).all(1).tolist()
        for (name, values), is_finite in zip(self._checked, finite, strict=True):
            if not is_finite:
                logger.warning(describe_non_finite(values, name))
                break
        return all(finite)


def check_annotations(objects: BatchedTargets) -> HostSteps[None]:
    """Check that the boxes of all objects are finite.

    Raises:
        InputError: naming the first image with another box.
    """
    (boxes,) = yield [objects.boxes]
    finite = boxes.isfinite().all(1).tolist()
    for image in range(objects.num_images):
        if not all(finite[objects.of_image(image)]):
            raise InputError(f"an annotated box of image {image} of the batch is not finite")


def describe_non_finite(values: Tensor, name: str) -> str:
    """Say how many values of a tensor are nan or infinite, and where the first one is.

    Args:
        values: with such a value.
        name: of the tensor.
    """
    index = (~torch.isfinite(values)).nonzero()
    return (
        f"{name}: {len(index)} of {values.numel()} values are nan or infinite, the first at index "
        f"{tuple(index[0].tolist())}; lower the learning rate or inspect this batch"
    )


def invalidate(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of a batch whose predictions are not finite: nan, whatever they were."""
    return {name: loss + math.nan for name, loss in losses.items()}
