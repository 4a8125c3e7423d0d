"""CLIPSeg: a probability map for each phrase.

Lüddecke and Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from hipie.modeling.postprocessing.panoptic_inference import PanopticThresholds, panoptic_inference
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_peers.loading import CLIPSEG, NetworkType
from hipie_peers.meta_arch import Peer
from hipie_peers.outputs import Size, mask_instance

# Phrases that the decoder takes in one pass: the image is encoded once for each of them.
PHRASES_PER_PASS = 8


@META_ARCH_REGISTRY.register()
class TransformersCLIPSeg(Peer):
    """CLIPSeg of transformers, for class names and expressions.

    A class has the highest probability of its names. It is one segment, of the pixels at which its
    probability is the highest of all classes and at least `MODEL.PEERS.THRESHOLD`; it has no
    instances. An expression's mask are the pixels of at least that probability.

    Args:
        arguments: see `Peer`.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"universal", "referring"})
    kind: ClassVar[NetworkType] = CLIPSEG

    @configurable
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    def phrase_maps(self, image: NDArray[np.uint8], phrases: Sequence[str], size: Size) -> Tensor:
        """Compute probability maps [N, H, W] of N phrases at the output size.

        The logits are resized bilinearly, then mapped by the sigmoid function.
        """
        maps = []
        for start in range(0, len(phrases), PHRASES_PER_PASS):
            part = list(phrases[start : start + PHRASES_PER_PASS])
            inputs = self.processor(
                text=part,
                images=[image] * len(part),
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            logits = self.network(**self.to_network(inputs)).logits
            logits = logits.reshape(len(part), 1, *logits.shape[-2:]).float()
            resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            maps.append(resized[:, 0].sigmoid())
        return torch.cat(maps)

    def segment(
        self, image: NDArray[np.uint8], vocabulary: Vocabulary, size: Size, requested: set[str]
    ) -> dict[str, Any]:
        """Segment one image; see `Peer.segment`."""
        phrases = [phrase for entry in vocabulary.classes for phrase in entry.phrases]
        maps = iter(self.phrase_maps(image, phrases, size))
        scores = torch.stack(
            [
                torch.stack([next(maps) for _ in entry.phrases]).amax(0)
                for entry in vocabulary.classes
            ]
        )
        outputs: dict[str, Any] = {}
        if "sem_seg" in requested:
            outputs["sem_seg"] = scores
        if "panoptic_seg" in requested:
            outputs["panoptic_seg"] = class_map_segments(
                scores, vocabulary.is_thing, self.config.threshold
            )
        return outputs

    def refer(
        self, image: NDArray[np.uint8], expressions: Sequence[str], size: Size
    ) -> list[Instances]:
        """Segment expressions; the score is the mean probability of the mask."""
        results = []
        for probabilities in self.phrase_maps(image, expressions, size):
            mask = probabilities >= self.config.threshold
            score = probabilities[mask].mean() if bool(mask.any()) else probabilities.new_zeros(())
            results.append(mask_instance(mask, score))
        return results


def class_map_segments(
    scores: Tensor, is_thing: Sequence[bool], threshold: float
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Convert probability maps to a panoptic map with at most one segment a class.

    Args:
        scores: [K, H, W] in 0..1.
        is_thing: [K].
        threshold: pixels whose highest probability is lower are in no segment.

    Returns:
        The map [H, W] int32 and its segments, with their mean probability as score.
    """
    # A class is a query; its mask probability is at least 0.5 where its own one reaches the
    # threshold.
    shifted = 0.5 + (scores.double() - threshold) / 2
    logits = torch.logit(shifted, eps=1e-12).float()
    one_class_each = torch.eye(len(scores), device=scores.device)
    thresholds = PanopticThresholds(object_mask=0.0, overlap=0.0)
    panoptic, segments = panoptic_inference(one_class_each, logits, is_thing, thresholds)
    for segment in segments:
        mask = panoptic == segment["id"]
        segment["score"] = float(scores[segment["category_id"]][mask].mean())
    return panoptic, segments
