"""Evaluators that Detectron2 lacks, and the choice of the right one for a data set."""

from hipie.evaluation.build import build_evaluator
from hipie.evaluation.generalized_referring import GeneralizedReferringEvaluator
from hipie.evaluation.parts import PartEvaluator
from hipie.evaluation.referring import ReferringEvaluator
from hipie.evaluation.results import write_results
from hipie.evaluation.unseen import ClassAgnosticRecall, wilson_interval

__all__ = [
    "ClassAgnosticRecall",
    "GeneralizedReferringEvaluator",
    "PartEvaluator",
    "ReferringEvaluator",
    "build_evaluator",
    "wilson_interval",
    "write_results",
]
