"""SAM 3: all instances of a concept that a noun phrase names.

Carion et al., "SAM 3: Segment Anything with Concepts", 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from hipie.vocabularies.vocabulary import Vocabulary
from hipie_peers.loading import SAM3, NetworkType
from hipie_peers.meta_arch import Peer
from hipie_peers.outputs import (
    Detections,
    Size,
    detection_outputs,
    suppress_duplicates,
    to_instances,
)


@dataclass(frozen=True)
class ConceptPrediction:
    """Prediction of SAM 3 for one noun phrase.

    Attributes:
        masks: [N, H, W] bool, of the instances.
        boxes: [N, 4] xyxy in pixels.
        scores: [N], with the probability that the concept is in the image.
        semantic: [H, W] probability of the concept at every pixel, multiplied by that, too.
    """

    masks: Tensor
    boxes: Tensor
    scores: Tensor
    semantic: Tensor


@META_ARCH_REGISTRY.register()
class TransformersSAM3(Peer):
    """SAM 3 of transformers, for class names and expressions.

    The image is encoded once; every name is a concept of its own. An expression's mask is that of
    the concept's best instance.

    Args:
        arguments: see `Peer`.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"universal", "referring"})
    kind: ClassVar[NetworkType] = SAM3

    @configurable
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    def predict_concepts(
        self,
        image: NDArray[np.uint8],
        phrases: Sequence[str],
        size: Size,
        threshold: float | None = None,
    ) -> list[ConceptPrediction]:
        """Segment concepts at the output size.

        Args:
            image: [H, W, 3] RGB.
            phrases: N noun phrases.
            size: (height, width) of the outputs.
            threshold: score above which an instance is kept; by default MODEL.PEERS.THRESHOLD.

        Returns:
            One prediction a phrase.
        """
        threshold = self.config.threshold if threshold is None else threshold
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        features = self.network.get_vision_features(pixel_values=pixels.to(self.device))
        predictions = []
        for phrase in phrases:
            text = self.processor.tokenizer(
                phrase,
                padding="max_length",
                max_length=self.network.config.text_config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            )
            text = {name: text[name].to(self.device) for name in ("input_ids", "attention_mask")}
            outputs = self.network(vision_embeds=features, **text)
            (kept,) = self.processor.post_process_instance_segmentation(
                outputs,
                threshold=threshold,
                mask_threshold=self.config.mask_threshold,
                target_sizes=[size],
            )
            (semantic,) = self.processor.post_process_semantic_segmentation(
                outputs, target_sizes=[size], return_segmentation_scores=True
            )
            presence = outputs.presence_logits.float().sigmoid().reshape(())
            predictions.append(
                ConceptPrediction(
                    kept["masks"].bool(),
                    kept["boxes"].float(),
                    kept["scores"].float(),
                    semantic.segmentation_scores[0].float() * presence,
                )
            )
        return predictions

    def segment(
        self, image: NDArray[np.uint8], vocabulary: Vocabulary, size: Size, requested: set[str]
    ) -> dict[str, Any]:
        """Segment one image; see `Peer.segment`."""
        pairs = [(p, k) for k, entry in enumerate(vocabulary.classes) for p in entry.phrases]
        predictions = self.predict_concepts(image, [phrase for phrase, _ in pairs], size)
        parts = []
        for prediction, (_, index) in zip(predictions, pairs, strict=True):
            classes = torch.full_like(prediction.scores, index, dtype=torch.long)
            parts.append(Detections(prediction.masks, prediction.boxes, prediction.scores, classes))
        detected = Detections.concatenate(parts, size)
        kept = suppress_duplicates(
            detected.boxes, detected.scores, detected.classes, self.config.nms
        )
        outputs = detection_outputs(
            detected.select(kept),
            vocabulary.is_thing,
            size,
            requested - {"sem_seg"},
            self.config.overlap,
        )
        if "sem_seg" in requested:
            semantic = torch.zeros(len(vocabulary), *size, device=self.device)
            for prediction, (_, index) in zip(predictions, pairs, strict=True):
                semantic[index] = torch.maximum(semantic[index], prediction.semantic)
            outputs["sem_seg"] = semantic
        return outputs

    def refer(
        self, image: NDArray[np.uint8], expressions: Sequence[str], size: Size
    ) -> list[Instances]:
        """Segment expressions: the best instance of each, whatever its score."""
        results = []
        for prediction in self.predict_concepts(image, expressions, size, threshold=0.0):
            classes = torch.zeros_like(prediction.scores, dtype=torch.long)
            detected = Detections(prediction.masks, prediction.boxes, prediction.scores, classes)
            best = prediction.scores.argsort(descending=True, stable=True)[:1]
            results.append(to_instances(detected.select(best), size))
        return results
