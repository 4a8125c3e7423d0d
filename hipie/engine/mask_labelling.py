"""Evaluation of parts with the masks of SAM, or with the true masks, in place of the model's own.

HIPIE's class-aware part segmentation gives a class-agnostic mask S the class C with the largest sum
P(S, C) of the semantic scores of C over the pixels of S. With true masks the result is what
it would be with a perfect SAM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from hipie import model_zoo
from hipie.data.annotation_maps import read_class_map
from hipie.data.broken_images import reading_rules_of
from hipie.data.image_io import read_record_image
from hipie.data.io.reading_rules import read_by
from hipie.data.label_values import offset_part_labels
from hipie.data.record_list import read_records
from hipie.modeling.open_vocabulary.error import missing_package
from hipie.modeling.postprocessing.mask_labelling import classify_masks
from hipie.structures import SemanticLabels

OWN, SAM, GROUND_TRUTH = "", "sam", "ground_truth"  # values of TEST.PART_MASKS
MaskSource = Callable[[dict[str, Any]], Tensor]


class MaskLabelledModel(nn.Module):
    """A model whose label maps consist of given masks, each with one class.

    Pixels outside of all masks keep the model's own class; smaller masks are painted over larger.
    Masks are proposed and labelled in float32, also where the model runs under autocast.

    Args:
        model: with the result `sem_seg`, see `HIPIE`.
        propose: input dict of an image -> masks [N, H, W] bool at the size of `sem_seg`.
    """

    def __init__(self, model: nn.Module, propose: MaskSource) -> None:
        super().__init__()
        self.model = model
        self.propose = propose
        self.training = model.training  # an evaluation restores the mode that it has found

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return `sem_seg_labels` of every image."""
        results = []
        for item in batched_inputs:  # one by one: a map has all scores at full size
            scores = self.model([{**item, "results": ("sem_seg",)}])[0]["sem_seg"]
            with torch.autocast(scores.device.type, enabled=False):
                labels = label_map(scores, self.propose(item))
            results.append({"sem_seg_labels": labels})
        return results


def label_map(scores: Tensor, masks: Tensor) -> SemanticLabels:
    """Label masks and paint them over the best class of every pixel.

    Args:
        scores: [K, H, W] semantic scores of at least 0.
        masks: [N, H, W] bool.
    """
    labels = scores.argmax(0)
    masks = masks.to(scores.device)
    masks = masks[masks.flatten(1).any(1)] if len(masks) else masks
    if len(masks):
        classes, _ = classify_masks(masks, scores)
        for index in masks.flatten(1).sum(1).argsort(descending=True, stable=True).tolist():
            labels[masks[index]] = classes[index]
    return SemanticLabels(labels, scores.gather(0, labels[None])[0], scores.sum(0))


def with_mask_source(cfg: CfgNode, model: nn.Module, dataset_name: str) -> nn.Module:
    """Return the model as `TEST.PART_MASKS` evaluates it on a data set.

    Only data sets of parts, with the `evaluator_type` "parts", are affected.

    Args:
        cfg: has `TEST.PART_MASKS`, `TEST.SAM` and `TEST.SAM_WEIGHTS`.
        model: see `MaskLabelledModel`.
        dataset_name: a registered data set.

    Raises:
        InputError: if SAM cannot be loaded.
        ModuleNotFoundError: naming the package that SAM needs, if it is not installed.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if cfg.TEST.PART_MASKS == OWN or metadata.get("evaluator_type") != "parts":
        return model
    if cfg.TEST.PART_MASKS == GROUND_TRUTH:
        return MaskLabelledModel(model, _true_masks(dataset_name))
    return MaskLabelledModel(model, _sam_masks(cfg, dataset_name))


def _sam_masks(cfg: CfgNode, dataset_name: str) -> MaskSource:
    """SAM's automatic masks of an image."""
    try:
        from hipie.modeling.sam.automatic_masks import automatic_masks
        from hipie.modeling.sam.predictor import Sam
    except ModuleNotFoundError as error:
        raise missing_package("TEST.PART_MASKS sam", "segment_anything", "sam") from error
    sam = Sam.from_source(*model_zoo.sam_source(cfg.TEST.SAM, cfg.TEST.SAM_WEIGHTS))
    sam.to(cfg.MODEL.DEVICE)
    rules = reading_rules_of(dataset_name)

    def propose(item: dict[str, Any]) -> Tensor:
        with read_by(rules):
            image = read_record_image(item)
        return automatic_masks(sam, image)[0]

    return propose


def _true_masks(dataset_name: str) -> MaskSource:
    """Masks of the annotated phrases of an image, one for each."""
    records = read_records(dataset_name)
    rules = reading_rules_of(dataset_name)
    ignore_label = MetadataCatalog.get(dataset_name).get("part_ignore_label")

    def propose(item: dict[str, Any]) -> Tensor:
        path = records.of_file(item["file_name"])["part_seg_file_name"]
        with read_by(rules):
            labels = offset_part_labels(read_class_map(path), ignore_label)
        values = [value for value in np.unique(labels).tolist() if value != 0]
        masks = [torch.from_numpy(labels == value) for value in values]
        return torch.stack(masks) if masks else torch.zeros(0, *labels.shape, dtype=torch.bool)

    return propose
