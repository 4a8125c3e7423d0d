"""Requests of evaluators to the model: the results that they read, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, Protocol

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators


class RequestingEvaluators(DatasetEvaluators):
    """Several evaluators of one data set.

    Args:
        evaluators: of the data set.
        requested_results: names of the results that they read together.
    """

    def __init__(
        self, evaluators: list[DatasetEvaluator], requested_results: Sequence[str]
    ) -> None:
        super().__init__(evaluators)
        self.requested_results = tuple(requested_results)


class _Loader(Sized, Protocol):
    """A data loader of batches, lists of dicts."""

    def __iter__(self) -> Iterator[list[dict[str, Any]]]: ...


class RequestingLoader:
    """Batches of a loader whose inputs request what an evaluator reads, and nothing else.

    Args:
        loader: of lists of dicts.
        evaluator: its `requested_results`, if it has them, become `results` of every input.
    """

    def __init__(self, loader: _Loader, evaluator: DatasetEvaluator) -> None:
        self._loader = loader
        self._results = getattr(evaluator, "requested_results", None)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self._loader:
            if self._results is None:
                yield batch
            else:
                yield [{"results": self._results, **item} for item in batch]
