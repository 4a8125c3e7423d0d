"""Architectures that group DINO's patches and let CLIP name the groups."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.meta_arch import (
    Names,
    Size,
    TrainingFree,
    build_clip,
    rounded_size,
    shared_settings,
)
from hipie_training_free.modeling.dino import Dino, DinoFeatures
from hipie_training_free.modeling.dino_class_attention import mean_mask
from hipie_training_free.modeling.kmeans import kmeans_groups
from hipie_training_free.modeling.tokencut import repeated_cuts
from hipie_training_free.postprocessing import class_scores


class NamedGroups(TrainingFree):
    """Groups of patches, and CLIP's probabilities of what each of them shows.

    Args:
        dino: whose patches are grouped.
        clip: names the groups by their masked features.
        templates, scale, size: see MODEL.TRAINING_FREE.
        shared: of `TrainingFree`.
    """

    def __init__(
        self,
        *,
        dino: Dino,
        clip: Clip,
        templates: str = "imagenet",
        scale: float = 100.0,
        size: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.dino, self.clip = dino, clip
        self.guide, self.network = dino.network, clip.model
        self.names = Names(clip, templates, self.background)
        self.scale, self.size = scale, size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE
        return {
            "dino": Dino.from_source(keys.DINO.MODEL, keys.DINO.WEIGHTS),
            "clip": build_clip(cfg),
            "templates": keys.TEMPLATES,
            "scale": keys.SCALE,
            "size": keys.SIZE,
            **shared_settings(cfg),
        }

    @abstractmethod
    def group(self, seen: DinoFeatures) -> Tensor:
        """[h, w] long: the group of every patch."""

    def groups(self, image: Tensor, size: Size) -> Tensor:
        """[*size] long: the group of every pixel of an image [3, H, W], RGB in 0..1."""
        patches = rounded_size(tuple(image.shape[-2:]), self.dino.patch_size, self.size)
        found = self.group(self.dino.see(image, patches)).to(image.device)
        return F.interpolate(found[None, None].float(), size=size, mode="nearest")[0, 0].long()

    def answer(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """See `TrainingFree.answer`; every thing is a group of its own."""
        text, owners = self.names.features(vocabulary)
        groups = self.groups(image, tuple(image.shape[-2:]))
        present = groups.unique()
        features = self.clip.mask_features(image, groups == present[:, None, None])
        names = (self.scale * text @ features.t()).float().softmax(0)
        scores = class_scores(names, owners, len(vocabulary))
        full = F.interpolate(groups[None, None].float(), size=size, mode="nearest")[0, 0].long()
        spread = scores[:, torch.searchsorted(present, full)]
        return self.results(spread, vocabulary, regions=full)


@META_ARCH_REGISTRY.register()
class ClassAttention(NamedGroups):
    """Two groups: where DINO's class token looks, and the rest.

    Args:
        mass: MODEL.TRAINING_FREE.ATTENTION_MASS.
        named: of `NamedGroups`.
    """

    @configurable
    def __init__(self, *, mass: float = 0.6, **named: Any) -> None:
        super().__init__(**named)
        self.mass = mass

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        return {**super().from_config(cfg), "mass": cfg.MODEL.TRAINING_FREE.ATTENTION_MASS}

    def group(self, seen: DinoFeatures) -> Tensor:
        """1 inside the mask of the mean of all heads, 0 outside."""
        return mean_mask(seen.attention, self.mass).long().unflatten(0, seen.grid)


@META_ARCH_REGISTRY.register()
class KMeansGrouping(NamedGroups):
    """k-means over DINO's keys of one image.

    Args:
        clusters, restarts: MODEL.TRAINING_FREE.KMEANS.
        named: of `NamedGroups`.
    """

    @configurable
    def __init__(self, *, clusters: int = 4, restarts: int = 10, **named: Any) -> None:
        super().__init__(**named)
        self.clusters, self.restarts = clusters, restarts

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.KMEANS
        return {
            **super().from_config(cfg),
            "clusters": keys.CLUSTERS,
            "restarts": keys.RESTARTS,
        }

    def group(self, seen: DinoFeatures) -> Tensor:
        """The cluster of every patch."""
        return kmeans_groups(seen.keys, self.clusters, self.restarts).unflatten(0, seen.grid)


@META_ARCH_REGISTRY.register()
class TokenCut(NamedGroups):
    """Objects cut out of the graph of DINO's keys, and the rest.

    Args:
        threshold, weak, objects: MODEL.TRAINING_FREE.TOKENCUT.
        named: of `NamedGroups`.
    """

    @configurable
    def __init__(
        self, *, threshold: float = 0.2, weak: float = 1e-5, objects: int = 1, **named: Any
    ) -> None:
        super().__init__(**named)
        self.threshold, self.weak, self.objects = threshold, weak, objects

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.TOKENCUT
        return {
            **super().from_config(cfg),
            "threshold": keys.THRESHOLD,
            "weak": keys.WEAK,
            "objects": keys.OBJECTS,
        }

    def group(self, seen: DinoFeatures) -> Tensor:
        """1, 2, ... for the objects in the order they were found, 0 for the rest."""
        found = torch.zeros(seen.grid, dtype=torch.long)
        cuts = repeated_cuts(seen.keys, seen.grid, self.objects, self.threshold, self.weak)
        for number, cut in enumerate(cuts, 1):
            found[torch.from_numpy(cut.mask)] = number
        return found
