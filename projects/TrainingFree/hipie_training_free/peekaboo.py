"""Referring segmentation by a mask that is optimised under a diffusion model's score."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.meta_arch.inputs import output_size
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.diffusion_attention import check_size
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.global_local_referring import expressions_of, referring_instances
from hipie_training_free.meta_arch import InferenceConfig, Size, TrainingFree
from hipie_training_free.modeling.score_distillation import (
    PeekabooConfig,
    binary_mask,
    optimize_mask,
)
from hipie_training_free.modeling.stable_diffusion import StableDiffusion, load_diffusion


@META_ARCH_REGISTRY.register()
class Peekaboo(TrainingFree):
    """Optimisation of a soft mask for every expression (Burgert et al., 2022).

    Takes dicts with `image` ([3, H, W], 0..255) and `expressions`, a list of expressions; returns a
    dict for each image with `referring`, an `Instances` for each expression: one mask, or none if
    no pixel is above the threshold. The score is the mean of the soft mask inside the mask.

    Args:
        diffusion: the networks.
        size: MODEL.TRAINING_FREE.DIFFUSION.SIZE.
        peekaboo: MODEL.TRAINING_FREE.PEEKABOO.
        inference: inputs and outputs.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"referring"})

    @configurable
    def __init__(
        self,
        *,
        diffusion: StableDiffusion,
        size: int = 512,
        peekaboo: PeekabooConfig | None = None,
        inference: InferenceConfig | None = None,
    ) -> None:
        super().__init__(inference)
        check_size(size)
        self.diffusion, self.size = diffusion, size
        self.peekaboo = peekaboo or PeekabooConfig()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE
        peekaboo = PeekabooConfig(**{name.lower(): keys.PEEKABOO[name] for name in keys.PEEKABOO})
        return {
            "diffusion": load_diffusion(keys.DIFFUSION.SOURCE),
            "size": keys.DIFFUSION.SIZE,
            "peekaboo": peekaboo,
            "inference": InferenceConfig.from_config(cfg),
        }

    def segment(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Raise an error, since a vocabulary is not supported.

        Raises:
            TrainingFreeError: always.
        """
        raise TrainingFreeError(f"{type(self).__name__} needs `expressions`, not a vocabulary")

    def _segment_input(self, item: dict[str, Any]) -> dict[str, Any]:
        expressions = expressions_of(item, type(self).__name__)
        image = self.rgb_image(item)
        size = output_size(item, (int(image.shape[-2]), int(image.shape[-1])))
        referring = []
        for expression in expressions:
            alpha = optimize_mask(self.diffusion, image, expression, self.size, self.peekaboo)
            mask, score = binary_mask(alpha, size, self.peekaboo.threshold)
            masks = mask[None] if mask.any() else mask[None][:0]
            scores = torch.full((len(masks),), score, device=mask.device)
            referring.append(referring_instances(masks, scores, size))
        return {"referring": referring}
