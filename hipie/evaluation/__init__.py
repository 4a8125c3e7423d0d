"""Evaluators that Detectron2 lacks, and the registry of evaluators."""

from hipie.evaluation.build import EVALUATOR_REGISTRY, build_evaluator
from hipie.evaluation.class_agnostic_recall import ClassAgnosticRecall, wilson_interval
from hipie.evaluation.cosaliency_evaluation import CoSaliencyEvaluator
from hipie.evaluation.generalized_referring_evaluation import GeneralizedReferringEvaluator
from hipie.evaluation.group_evaluation import GroupReferringEvaluator
from hipie.evaluation.lvis_evaluation import LVISInstanceEvaluator
from hipie.evaluation.panoptic_evaluation import PanopticEvaluator
from hipie.evaluation.part_evaluation import PartEvaluator
from hipie.evaluation.part_pq_evaluation import PartPQEvaluator
from hipie.evaluation.referring_evaluation import ReferringEvaluator
from hipie.evaluation.refzom_evaluation import RefZOMEvaluator
from hipie.evaluation.results_io import write_results
from hipie.evaluation.results_table import ResultsTable
from hipie.evaluation.semantic_evaluation import SemanticEvaluator

__all__ = [
    "EVALUATOR_REGISTRY",
    "ClassAgnosticRecall",
    "CoSaliencyEvaluator",
    "GeneralizedReferringEvaluator",
    "GroupReferringEvaluator",
    "LVISInstanceEvaluator",
    "PanopticEvaluator",
    "PartEvaluator",
    "PartPQEvaluator",
    "RefZOMEvaluator",
    "ReferringEvaluator",
    "ResultsTable",
    "SemanticEvaluator",
    "build_evaluator",
    "wilson_interval",
    "write_results",
]
