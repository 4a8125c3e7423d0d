"""What a decoder layer says of its queries, in the one form that losses and inference read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass
class LayerPrediction:
    """Predictions of one decoder layer (or of the two-stage proposals) for N queries.

    Masks are functions, since only a few queries ever need theirs.

    Attributes:
        token_logits: [B, N, T] one logit a token; T is 1 for a pooled expression.
        boxes: [B, N, 4] cxcywh in 0..1.
        iou_logits: [B, N, 1] predicted box quality before the sigmoid, or None.
        masks: `masks(image [n], query [n]) -> [n, h, w]`, logits at a quarter of the canvas.
        point_masks: `point_masks(image, points [P, 2]) -> [N, P]`, mask logits of all queries of
            one image at points (x, y) in 0..1 of the canvas, or None where a head has none.
    """

    token_logits: Tensor
    boxes: Tensor
    iou_logits: Tensor | None = None
    masks: Callable[[Tensor, Tensor], Tensor] | None = None
    point_masks: Callable[[int, Tensor], Tensor] | None = None


class LayerPredictions(Sequence[LayerPrediction]):
    """What every layer says, each prediction made when it is first asked for.

    Losses ask for all of them, results only for the last.

    Args:
        count: how many layers there are.
        predict: makes the prediction of layer i in 0..count - 1.
    """

    def __init__(self, count: int, predict: Callable[[int], LayerPrediction]) -> None:
        self._predict = predict
        self._made: list[LayerPrediction | None] = [None] * count

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, layer: int) -> LayerPrediction:
        layer = range(len(self))[layer]
        if self._made[layer] is None:
            self._made[layer] = self._predict(layer)
        return self._made[layer]


@dataclass(frozen=True)
class DenoisingLayout:
    """Where the noised copies of an object stand among the denoising queries.

    Copy `g` of object `i` is query `g * group_size + i`; where `negatives` is true its negative
    twin follows `max_objects` later. Images with fewer objects leave their places unused.
    """

    num_groups: int
    max_objects: int
    negatives: bool

    @property
    def group_size(self) -> int:
        """Queries of one group."""
        return self.max_objects * (2 if self.negatives else 1)

    @property
    def num_queries(self) -> int:
        """Queries of all groups."""
        return self.num_groups * self.group_size
