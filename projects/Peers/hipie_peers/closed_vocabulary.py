"""Mask2Former and OneFormer: networks for the classes that they were trained with.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022;
Jain et al., "OneFormer: One Transformer to Rule Universal Image Segmentation", CVPR 2023.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor

from hipie.box_ops import masks_to_boxes
from hipie.logs import get_logger
from hipie.vocabularies.vocabulary import Vocabulary, clean_class_name
from hipie_peers.loading import MASK2FORMER, ONEFORMER, NetworkType
from hipie_peers.meta_arch import Peer
from hipie_peers.outputs import Detections, Size, to_instances

logger = get_logger(__name__)
# Endings of COCO's merged classes, such as "wall-other-merged", that are no part of the name.
_ENDINGS = re.compile(r"[\s-](?:other|merged|stuff)$")
MAX_LISTED = 10


@dataclass(frozen=True)
class LabelMatch:
    """Labels of a network that have names of a vocabulary.

    Attributes:
        class_of: by label, the index of the class.
        unmatched: names of the classes that no label has.
    """

    class_of: Mapping[int, int]
    unmatched: tuple[str, ...]

    @classmethod
    def by_name(cls, labels: Mapping[int, str], vocabulary: Vocabulary) -> LabelMatch:
        """Match labels and classes whose names, or one of their synonyms, are equal.

        Case, underscores, hyphens, text in brackets and the endings of COCO's merged classes make
        no difference; alternatives in a label are separated by "," or ";". A label with the exact
        name of a class is that class even if it is a synonym of another one.

        Args:
            labels: names by label.
            vocabulary: the classes.
        """
        class_by_name: dict[str, int] = {}
        for index, entry in enumerate(vocabulary.classes):
            class_by_name.setdefault(comparable_name(entry.name), index)
        for index, entry in enumerate(vocabulary.classes):
            for phrase in entry.phrases:
                class_by_name.setdefault(comparable_name(phrase), index)
        class_of: dict[int, int] = {}
        for label, name in labels.items():
            alternatives = [name, *re.split("[,;]", name)]
            keys = [key for key in map(comparable_name, alternatives) if key in class_by_name]
            if keys:
                class_of[label] = class_by_name[keys[0]]
        known = set(class_of.values())
        unmatched = [n for index, n in enumerate(vocabulary.names) if index not in known]
        return cls(class_of, tuple(unmatched))


def comparable_name(name: str) -> str:
    """Return what two names have in common that differ in spelling only; see `LabelMatch`."""
    key = clean_class_name(name).lower().strip()
    while (shorter := _ENDINGS.sub("", key)) != key:
        key = shorter
    return " ".join(key.replace("-", " ").split())


class ClosedVocabulary(Peer):
    """Network whose classes are fixed; of a vocabulary it segments those whose names it has.

    A class that it does not have gets no segment, and a warning names it once. Segments and scores
    are those that transformers computes for all classes of the network; segments of classes that
    are not asked for are left out.

    Args:
        arguments: see `Peer`.
    """

    kind: ClassVar[NetworkType]
    is_told_the_task: ClassVar[bool] = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.labels = {int(key): str(n) for key, n in self.network.config.id2label.items()}
        self._warned: set[str] = set()

    def match(self, vocabulary: Vocabulary) -> LabelMatch:
        """Match the network's labels with a vocabulary; new unmatched names are a warning."""
        match = LabelMatch.by_name(self.labels, vocabulary)
        new = [name for name in match.unmatched if name not in self._warned]
        if new:
            self._warned.update(new)
            more = f" and {len(new) - MAX_LISTED} more" if len(new) > MAX_LISTED else ""
            logger.warning(
                "%s has no class of the name %s%s, which gets no segment",
                type(self).__name__,
                ", ".join(f'"{name}"' for name in new[:MAX_LISTED]),
                more,
            )
        return match

    def run(self, image: NDArray[np.uint8], task: str) -> Any:
        """Run the network on an image for "instance", "panoptic" or "semantic" segmentation."""
        raise NotImplementedError

    def instance_masks(self, outputs: Any, size: Size) -> tuple[Tensor, list[dict[str, Any]]]:
        """Return masks [N, H, W] and transformers' description of each instance."""
        raise NotImplementedError

    @property
    def image_processor(self) -> Any:
        """Processor of images and outputs."""
        return getattr(self.processor, "image_processor", self.processor)

    def segment(
        self, image: NDArray[np.uint8], vocabulary: Vocabulary, size: Size, requested: set[str]
    ) -> dict[str, Any]:
        """Segment one image; see `Peer.segment`."""
        match = self.match(vocabulary)
        computed: dict[str, Any] = {}

        def raw(task: str) -> Any:
            key = task if self.is_told_the_task else ""
            if key not in computed:
                computed[key] = self.run(image, task)
            return computed[key]

        outputs: dict[str, Any] = {}
        if "instances" in requested:
            outputs["instances"] = self._instances(raw("instance"), match, vocabulary, size)
        if "panoptic_seg" in requested:
            outputs["panoptic_seg"] = self._panoptic(raw("panoptic"), match, vocabulary, size)
        if "sem_seg" in requested:
            outputs["sem_seg"] = self._semantic(raw("semantic"), match, vocabulary, size)
        return outputs

    def _semantic(self, raw: Any, match: LabelMatch, vocabulary: Vocabulary, size: Size) -> Tensor:
        (semantic,) = self.image_processor.post_process_semantic_segmentation(
            raw, target_sizes=[size], return_segmentation_scores=True
        )
        scores = semantic.segmentation_scores.float()
        result = scores.new_zeros(len(vocabulary), *size)
        for label, index in match.class_of.items():
            result[index] += scores[label]
        return result

    def _panoptic(
        self, raw: Any, match: LabelMatch, vocabulary: Vocabulary, size: Size
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        fused = {label for label, index in match.class_of.items() if not vocabulary.is_thing[index]}
        (result,) = self.image_processor.post_process_panoptic_segmentation(
            raw,
            threshold=self.config.threshold,
            mask_threshold=self.config.mask_threshold,
            overlap_mask_area_threshold=self.config.overlap,
            label_ids_to_fuse=fused,
            target_sizes=[size],
        )
        ids = result["segmentation"].to(self.device)
        panoptic = torch.zeros(size, dtype=torch.int32, device=self.device)
        segments: list[dict[str, Any]] = []
        segment_of_stuff: dict[int, int] = {}
        for segment in result["segments_info"]:
            mask, index = ids == segment["id"], match.class_of.get(segment["label_id"])
            if index is None or not bool(mask.any()):
                continue
            if index in segment_of_stuff:
                panoptic[mask] = segment_of_stuff[index]
                continue
            is_thing = vocabulary.is_thing[index]
            segment_id = len(segments) + 1
            panoptic[mask] = segment_id
            if not is_thing:
                segment_of_stuff[index] = segment_id
            segments.append(
                {
                    "id": segment_id,
                    "isthing": is_thing,
                    "category_id": index,
                    "score": float(segment["score"]),
                }
            )
        return panoptic, segments

    def _instances(
        self, raw: Any, match: LabelMatch, vocabulary: Vocabulary, size: Size
    ) -> Instances:
        masks, infos = self.instance_masks(raw, size)
        rows, classes, scores = [], [], []
        for row, info in enumerate(infos):
            index = match.class_of.get(info["label_id"])
            if index is not None and vocabulary.is_thing[index] and bool(masks[row].any()):
                rows.append(row)
                classes.append(index)
                scores.append(float(info["score"]))
        kept = masks[torch.tensor(rows, dtype=torch.long)].to(self.device)
        boxes = masks_to_boxes(kept).float() if rows else torch.zeros(0, 4, device=self.device)
        detected = Detections(
            kept,
            boxes,
            torch.tensor(scores, device=self.device),
            torch.tensor(classes, dtype=torch.long, device=self.device),
        )
        order = detected.scores.argsort(descending=True, stable=True)
        return to_instances(detected.select(order), size)


@META_ARCH_REGISTRY.register()
class TransformersMask2Former(ClosedVocabulary):
    """Mask2Former of transformers.

    Args:
        arguments: see `Peer`.
    """

    kind: ClassVar[NetworkType] = MASK2FORMER

    @configurable
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

    def run(self, image: NDArray[np.uint8], task: str) -> Any:
        """Run the network, which computes the same for every task."""
        return self.network(**self.to_network(self.processor(image, return_tensors="pt")))

    def instance_masks(self, outputs: Any, size: Size) -> tuple[Tensor, list[dict[str, Any]]]:
        """Masks of instances, which may overlap; see `ClosedVocabulary`."""
        (result,) = self.image_processor.post_process_instance_segmentation(
            outputs,
            threshold=self.config.instance_threshold,
            target_sizes=[size],
            return_binary_maps=True,
        )
        infos = result["segments_info"]
        if not infos:
            return torch.zeros(0, *size, dtype=torch.bool), []
        return result["segmentation"].bool(), infos


@META_ARCH_REGISTRY.register()
class TransformersOneFormer(ClosedVocabulary):
    """OneFormer of transformers, which is told the task.

    Args:
        arguments: see `Peer`.
    """

    kind: ClassVar[NetworkType] = ONEFORMER
    is_told_the_task: ClassVar[bool] = True

    @configurable
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Its post-processing looks for the name of ADE20K's file in the name of the class file.
        self.image_processor.class_info_file = self.image_processor.class_info_file or ""

    def run(self, image: NDArray[np.uint8], task: str) -> Any:
        """Run the network for a task; see `ClosedVocabulary`."""
        inputs = self.processor(image, [task], return_tensors="pt")
        return self.network(**self.to_network(inputs))

    def instance_masks(self, outputs: Any, size: Size) -> tuple[Tensor, list[dict[str, Any]]]:
        """Masks of instances, which do not overlap; see `ClosedVocabulary`."""
        (result,) = self.image_processor.post_process_instance_segmentation(
            outputs,
            threshold=self.config.instance_threshold,
            mask_threshold=self.config.mask_threshold,
            overlap_mask_area_threshold=self.config.overlap,
            target_sizes=[size],
        )
        infos = result["segments_info"]
        masks = [result["segmentation"] == info["id"] for info in infos]
        return torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool), infos
