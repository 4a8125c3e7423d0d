"""GroundingDINO followed by SAM: boxes for class names or expressions, then masks of the boxes.

Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object
Detection", ECCV 2024; Ren et al., "Grounded SAM", 2024. The class of a box is the one whose tokens
have the highest mean probability, as in the authors' evaluation on COCO; its score is the highest
probability of any token, as in their demonstration and in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from hipie.errors import printable
from hipie.model_zoo import sam_source
from hipie.modeling.sam.predictor import Sam
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_peers.error import PeerError
from hipie_peers.loading import GROUNDING_DINO, NetworkType
from hipie_peers.meta_arch import Peer
from hipie_peers.outputs import (
    Detections,
    Size,
    detection_outputs,
    suppress_duplicates,
    to_instances,
)


@dataclass(frozen=True)
class PhraseCaption:
    """Class names that fit the text encoder together, joined as "a. b.".

    Attributes:
        text: the caption.
        phrases: index of every phrase in the list that captions are made of.
        tokens: token positions of every phrase.
    """

    text: str
    phrases: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]


@META_ARCH_REGISTRY.register()
class GroundedSAM(Peer):
    """GroundingDINO of transformers, whose boxes are prompts of SAM.

    Args:
        sam: turns boxes into masks.
        arguments: see `Peer`.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"universal", "referring"})
    kind: ClassVar[NetworkType] = GROUNDING_DINO

    @configurable
    def __init__(self, *, sam: Sam, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sam, self.sam_network = sam, sam.model

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.PEERS`."""
        keys = cfg.MODEL.PEERS
        sam = Sam.from_source(*sam_source(keys.SAM, keys.SAM_WEIGHTS))
        return {**super().from_config(cfg), "sam": sam}

    def detect(
        self, image: NDArray[np.uint8], phrases: Sequence[str], size: Size, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detect the boxes of phrases.

        Args:
            image: [H, W, 3] RGB.
            phrases: N class names.
            size: (height, width) that boxes are in pixels of.
            threshold: score above which a box is kept.

        Returns:
            Boxes [M, 4] xyxy, scores [M] and the index [M] of the phrase of each.
        """
        images = self.processor.image_processor(images=image, return_tensors="pt")
        images = self.to_network(images)
        detected: list[tuple[Tensor, Tensor, Tensor]] = []
        limit = self.network.config.max_text_len
        for caption in phrase_captions(self.processor.tokenizer, phrases, limit):
            text = self.to_network(self.processor.tokenizer(caption.text, return_tensors="pt"))
            outputs = self.network(**images, **text)
            probabilities = outputs.logits[0].float().sigmoid()
            (kept,) = self.processor.post_process_grounded_object_detection(
                outputs, text["input_ids"], threshold=threshold, target_sizes=[size]
            )
            rows = probabilities.amax(-1) > threshold
            means = [probabilities[rows][:, list(tokens)].mean(1) for tokens in caption.tokens]
            best = torch.stack(means, dim=1).argmax(1)
            indices = torch.tensor(caption.phrases, device=best.device)[best]
            detected.append((kept["boxes"].float(), kept["scores"].float(), indices))
        boxes, scores, indices = (torch.cat(parts) for parts in zip(*detected, strict=True))
        return boxes, scores, indices

    def segment(
        self, image: NDArray[np.uint8], vocabulary: Vocabulary, size: Size, requested: set[str]
    ) -> dict[str, Any]:
        """Segment one image; see `Peer.segment`."""
        pairs = [(p, k) for k, entry in enumerate(vocabulary.classes) for p in entry.phrases]
        boxes, scores, phrases = self.detect(
            image, [phrase for phrase, _ in pairs], size, self.config.threshold
        )
        classes = torch.tensor([index for _, index in pairs], device=phrases.device)[phrases]
        kept = suppress_duplicates(boxes, scores, classes, self.config.nms)
        detected = self._with_masks(image, boxes[kept], scores[kept], classes[kept], size)
        return detection_outputs(
            detected, vocabulary.is_thing, size, requested, self.config.overlap
        )

    def refer(
        self, image: NDArray[np.uint8], expressions: Sequence[str], size: Size
    ) -> list[Instances]:
        """Segment expressions: the box with the highest score of each, whatever that is."""
        best = []
        for expression in expressions:
            boxes, scores, classes = self.detect(image, [expression], size, 0.0)
            first = scores.argsort(descending=True, stable=True)[:1]
            best.append((boxes[first], scores[first], classes[first]))
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*best, strict=True))
        detected = self._with_masks(image, boxes, scores, classes, size, keep_all=True)
        return [
            to_instances(detected.select(torch.tensor([row])), size) for row in range(len(detected))
        ]

    def _with_masks(
        self,
        image: NDArray[np.uint8],
        boxes: Tensor,
        scores: Tensor,
        classes: Tensor,
        size: Size,
        keep_all: bool = False,
    ) -> Detections:
        """Predict SAM's masks of boxes in pixels of the output.

        Boxes that are empty inside the image have an empty mask; without `keep_all` they are left
        out.
        """
        height, width = image.shape[:2]
        scale = boxes.new_tensor([width / size[1], height / size[0]] * 2)
        limits = boxes.new_tensor([width, height, width, height])
        prompts = torch.minimum((boxes * scale).clamp(min=0), limits)
        valid = ((prompts[:, 2:] - prompts[:, :2]) > 0).all(1)
        masks = torch.zeros(len(boxes), *size, dtype=torch.bool, device=boxes.device)
        if bool(valid.any()):
            predicted = self.sam.encode(image).predict(boxes=prompts[valid]).masks
            masks[valid] = _resize_masks(predicted[:, 0].to(boxes.device), size)
        detected = Detections(masks, boxes, scores, classes)
        return detected if keep_all else detected.select(valid)


def _resize_masks(masks: Tensor, size: Size) -> Tensor:
    """Resize masks [N, H, W] bool to the output's size."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    resized = torch.nn.functional.interpolate(masks[:, None].float(), size=size, mode="bilinear")
    return resized[:, 0] >= 0.5


def phrase_captions(tokenizer: Any, phrases: Sequence[str], limit: int) -> list[PhraseCaption]:
    """Join phrases to as few captions as possible, each of at most `limit` tokens.

    Phrases are lower-cased, and each ends with a full stop, as GroundingDINO was trained with.

    Args:
        tokenizer: BERT's.
        phrases: N class names, or an expression.
        limit: number of tokens, with the start and end tokens.

    Raises:
        PeerError: naming a phrase that has no token, or more than a caption.
    """
    captions: list[PhraseCaption] = []
    texts: list[str] = []
    indices: list[int] = []
    spans: list[tuple[int, ...]] = []
    length = 1  # the start token
    for index, phrase in enumerate(phrases):
        text = " ".join(phrase.lower().replace(".", " ").split())
        count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if not count or count + 3 > limit:
            raise PeerError(
                f'"{printable(phrase)}" has {count} tokens, and GroundingDINO takes 1 to '
                f"{limit - 3}"
            )
        if length + count + 2 > limit:
            captions.append(PhraseCaption(" ".join(texts), tuple(indices), tuple(spans)))
            texts, indices, spans, length = [], [], [], 1
        texts.append(f"{text}.")
        indices.append(index)
        spans.append(tuple(range(length, length + count)))
        length += count + 1  # the full stop
    captions.append(PhraseCaption(" ".join(texts), tuple(indices), tuple(spans)))
    return captions
