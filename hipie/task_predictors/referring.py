"""Task predictor of referring segmentation: the object that each expression describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hipie.errors import InputError, describe
from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors.base import PreparedImage, TaskPredictor, register_task_predictor


@register_task_predictor("referring")
class ReferringPredictor(TaskPredictor):
    """One segment of kind "expression" for every expression, in their order."""

    model_task = "referring"

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        expressions: str | Sequence[str],
        threshold: float | None = None,
    ) -> list[Segmentation]:
        """Segment what expressions describe, in each of several images.

        Args:
            images: one or more.
            expressions: one expression or several; the same for all images.
            threshold: score in 0..1 below which an expression describes nothing; None = the
                model's, `MODEL.HIPIE.TEST.NO_TARGET`.

        Returns:
            One result an image. An expression that describes nothing has an empty mask, and the
            score of what was rejected.

        Raises:
            ValueError: without any expression, or for a threshold that is no score.
        """
        expressions = read_expressions(expressions)
        if threshold is None:
            threshold = self.model.no_target_threshold
        elif isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise InputError(f"threshold must be a number, not {describe(threshold)}")
        elif not 0 <= threshold <= 1:
            raise InputError(f"threshold must be in 0 to 1, and is {threshold}")
        return [_refer(image, expressions, threshold) for image in images]


def read_expressions(expressions: str | Iterable[str] | None) -> list[str]:
    """Read one expression or several, in any form that callers give, once.

    Raises:
        InputError: without any expression, or for one that is not a string.
    """
    if isinstance(expressions, str):
        return [expressions]
    is_list = isinstance(expressions, Iterable) and not isinstance(expressions, bytes | Mapping)
    if not is_list and expressions is not None:
        raise InputError(f"expressions must be a list of strings, not {describe(expressions)}")
    read = list(expressions) if expressions is not None else []
    if not read:
        raise InputError("refer needs at least one expression")
    for expression in read:
        if not isinstance(expression, str):
            raise InputError(f"an expression must be a string, not {describe(expression)}")
    return read


def _refer(image: PreparedImage, expressions: list[str], threshold: float) -> Segmentation:
    segments = []
    # Of models that reject by the score: whatever the score, which is a result.
    outputs = image.run(expressions=expressions, results=("best_instances",))["referring"]
    for expression, instances in zip(expressions, outputs, strict=True):
        if len(instances):
            mask = instances.pred_masks[0].cpu().numpy().astype(bool)
            score = float(instances.scores[0])
        else:
            mask, score = np.zeros(image.size, bool), 0.0
        if score < threshold:
            mask = np.zeros(image.size, bool)
        segments.append(Segment(expression, "expression", mask, score))
    return Segmentation(image.pixels, segments, tuple(expressions))
