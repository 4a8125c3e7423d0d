"""Gathers what the simulated user saw, over a data set."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.distributed import gather_lists
from hipie_interactive.metrics import interactive_scores


class InteractiveEvaluator(DatasetEvaluator):
    """NoC@85, NoC@90, failures and mIoU@k of the outputs of `InteractiveSAM`.

    Args:
        clicks: of the simulated user.
        distributed: gather from all processes.
    """

    def __init__(self, clicks: int, distributed: bool = True) -> None:
        self.clicks = clicks
        self.protocol = (
            f"at most {clicks} simulated clicks, each into the deepest mistake; all objects alike"
        )
        self._distributed = distributed
        self._ious: list[list[float]] = []

    def reset(self) -> None:
        """Forget all objects."""
        self._ious = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count one batch; each output has `interactive`, a list of `Clicked`."""
        for output in outputs:
            self._ious += [list(one.ious) for one in output["interactive"]]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"interactive": scores}; None on all but the first process."""
        ious = gather_lists(self._ious, self._distributed)
        return None if ious is None else {"interactive": interactive_scores(ious, self.clicks)}


@EVALUATOR_REGISTRY.register()
def interactive(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> InteractiveEvaluator:
    """Build the evaluator of simulated clicks."""
    return InteractiveEvaluator(cfg.MODEL.INTERACTIVE.CLICKS)
