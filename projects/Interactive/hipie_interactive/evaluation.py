"""Evaluator of interactive segmentation."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.distributed import sum_integers
from hipie_interactive.metrics import ClickCounts
from hipie_interactive.modeling.interactions import (
    BOXES,
    CLICKS,
    POLYGONS,
    SCRIBBLES,
    check_interactions,
)

PROTOCOLS = {
    CLICKS: "simulated clicks, each on the largest error",
    SCRIBBLES: "simulated scribbles, each through the largest error",
    BOXES: "simulated prompts, a box and then clicks on the largest error",
    POLYGONS: "simulated prompts, a polygon and then clicks on the largest error",
}
"""Descriptions of the prompts, by their kind."""


class InteractiveEvaluator(DatasetEvaluator):
    """NoC@85, NoC@90, failures and mIoU@k of the outputs of `InteractiveSAM`.

    Args:
        clicks: number of prompts of the simulated user on each object.
        distributed: sum the counts of all processes.
        kind: of the prompts, which name the protocol.
    """

    def __init__(self, clicks: int, distributed: bool = True, kind: str = CLICKS) -> None:
        self.clicks = clicks
        self.protocol = f"at most {clicks} {PROTOCOLS[kind]}; mean over objects"
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
    node = cfg.MODEL.INTERACTIVE
    check_interactions(node.PROMPTS, node.BOX_JITTER, node.POLYGON_VERTICES)
    return InteractiveEvaluator(node.CLICKS, kind=node.PROMPTS)
