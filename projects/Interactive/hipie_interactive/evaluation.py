"""Evaluator of interactive segmentation."""

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
        clicks: of the simulated user on each object.
        distributed: gather the IoUs of all processes.
    """

    def __init__(self, clicks: int, distributed: bool = True) -> None:
        self.clicks = clicks
        self.protocol = (
            f"at most {clicks} simulated clicks, each on the largest error; mean over objects"
        )
        self._distributed = distributed
        self._ious: list[tuple[float, ...]] = []

    def reset(self) -> None:
        """Discard the objects counted so far."""
        self._ious = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Collect the IoUs of a batch.

        Args:
            inputs: not used.
            outputs: dicts with `interactive`, a list of `SimulatedClicks`.
        """
        for output in outputs:
            self._ious += [simulated.ious for simulated in output["interactive"]]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return {"interactive": scores}; None on all but the first process."""
        ious = gather_lists(self._ious, self._distributed)
        return None if ious is None else {"interactive": interactive_scores(ious, self.clicks)}


@EVALUATOR_REGISTRY.register()
def interactive(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> InteractiveEvaluator:
    """Build the evaluator of simulated clicks."""
    return InteractiveEvaluator(cfg.MODEL.INTERACTIVE.CLICKS)
