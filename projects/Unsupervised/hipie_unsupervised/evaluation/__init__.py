"""Evaluators of predictions without labels; importing the package registers them."""

from hipie_unsupervised.evaluation.cluster_evaluation import ClusterEvaluator
from hipie_unsupervised.evaluation.object_discovery import ObjectDiscoveryEvaluator

__all__ = ["ClusterEvaluator", "ObjectDiscoveryEvaluator"]
