"""CLIP-DINOiser's teacher: MaskCLIP's features pooled by DINO's affinities.

Wysoczanska, Simeoni, Ramamonjisoa, Bursuc, Trzcinski, Perez, "CLIP-DINOiser: Teaching CLIP a few
DINO tricks for open-vocabulary semantic segmentation", ECCV 2024, section 3.2: the teacher of the
paper's two convolutions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_blocks import last_blocks, tokens_before
from hipie.modeling.open_vocabulary.masked_attention_pooling import project
from hipie.modeling.postprocessing.class_maps import class_scores, resize_maps
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.clip_dense import DenseCLIP
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.maskclip import maskclip_tokens
from hipie_training_free.meta_arch import Size, round_up_to_patches
from hipie_training_free.modeling.dino import Dino, DinoFeatures
from hipie_training_free.modeling.found_background import SaliencyLayer, salient_patches

EPS = 1e-6


class PooledDenseCLIP(DenseCLIP):
    """MaskCLIP's features pooled by affinities of patches, with background by saliency.

    Args:
        clip: with a ViT that has a class token.
        pooling_threshold: MODEL.TRAINING_FREE.POOLING_THRESHOLD.
        configs: configurations of `DenseCLIP`; sliding windows are not used.
    """

    def __init__(self, *, clip: Clip, pooling_threshold: float = 0.2, **configs: Any) -> None:
        super().__init__(clip=clip, **configs)
        self.pooling_threshold = pooling_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`.

        Raises:
            TrainingFreeError: for sliding windows.
        """
        keys = cfg.MODEL.TRAINING_FREE
        if keys.WINDOW:
            raise TrainingFreeError(
                f"MODEL.TRAINING_FREE.WINDOW is {keys.WINDOW}, but MODEL.META_ARCHITECTURE is "
                f"{cls.__name__}, which pools features over the whole image: WINDOW has to be 0"
            )
        return {**super().from_config(cfg), "pooling_threshold": keys.POOLING_THRESHOLD}

    def tokens(self, pixels: Tensor) -> Tensor:
        """Compute MaskCLIP's tokens, before the pooling; see `DenseCLIP.tokens`."""
        block = last_blocks(self.clip.visual, 1)[0]
        return maskclip_tokens(block, tokens_before(self.clip.visual, pixels, 1))

    @abstractmethod
    def guide_pooling(self, image: Tensor) -> PoolingGuide:
        """Compute what is pooled of an image [3, H, W], and by which affinities."""

    def segment(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Segment one image; the softmax is computed for patches, as the authors do."""
        text, class_index = self.vocabulary_encoder.encode(vocabulary)
        guide = self.guide_pooling(image)
        pooled = pool_by_affinity(guide.features, guide.values, self.pooling_threshold)
        logits = self.classification.scale * text @ F.normalize(pooled, dim=1).t()
        scores = class_scores(logits.float().softmax(0), class_index, len(vocabulary))
        full = self.refine(resize_maps(scores.unflatten(1, guide.grid), size), image)
        threshold = self.config.background
        if not threshold:
            return self.outputs(full, vocabulary)
        background = background_patches(scores, guide.salient(), threshold)
        mask = resize_maps(background.unflatten(0, guide.grid)[None].float(), size)[0] > 0.5
        return self.outputs(full, vocabulary, background=mask)


@META_ARCH_REGISTRY.register()
class CLIPDINOiser(PooledDenseCLIP):
    """MaskCLIP's features pooled by DINO's affinities: the training-free teacher.

    With a background threshold, patches that are neither salient nor certainly of a class are
    background. Saliency is FOUND's: its trained layer, or its untrained first stage.

    Args:
        clip: with a ViT that has a class token.
        dino: network whose values give the affinities.
        saliency: FOUND's trained layer; None: its first stage, on `dino`.
        configs: configurations of `PooledDenseCLIP`.
    """

    @configurable
    def __init__(
        self, *, clip: Clip, dino: Dino, saliency: SaliencyLayer | None = None, **configs: Any
    ) -> None:
        super().__init__(clip=clip, **configs)
        self.dino, self.saliency = dino, saliency
        self.guide = dino.network
        self.saliency_network = None if saliency is None else saliency.dino.network

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`; see `PooledDenseCLIP`."""
        return {**super().from_config(cfg), **build_teacher(cfg)}

    def guide_pooling(self, image: Tensor) -> PoolingGuide:
        """Pool by DINO's values; see `PooledDenseCLIP.guide_pooling`."""
        dino_size = round_up_to_patches(tuple(image.shape[-2:]), self.dino.patch_size)
        guide = self.dino.extract_features(image, dino_size)
        pixels = self.preprocess(image)
        features = project(self.clip.visual, self.tokens(pixels)[:, 1:]).float()[0]
        features = resize_maps(features.t().unflatten(1, self.patch_grid(pixels)), guide.grid)
        return PoolingGuide(
            features.flatten(1).t(),
            guide.values,
            guide.grid,
            lambda: salient_patches_of(image, guide, self.saliency),
        )


@dataclass(frozen=True)
class PoolingGuide:
    """What is pooled of an image, and how.

    Attributes:
        features: [P, D] of MaskCLIP, not normalised.
        values: [P, C] whose cosines are the affinities.
        grid: (h, w) with P = h w.
        salient: computes [P] bool, the salient patches.
    """

    features: Tensor
    values: Tensor
    grid: Size
    salient: Callable[[], Tensor]


def build_teacher(cfg: CfgNode) -> dict[str, Any]:
    """Build `dino` and `saliency` from `MODEL.TRAINING_FREE`."""
    keys = cfg.MODEL.TRAINING_FREE
    saliency = None
    if keys.FOUND.WEIGHTS:
        saliency = SaliencyLayer.from_source(
            keys.FOUND.MODEL, keys.FOUND.DINO_WEIGHTS, keys.FOUND.WEIGHTS
        )
    return {"dino": Dino.from_source(keys.DINO.MODEL, keys.DINO.WEIGHTS), "saliency": saliency}


def salient_patches_of(
    image: Tensor, guide: DinoFeatures, saliency: SaliencyLayer | None
) -> Tensor:
    """Salient patches [P] of an image [3, H, W] by FOUND's layer, or its first stage on `guide`."""
    if saliency is None:
        return salient_patches(guide.keys, guide.attention)
    return saliency.salient_patches(image, guide.grid)


def pool_by_affinity(features: Tensor, guide: Tensor, threshold: float = 0.2) -> Tensor:
    """Average features over similar patches.

    f+_p = sum_q C_pq f_q / (sum_q C_pq + 1e-6), C the cosines of the guide, 0 below the threshold.

    Args:
        features: [P, D] of MaskCLIP, not normalised.
        guide: [P, C] values (or keys) of DINO's last block, all heads.
        threshold: published 0.2.

    Returns:
        [P, D].
    """
    unit = F.normalize(guide.float(), dim=1)
    affinity = unit @ unit.t()
    affinity = affinity.masked_fill(affinity < threshold, 0.0)
    return affinity @ features.float() / (affinity.sum(1, keepdim=True) + EPS)


def background_patches(probabilities: Tensor, salient: Tensor, threshold: float) -> Tensor:
    """Find patches that are not salient and whose highest probability is below the threshold.

    Args:
        probabilities: [K, P].
        salient: [P] bool.
        threshold: published 0.99.

    Returns:
        [P] bool.
    """
    return torch.logical_and(~salient, probabilities.amax(0) < threshold)
