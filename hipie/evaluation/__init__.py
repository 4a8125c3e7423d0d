"""Evaluators that Detectron2 lacks, and the choice of the right one for a data set."""

from hipie.evaluation.build import build_evaluator
from hipie.evaluation.cosaliency import CoSaliencyEvaluator
from hipie.evaluation.generalized_referring import GeneralizedReferringEvaluator
from hipie.evaluation.group import GroupReferringEvaluator
from hipie.evaluation.part_pq import PartPQEvaluator
from hipie.evaluation.parts import PartEvaluator
from hipie.evaluation.referring import ReferringEvaluator
from hipie.evaluation.refzom import RefZOMEvaluator
from hipie.evaluation.results import write_results
from hipie.evaluation.table import ResultsTable
from hipie.evaluation.unseen import ClassAgnosticRecall, wilson_interval

__all__ = [
    "ClassAgnosticRecall",
    "CoSaliencyEvaluator",
    "GeneralizedReferringEvaluator",
    "GroupReferringEvaluator",
    "PartEvaluator",
    "PartPQEvaluator",
    "RefZOMEvaluator",
    "ReferringEvaluator",
    "ResultsTable",
    "build_evaluator",
    "wilson_interval",
    "write_results",
]
