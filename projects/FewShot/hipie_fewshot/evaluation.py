"""Compares what was found with the truth, over the episodes of a data set."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.distributed import gather_lists
from hipie_fewshot.metrics import Episode, compare, few_shot_scores


class FewShotEvaluator(DatasetEvaluator):
    """mIoU and FB-IoU of the outputs of `FewShot`.

    Args:
        shots: examples in an episode, for the protocol.
        distributed: gather from all processes.
    """

    def __init__(self, shots: int, distributed: bool = True) -> None:
        self.protocol = f"{shots} example(s) an episode; pixels summed a class, mean over classes"
        self._distributed = distributed
        self._episodes: list[Episode] = []

    def reset(self) -> None:
        """Forget all episodes."""
        self._episodes = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count one batch; inputs have `target` [H, W] bool and `class_id`, outputs `few_shot`."""
        for given, output in zip(inputs, outputs, strict=True):
            found = output["few_shot"]
            self._episodes.append(compare(given["class_id"], found.mask, given["target"]))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"few_shot": scores}; None on all but the first process."""
        episodes = gather_lists(self._episodes, self._distributed)
        return None if episodes is None else {"few_shot": few_shot_scores(episodes)}


@EVALUATOR_REGISTRY.register()
def few_shot(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> FewShotEvaluator:
    """Build the evaluator of episodes."""
    return FewShotEvaluator(cfg.MODEL.FEWSHOT.EPISODES.SHOTS)
