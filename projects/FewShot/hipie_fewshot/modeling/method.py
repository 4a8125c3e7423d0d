"""Interface of the few-shot methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hipie_fewshot.support_set import Example, require_examples

Query = TypeVar("Query")


@dataclass(frozen=True)
class MaskPrediction:
    """Predicted mask of the object that the support examples show.

    Attributes:
        mask: [H, W] bool at the query image's size.
        score: confidence, 0..1.
    """

    mask: Tensor
    score: float


class FewShotMethod(ABC, Generic[Query]):
    """Method that segments the object of support examples in a query image."""

    @abstractmethod
    def encode(self, image: NDArray[np.uint8]) -> Query:
        """Compute the features of a query image that do not depend on the examples.

        Args:
            image: [H, W, 3] uint8 RGB.
        """

    @abstractmethod
    def predict_encoded(self, query: Query, examples: Sequence[Example]) -> MaskPrediction:
        """Segment the examples' object in an encoded query image.

        Args:
            query: result of `encode`.
            examples: support examples of one class.

        Raises:
            ExampleError: if there are no examples.
        """

    def predict(self, image: NDArray[np.uint8], examples: Sequence[Example]) -> MaskPrediction:
        """Segment the examples' object in a query image [H, W, 3] uint8 RGB.

        Raises:
            ExampleError: if there are no examples.
        """
        require_examples(examples)
        return self.predict_encoded(self.encode(image), examples)
