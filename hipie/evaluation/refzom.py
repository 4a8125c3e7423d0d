"""Ref-ZOM: sentences that mean one thing or several, and sentences that mean nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation.answers import Overlap, overlap_at, overlap_with, sentences_with_answers
from hipie.evaluation.gathering import gather_lists
from hipie.evaluation.means import percent

PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)


class RefZOMEvaluator(DatasetEvaluator):
    """oIoU, mIoU and P@X over sentences that mean something, Acc over the others, in percent.

    As DMMI (Hu et al., ICCV 2023) defines them: Acc is the share of sentences that mean nothing
    whose answer has not a single pixel; they count in nothing else. The scores are taken at the
    pictures' own size, and again (`...@480`) after masks are resized to the size of the published
    numbers.

    Args:
        dataset_name: a registered data set whose records have `sentences`.
        distributed: gather from all processes.
        result_name: the key of the results.
        also_at: the side of the second size, pixels; None = only the pictures' own.
    """

    protocol = "every sentence; masks at the pictures' own size, @480 resized to 480x480"

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "refzom",
        also_at: int | None = 480,
    ) -> None:
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._result_name = result_name
        self._also_at = also_at
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts: list[tuple[bool, Overlap, Overlap | None]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch; outputs as for `ReferringEvaluator`.

        Raises:
            ValueError: if answers are missing, or of another size than the picture.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records[item["image_id"]]
            for _, sentence, answer, target in sentences_with_answers(record, output["referring"]):
                own = overlap_with(answer, target)
                resized = overlap_at(answer, target, self._also_at) if self._also_at else None
                self._counts.append((bool(sentence["targets"]), own, resized))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        scores = refzom_scores([(meant, own) for meant, own, _ in counts])
        if self._also_at:
            resized = refzom_scores([(meant, other) for meant, _, other in counts])
            scores.update({f"{name}@{self._also_at}": value for name, value in resized.items()})
        scores["sentences"] = len(counts)
        return OrderedDict({self._result_name: scores})


def refzom_scores(counts: list[tuple[bool, Overlap]]) -> dict[str, float]:
    """oIoU, mIoU, P@X and Acc, percent; NaN without a sentence to take one from.

    Args:
        counts: whether the sentence means something, and its overlap.
    """
    meant = [overlap for means, overlap in counts if means]
    either = sum(one.either for one in meant)
    each = [one.both / one.either if one.either else 0.0 for one in meant]
    scores = {
        "oIoU": 100.0 * sum(one.both for one in meant) / either if either else float("nan"),
        "mIoU": percent(each),
    }
    for threshold in PRECISION_AT:
        scores[f"P@{threshold}"] = percent(iou >= threshold for iou in each)
    scores["Acc"] = percent(one.answered == 0 for means, one in counts if not means)
    return scores
