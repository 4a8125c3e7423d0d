"""HIPIE as a class-agnostic detector that learns from pseudo masks, as CutLER's detector does.

Wang, Girdhar, Yu, Misra, "Cut and Learn for Unsupervised Object Detection and Instance
Segmentation", CVPR 2023. The published detector is a Cascade Mask R-CNN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

OBJECT = "object"


@META_ARCH_REGISTRY.register()
class CutLER(HIPIE):
    """HIPIE with the single class "object", evaluated by class-agnostic AP and CorLoc.

    Trained on pseudo masks with the criteria `DropLossThingCriterion` and `DropLossStuffCriterion`.
    The vocabulary of an input is not used at inference.

    Args:
        arguments: those of `HIPIE`.
    """

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str | None:
        """Name of the evaluator of class-agnostic AP and CorLoc."""
        return "object_discovery"

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Segment the objects of images; see `HIPIE.inference`."""
        vocabulary = Vocabulary.from_names(things=[OBJECT])
        inputs = [
            item if "expressions" in item else {**item, "vocabulary": vocabulary}
            for item in batched_inputs
        ]
        results: list[dict[str, Any]] = super().inference(inputs, image_features)
        return results
