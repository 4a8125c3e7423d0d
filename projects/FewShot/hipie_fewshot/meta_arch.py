"""Meta-architecture of few-shot segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie_fewshot.build import build_method
from hipie_fewshot.modeling.method import FewShotMethod

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures


@META_ARCH_REGISTRY.register()
class FewShot(SegmentationModel):
    """Segment in query images the object that support examples show.

    Inputs are Detectron2's dicts with `image` ([3, H, W] RGB, 0..255, at its original size) and
    `examples` (a list of `Example` of one class). Outputs are dicts with `few_shot`, a
    `MaskPrediction`.

    Args:
        method: see `hipie_fewshot.build`. Its networks are pre-trained and frozen.
    """

    tasks = frozenset({"few_shot"})

    @configurable
    def __init__(self, *, method: FewShotMethod[Any]) -> None:
        super().__init__()
        self.method = method
        networks = (getattr(method, name, None) for name in ("sam", "dino"))
        self.networks = nn.ModuleList([n.model for n in networks if n is not None])

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.FEWSHOT`."""
        return {"method": build_method(cfg)}

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str:
        """Return the name of the mapper of episodes, for any data set with instances."""
        return "few_shot_episodes"

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str:
        """Return the name of the evaluator of episodes, for any data set with instances."""
        return "few_shot"

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: weights come with `MODEL.FEWSHOT.SAM_WEIGHTS` and `DINO_WEIGHTS`."""
        return False

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Predict one mask an input.

        Raises:
            ValueError: for an input without `examples`, naming the file.
        """
        outputs = []
        for item in batched_inputs:
            if not item.get("examples"):
                name = item.get("file_name", "an image")
                raise InputError(f"{name}: FewShot needs `examples`, images with masks")
            pixels = item["image"].permute(1, 2, 0).to("cpu", torch.uint8).numpy()
            image = np.ascontiguousarray(pixels)
            outputs.append({"few_shot": self.method.predict(image, item["examples"])})
        return outputs
