"""Segmentation by the cross-attention of a diffusion model."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.postprocessing.class_maps import class_scores, min_max_normalize, resize_maps
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.meta_arch import InferenceConfig, Size, TrainingFree, class_phrases
from hipie_training_free.modeling.stable_diffusion import (
    StableDiffusion,
    load_diffusion,
    resize_to_square,
)

# The autoencoder and the U-Net each downsample three times.
DIVISOR = 64


@META_ARCH_REGISTRY.register()
class DiffusionAttention(TrainingFree):
    """One forward pass of the U-Net for each name; maps are scaled to 0..1, the maximum wins.

    Args:
        diffusion: the networks.
        size, step, self_attention_steps: MODEL.TRAINING_FREE.DIFFUSION.
        inference: inputs and outputs.
    """

    @configurable
    def __init__(
        self,
        *,
        diffusion: StableDiffusion,
        size: int = 512,
        step: int = 100,
        self_attention_steps: int = 1,
        inference: InferenceConfig | None = None,
    ) -> None:
        super().__init__(inference)
        check_size(size)
        self.diffusion = diffusion
        self.size, self.step = size, step
        self.self_attention_steps = self_attention_steps

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.DIFFUSION
        return {
            "diffusion": load_diffusion(keys.SOURCE),
            "size": keys.SIZE,
            "step": keys.STEP,
            "self_attention_steps": keys.SELF_ATTENTION_STEPS,
            "inference": InferenceConfig.from_config(cfg),
        }

    def segment(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Segment one image; see `TrainingFree.segment`."""
        pairs = class_phrases(vocabulary, self.config.background)
        maps = self.diffusion.phrase_maps(
            resize_to_square(image, self.size),
            [phrase for phrase, _ in pairs],
            self.step,
            self.self_attention_steps,
        )
        class_index = torch.tensor([index for _, index in pairs], device=maps.device)
        scores = class_scores(min_max_normalize(maps), class_index, len(vocabulary))
        return self.outputs(resize_maps(scores, size), vocabulary)


def check_size(size: int) -> None:
    """Check the side of the square of an image.

    Raises:
        TrainingFreeError: if the networks cannot downsample it.
    """
    if size < DIVISOR or size % DIVISOR:
        raise TrainingFreeError(
            f"MODEL.TRAINING_FREE.DIFFUSION.SIZE is {size}; it has to be a multiple of {DIVISOR}"
        )
