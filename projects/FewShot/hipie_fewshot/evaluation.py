"""Evaluator of few-shot segmentation."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.distributed import sum_integers
from hipie_fewshot.metrics import FewShotCounts, count_pixels


class FewShotEvaluator(DatasetEvaluator):
    """mIoU and FB-IoU of the predictions of `FewShot`.

    Args:
        shots: support examples in an episode, for the description of the protocol.
        distributed: sum the counts of all processes.
    """

    def __init__(self, shots: int, distributed: bool = True) -> None:
        self.protocol = f"{shots} example(s) an episode; pixels summed a class, mean over classes"
        self._distributed = distributed
        self._counts = FewShotCounts()

    def reset(self) -> None:
        """Discard the episodes counted so far."""
        self._counts = FewShotCounts()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: dicts with `class_id` and `target` [H, W] bool.
            outputs: dicts with `few_shot`, a `MaskPrediction`.
        """
        for item, output in zip(inputs, outputs, strict=True):
            mask = output["few_shot"].mask.cpu().numpy()
            self._counts.add(count_pixels(item["class_id"], mask, item["target"]))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return {"few_shot": scores in percent}; None on all but the first process."""
        sums = sum_integers(self._counts.by_class, self._distributed)
        return None if sums is None else {"few_shot": FewShotCounts(sums).scores()}


@EVALUATOR_REGISTRY.register()
def few_shot(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> FewShotEvaluator:
    """Build the evaluator of episodes."""
    return FewShotEvaluator(cfg.MODEL.FEWSHOT.EPISODES.SHOTS)
