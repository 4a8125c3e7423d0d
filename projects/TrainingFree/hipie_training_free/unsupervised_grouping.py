"""Architectures that group DINO's patches and classify the groups by CLIP."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.clustering import kmeans_groups
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.postprocessing.class_maps import class_scores
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
from hipie_training_free.modeling.dino import Dino, DinoFeatures
from hipie_training_free.modeling.dino_class_attention import mean_attention_mask
from hipie_training_free.modeling.maskcut import mask_cuts
from hipie_training_free.modeling.tokencut import repeated_cuts


class ClassifiedGroups(TrainingFree):
    """Groups of patches with CLIP's class probabilities.

    Args:
        dino: network whose patches are grouped.
        clip: classifies the groups by their masked features.
        classification: templates, scale and size.
        inference: inputs and outputs.
    """

    def __init__(
        self,
        *,
        dino: Dino,
        clip: Clip,
        classification: ClassificationConfig | None = None,
        inference: InferenceConfig | None = None,
    ) -> None:
        super().__init__(inference)
        classification = classification or ClassificationConfig()
        self.dino, self.clip = dino, clip
        self.guide, self.network = dino.network, clip.model
        self.vocabulary_encoder = VocabularyEncoder(
            clip, classification.templates, self.config.background
        )
        self.classification = classification

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE
        return {
            "dino": Dino.from_source(keys.DINO.MODEL, keys.DINO.WEIGHTS),
            "clip": build_clip(cfg),
            "classification": ClassificationConfig.from_config(cfg),
            "inference": InferenceConfig.from_config(cfg),
        }

    @abstractmethod
    def group_patches(self, features: DinoFeatures) -> Tensor:
        """Compute the group of every patch: [h, w] long."""

    def group_pixels(self, image: Tensor, size: Size) -> Tensor:
        """Compute the group of every pixel of an RGB image [3, H, W] in 0..1: [*size] long."""
        dino_size = round_up_to_patches(
            tuple(image.shape[-2:]), self.dino.patch_size, self.classification.size
        )
        groups = self.group_patches(self.dino.extract_features(image, dino_size)).to(image.device)
        return F.interpolate(groups[None, None].float(), size=size, mode="nearest")[0, 0].long()

    def segment(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Segment one image; every group of a thing class is a segment."""
        text, class_index = self.vocabulary_encoder.encode(vocabulary)
        groups = self.group_pixels(image, tuple(image.shape[-2:]))
        group_ids = groups.unique()
        features = self.clip.mask_features(image, groups == group_ids[:, None, None])
        probabilities = (self.classification.scale * text @ features.t()).float().softmax(0)
        scores = class_scores(probabilities, class_index, len(vocabulary))
        full = F.interpolate(groups[None, None].float(), size=size, mode="nearest")[0, 0].long()
        pixel_scores = scores[:, torch.searchsorted(group_ids, full)]
        return self.outputs(pixel_scores, vocabulary, regions=full)


@META_ARCH_REGISTRY.register()
class ClassAttention(ClassifiedGroups):
    """Two groups: the patches that DINO's class token attends to, and the rest.

    Args:
        mass: MODEL.TRAINING_FREE.ATTENTION_MASS.
        arguments: those of `ClassifiedGroups`.
    """

    @configurable
    def __init__(self, *, mass: float = 0.6, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mass = mass

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        return {**super().from_config(cfg), "mass": cfg.MODEL.TRAINING_FREE.ATTENTION_MASS}

    def group_patches(self, features: DinoFeatures) -> Tensor:
        """1 inside the mask of the mean attention of all heads, 0 outside."""
        mask = mean_attention_mask(features.attention, self.mass)
        return mask.long().unflatten(0, features.grid)


@META_ARCH_REGISTRY.register()
class KMeansGrouping(ClassifiedGroups):
    """k-means clusters of DINO's keys of one image.

    Args:
        clusters, restarts: MODEL.TRAINING_FREE.KMEANS.
        arguments: those of `ClassifiedGroups`.
    """

    @configurable
    def __init__(self, *, clusters: int = 4, restarts: int = 10, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.clusters, self.restarts = clusters, restarts

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.KMEANS
        return {
            **super().from_config(cfg),
            "clusters": keys.CLUSTERS,
            "restarts": keys.RESTARTS,
        }

    def group_patches(self, features: DinoFeatures) -> Tensor:
        """Compute the cluster of every patch."""
        groups = kmeans_groups(features.keys, self.clusters, self.restarts)
        return groups.unflatten(0, features.grid)


class CutGroups(ClassifiedGroups):
    """Objects cut one after another out of the graph of DINO's keys, and the rest.

    Args:
        threshold, weak, objects: the node `KEYS` of MODEL.TRAINING_FREE.
        arguments: those of `ClassifiedGroups`.

    Attributes:
        KEYS: name of the node.
    """

    KEYS: ClassVar[str]

    @configurable
    def __init__(
        self, *, threshold: float, weak: float = 1e-5, objects: int = 1, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.threshold, self.weak, self.objects = threshold, weak, objects

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE[cls.KEYS]
        return {
            **super().from_config(cfg),
            "threshold": keys.THRESHOLD,
            "weak": keys.WEAK,
            "objects": keys.OBJECTS,
        }

    @abstractmethod
    def cut(self, features: DinoFeatures) -> Iterable[Any]:
        """Cut objects out; each result has a `mask`, bool [h, w]."""

    def group_patches(self, features: DinoFeatures) -> Tensor:
        """1, 2, ... for the objects in the order of the cuts, 0 for the rest."""
        groups = torch.zeros(features.grid, dtype=torch.long)
        for index, cut in enumerate(self.cut(features), 1):
            groups[torch.from_numpy(cut.mask)] = index
        return groups


@META_ARCH_REGISTRY.register()
class TokenCut(CutGroups):
    """Objects cut out by TokenCut, repeated on the rest; see `CutGroups`."""

    KEYS = "TOKENCUT"

    def cut(self, features: DinoFeatures) -> Iterable[Any]:
        """Cut objects out by TokenCut; see `repeated_cuts`."""
        return repeated_cuts(features.keys, features.grid, self.objects, self.threshold, self.weak)


@META_ARCH_REGISTRY.register()
class MaskCut(CutGroups):
    """Objects cut out by MaskCut; see `CutGroups`."""

    KEYS = "MASKCUT"

    def cut(self, features: DinoFeatures) -> Iterable[Any]:
        """Cut objects out by MaskCut; see `mask_cuts`."""
        return mask_cuts(features.keys, features.grid, self.objects, self.threshold, self.weak)
