"""Threshold of the score below which an expression describes nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hipie.errors import InputError
from hipie.evaluation.metrics.averages import from_fixed_point, ratio, to_fixed_point
from hipie.evaluation.metrics.expression_iou import MaskOverlap

NUM_BINS = 100
EMPTY = "empty"


class ThresholdScores(NamedTuple):
    """Scores of one threshold in percent, see `GeneralizedReferringEvaluator`; NaN without cases.

    Attributes:
        threshold: expressions with a lower score have no mask.
        giou: mean IoU over all expressions.
        n_acc: empty masks among expressions without target.
        t_acc: masks that are not empty among expressions with a target.
    """

    threshold: float
    giou: float
    n_acc: float
    t_acc: float


class NoTargetThresholds:
    """Expressions by the score of their best query, for gIoU, N-acc and T-acc of every threshold.

    Args:
        threshold: expressions with a lower score have no mask, `MODEL.HIPIE.TEST.NO_TARGET`.

    Raises:
        InputError: if the threshold is not in 0..1.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(
                f"MODEL.HIPIE.TEST.NO_TARGET must be in 0 to 1 (0: off), not {threshold}"
            )
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Discard the expressions counted so far."""
        self.counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def count(self, overlap: MaskOverlap, score: float, *, has_target: bool) -> None:
        """Count an expression.

        Args:
            overlap: of the best query's mask with the target.
            score: of the best query, 0..1.
            has_target: whether the expression has a target.
        """
        score_bin = min(math.floor(score * NUM_BINS), NUM_BINS - 1)
        counts = self.counts[str(score_bin) if overlap.predicted else EMPTY]
        if has_target:
            counts[0] += 1
            counts[1] += to_fixed_point(overlap.iou)
        else:
            counts[2] += 1

    def results(self, counts: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Return the threshold, and the counted one with the best gIoU with its scores.

        The best threshold of a data set may be set for others; the scores that go with it were
        chosen on the data set itself.

        Args:
            counts: of all processes.
        """
        curve = no_target_curve(counts)
        # The lowest of equally good thresholds.
        best = max(curve, key=lambda scores: scores.giou)
        return {
            "no_target_threshold": self.threshold,
            "best_no_target_threshold": best.threshold,
            "gIoU_best_no_target_threshold": best.giou,
            "N-acc_best_no_target_threshold": best.n_acc,
            "T-acc_best_no_target_threshold": best.t_acc,
        }


def no_target_curve(counts: Mapping[str, Sequence[int]]) -> list[ThresholdScores]:
    """Compute the scores of the thresholds 0, 0.01 ... 0.99.

    Args:
        counts: by the number of the score's bin (hundredths), or `EMPTY` for empty masks:
            expressions with a target, the sum of their IoUs by `to_fixed_point`, expressions
            without target.

    Returns:
        By rising threshold.
    """
    with_target, iou, without_target = (
        sum(values[position] for values in counts.values()) for position in range(3)
    )
    empty = counts.get(EMPTY, (0, 0, 0))
    accepted, rejected = with_target - empty[0], empty[2]
    curve = []
    for score_bin in range(NUM_BINS):
        right = from_fixed_point(iou + to_fixed_point(rejected))
        curve.append(
            ThresholdScores(
                score_bin / NUM_BINS,
                ratio(right, with_target + without_target),
                ratio(rejected, without_target),
                ratio(accepted, with_target),
            )
        )
        below = counts.get(str(score_bin), (0, 0, 0))
        accepted, iou, rejected = accepted - below[0], iou - below[1], rejected + below[2]
    return curve
