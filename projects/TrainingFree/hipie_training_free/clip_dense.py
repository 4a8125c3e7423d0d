"""Base class of architectures that classify CLIP's patches."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_blocks import patch_features
from hipie.modeling.open_vocabulary.sliding_window import (
    SlidingWindowConfig,
    sliding_window_inference,
)
from hipie.modeling.postprocessing.class_maps import class_scores, resize_maps
from hipie.refinement.pamr import PAMRConfig, refine_by_pixels
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.meta_arch import (
    ClassificationConfig,
    InferenceConfig,
    Size,
    TrainingFree,
    VocabularyEncoder,
    build_clip,
    round_up_to_patches,
)


class DenseCLIP(TrainingFree):
    """Cosines of patches and class names, softmax over names, maximum over the names of a class.

    Args:
        clip: with a ViT that has a class token.
        classification: templates, scale and size.
        sliding_window: window and stride.
        pamr: pixel-adaptive refinement of the maps.
        inference: inputs and outputs.
    """

    def __init__(
        self,
        *,
        clip: Clip,
        classification: ClassificationConfig | None = None,
        sliding_window: SlidingWindowConfig | None = None,
        pamr: PAMRConfig | None = None,
        inference: InferenceConfig | None = None,
    ) -> None:
        super().__init__(inference)
        classification = classification or ClassificationConfig()
        clip.require_mask_pooling()
        self.clip = clip
        self.network = clip.model
        self.vocabulary_encoder = VocabularyEncoder(
            clip, classification.templates, self.config.background
        )
        self.classification = classification
        self.sliding_window = sliding_window or SlidingWindowConfig()
        self.pamr = pamr or PAMRConfig()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE
        return {
            "clip": build_clip(cfg),
            "classification": ClassificationConfig.from_config(cfg),
            "sliding_window": SlidingWindowConfig(keys.WINDOW, keys.STRIDE),
            "pamr": PAMRConfig(keys.PAMR.STEPS, tuple(keys.PAMR.DILATIONS)),
            "inference": InferenceConfig.from_config(cfg),
        }

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """Compute the method's tokens: normalised pixels [1, 3, H, W] -> [1, 1 + patches, C]."""

    def cosines(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Compute cosines of patches and names.

        Args:
            pixels: [1, 3, H, W], normalised.
            text: [N, D] unit features of names.

        Returns:
            [N, h, w].
        """
        features = patch_features(self.clip.visual, self.tokens(pixels), self.patch_grid(pixels))
        return torch.einsum("nd,dhw->nhw", text, features[0])

    def patch_grid(self, pixels: Tensor) -> Size:
        """Number of patches in height and width."""
        height, width = self.clip.patch_size
        return pixels.shape[-2] // height, pixels.shape[-1] // width

    def preprocess(self, image: Tensor) -> Tensor:
        """Resize to multiples of the patch size and normalise: [3, H, W] -> [1, 3, H', W']."""
        size = round_up_to_patches(
            tuple(image.shape[-2:]), self.clip.patch_size[0], self.classification.size
        )
        return self.clip.prepare(image[None], size, "bicubic")

    def name_maps(self, image: Tensor, text: Tensor, size: Size) -> Tensor:
        """Compute [N, *size] scores of every name at every pixel, before the softmax."""
        pixels = self.preprocess(image)
        if self.sliding_window.window:
            patch_size = self.clip.patch_size[0]
            window = round_up_to_patches((self.sliding_window.window,) * 2, patch_size)[0]
            maps = sliding_window_inference(
                pixels,
                window,
                self.sliding_window.stride,
                lambda crop: self.cosines(crop, text),
            )
        else:
            maps = self.cosines(pixels, text)
        return resize_maps(maps, size)

    def refine(self, maps: Tensor, image: Tensor) -> Tensor:
        """Refine maps [N, H, W] by PAMR with the image [3, h, w] resized to their size."""
        if not self.pamr.steps:
            return maps
        resized = resize_maps(image, tuple(maps.shape[-2:]))
        return refine_by_pixels(maps, resized, self.pamr.steps, self.pamr.dilations)

    def segment(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Segment one image; see `TrainingFree.segment`."""
        text, class_index = self.vocabulary_encoder.encode(vocabulary)
        maps = self.refine(self.name_maps(image, text, size), image)
        maps = (self.classification.scale * maps).softmax(0)
        return self.outputs(class_scores(maps, class_index, len(vocabulary)), vocabulary)
