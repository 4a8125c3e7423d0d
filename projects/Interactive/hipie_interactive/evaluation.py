"""Evaluator of interactive segmentation."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.distributed import sum_integers
from hipie_interactive.metrics import ClickCounts


class InteractiveEvaluator(DatasetEvaluator):
    """NoC@85, NoC@90, failures and mIoU@k of the outputs of `InteractiveSAM`.

    Args:
        clicks: of the simulated user on each object.
        distributed: sum the counts of all processes.
    """

    def __init__(self, clicks: int, distributed: bool = True) -> None:
        self.clicks = clicks
        self.protocol = (
            f"at most {clicks} simulated clicks, each on the largest error; mean over objects"
        )
        self._distributed = distributed
        self._counts = ClickCounts(clicks)

    def reset(self) -> None:
        """Discard the objects counted so far."""
        self._counts = ClickCounts(self.clicks)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the objects of a batch.

        Args:
            inputs: not used.
            outputs: dicts with `interactive`, a list of `SimulatedClicks`.
        """
        for output in outputs:
            for simulated in output["interactive"]:
                self._counts.add(simulated.ious)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return {"interactive": scores}; None on all but the first process."""
        sums = sum_integers({"clicks": self._counts.integers()}, self._distributed)
        if sums is None:
            return None
        return {"interactive": ClickCounts(self.clicks, sums["clicks"]).scores()}


@EVALUATOR_REGISTRY.register()
def interactive(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> InteractiveEvaluator:
    """Build the evaluator of simulated clicks."""
    return InteractiveEvaluator(cfg.MODEL.INTERACTIVE.CLICKS)
