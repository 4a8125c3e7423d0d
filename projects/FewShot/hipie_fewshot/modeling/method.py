"""Interface of the few-shot methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from hipie_fewshot.support_set import Example


@dataclass(frozen=True)
class MaskPrediction:
    """Predicted mask of the object that the support examples show.

    Attributes:
        mask: [H, W] bool at the query image's size.
        score: confidence, 0..1.
    """

    mask: Tensor
    score: float


class FewShotMethod(Protocol):
    """Method that segments the object of support examples in a query image."""

    def predict(self, image: np.ndarray, examples: Sequence[Example]) -> MaskPrediction:
        """Segment the examples' object in a query image [H, W, 3] uint8 RGB.

        Raises:
            ExampleError: if there are no examples.
        """
