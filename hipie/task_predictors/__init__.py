"""Predictors of the tasks of a `Segmenter`, by name in `TASK_PREDICTOR_REGISTRY`."""

from hipie.task_predictors.base import (
    TASK_PREDICTOR_REGISTRY,
    PreparedImage,
    TaskPredictor,
    encode_together,
    encode_together_with_sam,
    encode_with_sam,
    register_task_predictor,
)
from hipie.task_predictors.mask_labelling import MaskLabellingPredictor
from hipie.task_predictors.referring import ReferringPredictor
from hipie.task_predictors.universal import UniversalPredictor

__all__ = [
    "TASK_PREDICTOR_REGISTRY",
    "MaskLabellingPredictor",
    "PreparedImage",
    "ReferringPredictor",
    "TaskPredictor",
    "UniversalPredictor",
    "encode_together",
    "encode_together_with_sam",
    "encode_with_sam",
    "register_task_predictor",
]
