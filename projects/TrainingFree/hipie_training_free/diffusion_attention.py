"""The architecture `DiffusionAttention`: classes where a diffusion model's words look."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.meta_arch import Size, TrainingFree, phrases_of, shared_settings
from hipie_training_free.modeling.gem import min_max
from hipie_training_free.modeling.stable_diffusion import StableDiffusion, load_diffusion, stretched
from hipie_training_free.postprocessing import class_scores, resized

# Images are halved three times by the autoencoder and three times by the U-Net.
DIVISOR = 64


@META_ARCH_REGISTRY.register()
class DiffusionAttention(TrainingFree):
    """One look of the U-Net a name; every name's map is stretched to 0..1, the highest wins.

    Args:
        diffusion: the networks.
        size, step, spread: MODEL.TRAINING_FREE.DIFFUSION.
        shared: of `TrainingFree`.
    """

    @configurable
    def __init__(
        self,
        *,
        diffusion: StableDiffusion,
        size: int = 512,
        step: int = 100,
        spread: int = 1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if size < DIVISOR or size % DIVISOR:
            raise TrainingFreeError(
                f"MODEL.TRAINING_FREE.DIFFUSION.SIZE is {size}; it has to be a multiple of "
                f"{DIVISOR}"
            )
        self.diffusion = diffusion
        self.size, self.step, self.spread = size, step, spread

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.DIFFUSION
        return {
            "diffusion": load_diffusion(keys.SOURCE),
            "size": keys.SIZE,
            "step": keys.STEP,
            "spread": keys.SPREAD,
            **shared_settings(cfg),
        }

    def answer(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """See `TrainingFree.answer`."""
        pairs = phrases_of(vocabulary, self.background)
        words = [phrase for phrase, _ in pairs]
        maps = self.diffusion.word_maps(stretched(image, self.size), words, self.step, self.spread)
        owners = torch.tensor([place for _, place in pairs], device=maps.device)
        scores = class_scores(min_max(maps), owners, len(vocabulary))
        return self.results(resized(scores, size), vocabulary)
