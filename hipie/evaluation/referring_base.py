"""What judges of expressions share: every answer laid over what its expression means."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from hipie.evaluation.distributed import gather_lists
from hipie.evaluation.metrics.expression_iou import (
    expressions_with_answers,
    overlap_at,
    overlap_with,
)
from hipie.evaluation.metrics.iou import Overlap


class ExpressionEvaluator(DatasetEvaluator):
    """Counts pixels expression by expression; what the scores are, each judge says.

    Outputs are dicts with `referring`: for every expression of the input an `Instances` with
    `pred_masks` [n, H, W], or with Detectron2's `pred_masks_rle`, a list of n compressed run
    lengths (n = 0: an empty answer; more than one: their union). Run lengths are not drawn, and so
    judged many times faster.

    Args:
        dataset_name: a registered data set whose records have `expressions`.
        distributed: gather from all processes.
        result_name: the key of the results.
        also_at: take all scores a second time (`...@480`) after both masks are resized to a square
            of this side, pixels, as most published numbers are taken; None = only at the images'
            own size.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool,
        result_name: str,
        also_at: int | None,
    ) -> None:
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._result_name = result_name
        self._also_at = also_at
        self.reset()

    @property
    def protocol(self) -> str:
        """How the scores are taken, in words."""
        square = f"; @{self._also_at}: both masks resized to a square" if self._also_at else ""
        return f"every expression; masks at the images' own size{square}"

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts: list[tuple[Any, Overlap, Overlap | None]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: naming the image, if it has fewer or more answers than expressions, or masks
                of another size.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records[item["image_id"]]
            pairs = expressions_with_answers(record, output["referring"])
            for (expression, answer, target), instances in zip(
                pairs, output["referring"], strict=True
            ):
                own = overlap_with(answer, target)
                resized = overlap_at(answer, target, self._also_at) if self._also_at else None
                self._counts.append((self._notes(record, expression, instances), own, resized))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        scores = self._scores([(notes, own) for notes, own, _ in counts])
        if self._also_at:
            resized = self._scores([(notes, other) for notes, _, other in counts])
            scores.update({f"{name}@{self._also_at}": value for name, value in resized.items()})
        scores.update(self._scores_of_notes([notes for notes, *_ in counts]))
        scores["expressions"] = len(counts)
        return OrderedDict({self._result_name: scores})

    @abstractmethod
    def _notes(self, record: dict[str, Any], expression: dict[str, Any], answer: Instances) -> Any:
        """What the scores need to know of an expression beside its overlap."""

    @abstractmethod
    def _scores(self, counts: list[tuple[Any, Overlap]]) -> dict[str, float]:
        """The scores of all expressions, the same for any order of them."""

    def _scores_of_notes(self, notes: list[Any]) -> dict[str, float]:
        """Scores that no mask is needed for; none, if a judge has no such."""
        return {}
