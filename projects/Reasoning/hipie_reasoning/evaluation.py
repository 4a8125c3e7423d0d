"""Evaluator of reasoning segmentation: gIoU and cIoU as in LISA, and N-acc of rejection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.distributed import sum_integers
from hipie.evaluation.metrics.averages import from_fixed_point, ratio, to_fixed_point
from hipie_reasoning.data.object_masks import ObjectMaskReader

# LISA adds it to the union in the IoU of a question.
EPSILON = 1e-5


class ReasoningCounts:
    """Sums over questions, from which the scores are computed.

    Args:
        integers: of another one's `integers`; () = nothing is counted.
    """

    def __init__(self, integers: Sequence[int] = ()) -> None:
        values = list(integers) or [0] * 8
        self.questions, self.iou, self.intersection, self.union = values[:4]
        self.without_target, self.rejected, self.iou_with_target, self.accepted = values[4:]

    def add(
        self,
        prediction: NDArray[np.bool_],
        target: NDArray[np.bool_],
        ignore: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count a question.

        The IoU of two empty masks is 1. A question without a target is rejected by an empty mask.

        Args:
            prediction: [H, W], union of the answer's masks.
            target: [H, W].
            ignore: [H, W], pixels that do not count; None = all count.
        """
        is_rejected = not prediction.any()
        if ignore is not None:
            prediction, target = prediction & ~ignore, target & ~ignore
        intersection = int(np.count_nonzero(prediction & target))
        union = int(np.count_nonzero(prediction | target))
        iou = to_fixed_point(intersection / (union + EPSILON) if union else 1.0)
        self.questions += 1
        self.iou += iou
        self.intersection += intersection
        self.union += union
        if target.any():
            self.iou_with_target += iou
            self.accepted += not is_rejected
        else:
            self.without_target += 1
            self.rejected += is_rejected

    def integers(self) -> list[int]:
        """Return all counts, the argument of the constructor."""
        first = [self.questions, self.iou, self.intersection, self.union]
        return [
            *first, self.without_target, self.rejected, self.iou_with_target, self.accepted,
        ]  # fmt: skip

    def scores(self) -> dict[str, float]:
        """Compute the scores of `ReasoningEvaluator`."""
        with_target = self.questions - self.without_target
        return {
            "gIoU": ratio(from_fixed_point(self.iou), self.questions),
            "cIoU": ratio(self.intersection, self.union),
            "gIoU-target": ratio(from_fixed_point(self.iou_with_target), with_target),
            "N-acc": ratio(self.rejected, self.without_target),
            "T-acc": ratio(self.accepted, with_target),
            "questions": self.questions,
        }


class ReasoningEvaluator(DatasetEvaluator):
    """gIoU, cIoU, N-acc and T-acc over the questions of a data set, in percent.

    gIoU is the mean IoU of all questions, cIoU the sum of intersections over that of unions (Lai et
    al., CVPR 2024); ignored pixels do not count, and two empty masks have the IoU 1. gIoU-target is
    the mean over questions with a target, N-acc the fraction of empty masks of questions without
    one, T-acc that of masks that are not empty of the others.

    Args:
        dataset_name: a registered data set whose records have `questions`.
        distributed: sum the counts of all processes.
        result_name: key of the results.
    """

    protocol = "every question, masks at the images' own size, ignored pixels left out"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "reasoning"
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the questions counted so far."""
        self._counts = ReasoningCounts()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the questions of a batch.

        Args:
            inputs: dicts with `image_id`.
            outputs: dicts with `reasoning`, a `ReasonedAnswer` for each question.

        Raises:
            InputError: naming the image, if the number of answers is not that of its questions.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records.of_image(item["image_id"])
            questions, answers = record["questions"], output["reasoning"]
            if len(questions) != len(answers):
                raise InputError(
                    f"{record['file_name']}: {len(questions)} questions, but {len(answers)} answers"
                )
            reader = ObjectMaskReader(record)
            ignore = None
            if "ignore" in record:
                ignored = ObjectMaskReader({**record, "masks": [record["ignore"]]})
                ignore = ignored.union((0,))
            for question, answer in zip(questions, answers, strict=True):
                targets = [target for each in question.objects for target in each.targets]
                masks = answer.instances.pred_masks.cpu().numpy().astype(bool)
                self._counts.add(masks.any(0), reader.union(targets), ignore)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return the scores; None on all but the first process."""
        sums = sum_integers({"counts": self._counts.integers()}, self._distributed)
        if sums is None:
            return None
        return {self._result_name: ReasoningCounts(sums["counts"]).scores()}


@EVALUATOR_REGISTRY.register()
def reasoning(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> ReasoningEvaluator:
    """Build the evaluator of questions."""
    name = MetadataCatalog.get(dataset_name).get("result_name", "reasoning")
    return ReasoningEvaluator(dataset_name, result_name=name)
