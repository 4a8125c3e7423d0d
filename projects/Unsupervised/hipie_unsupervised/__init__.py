"""Segmentation that is learned without masks.

Importing the package registers the architectures `DINO`, `FeatureClustering`, `CutLER` and `TSEG`,
the backbone `build_vit_tokens_backbone`, the criteria `DropLossThingCriterion` and
`DropLossStuffCriterion`, the dataset mappers `unlabelled` and `expressions_without_masks`, and the
evaluators `clusters` and `object_discovery`.
"""

from hipie_unsupervised.clustering import FeatureClustering
from hipie_unsupervised.config import add_hipie_unsupervised_config
from hipie_unsupervised.cutler import CutLER
from hipie_unsupervised.data.expressions import expressions_without_masks
from hipie_unsupervised.data.multi_crop import MultiCrop
from hipie_unsupervised.data.unlabelled import UnlabelledMapper
from hipie_unsupervised.dino import DINO
from hipie_unsupervised.evaluation import ClusterEvaluator, ObjectDiscoveryEvaluator
from hipie_unsupervised.modeling.drop_loss import DropLossStuffCriterion, DropLossThingCriterion
from hipie_unsupervised.modeling.vit import ViTTokens
from hipie_unsupervised.self_training import merge_annotations
from hipie_unsupervised.tseg import TSEG

__all__ = [
    "DINO",
    "TSEG",
    "ClusterEvaluator",
    "CutLER",
    "DropLossStuffCriterion",
    "DropLossThingCriterion",
    "FeatureClustering",
    "MultiCrop",
    "ObjectDiscoveryEvaluator",
    "UnlabelledMapper",
    "ViTTokens",
    "add_hipie_unsupervised_config",
    "expressions_without_masks",
    "merge_annotations",
]
