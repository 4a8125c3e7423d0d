"""Sources of class-agnostic masks that are not trained here: SAM, clusters, another model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from hipie import model_zoo
from hipie.checkpoint import Checkpointer
from hipie.errors import InputError
from hipie.modeling.clustering import cluster_masks
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.sam.predictor import Sam
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_proposal_clip.modeling.conv_clip import ConvClip

# Masks [N, H, W] bool of an image [3, H, W] (RGB in 0..1) and a vocabulary; N may be 0.
MaskProposals = Callable[[Tensor, Vocabulary], Tensor]
CLUSTERED_STAGE = "res4"


class SamProposals:
    """SAM's automatic masks; the vocabulary is not read.

    Args:
        sam: the model.
        options: of `segment_anything.SamAutomaticMaskGenerator`.
    """

    def __init__(self, sam: Sam, **options: Any) -> None:
        self.sam, self.options = sam, options

    def __call__(self, image: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Masks of an image in decreasing order of their predicted IoU."""
        from hipie.modeling.sam.automatic_masks import automatic_masks

        pixels = (255 * image).round().byte().permute(1, 2, 0).cpu().numpy()
        masks, _ = automatic_masks(self.sam, pixels, **self.options)
        return masks[masks.flatten(1).any(1)].to(image.device)


class ClusterProposals:
    """Connected parts of k-means clusters of CLIP's features; the vocabulary is not read.

    Features are those of a ConvNeXt's or ResNet's third stage at stride 16, or of a ViT's patches.

    Args:
        clip: the model.
        conv: its convolutional image encoder; None = a ViT.
        clusters, restarts: see `cluster_masks`.
    """

    def __init__(self, clip: Clip, conv: ConvClip | None, clusters: int, restarts: int) -> None:
        self.clip, self.conv = clip, conv
        self.clusters, self.restarts = clusters, restarts

    @torch.no_grad()
    def __call__(self, image: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Masks of an image; at least one."""
        size = (int(image.shape[-2]), int(image.shape[-1]))
        if self.conv is None:
            features = self.clip.encode(image).patch_features
        else:
            sides = (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)
            stages = self.conv.features(self.clip.prepare(image[None], sides))
            features = stages[CLUSTERED_STAGE][0].permute(1, 2, 0)
        grid = (int(features.shape[0]), int(features.shape[1]))
        return cluster_masks(features.flatten(0, 1), grid, size, self.clusters, self.restarts)


class ModelProposals:
    """Segments of another model for the same vocabulary, without their classes.

    Args:
        model: supports the task "universal".
        min_size, max_size: the shorter side that it resizes images to, and the largest longer one.
        bgr: whether its images have blue first.
    """

    def __init__(
        self, model: SegmentationModel, min_size: int, max_size: int, *, bgr: bool = False
    ) -> None:
        self.model, self.min_size, self.max_size, self.bgr = model, min_size, max_size, bgr

    def __call__(self, image: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Masks of an image, one for each segment of the panoptic map."""
        height, width = (int(side) for side in image.shape[-2:])
        scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        resized = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0] * 255
        item = {
            "image": resized.flip(0) if self.bgr else resized,
            "vocabulary": vocabulary,
            "height": height,
            "width": width,
        }
        panoptic, segments = self.model.eval()([item])[0]["panoptic_seg"]
        ids = torch.tensor([segment["id"] for segment in segments], device=panoptic.device)
        masks = panoptic == ids.view(-1, 1, 1)
        return masks[masks.flatten(1).any(1)].to(image.device)


def build_proposals(cfg: CfgNode, clip: Clip, conv: ConvClip | None) -> MaskProposals | None:
    """Build the source of masks; None for a decoder.

    Args:
        cfg: reads `MODEL.PROPOSAL_CLIP`.
        clip: the model whose features are clustered.
        conv: see `ClusterProposals`.

    Raises:
        InputError: for a model that has no panoptic map.
    """
    keys = cfg.MODEL.PROPOSAL_CLIP
    if keys.MASKS == "sam":
        sam = Sam.from_source(*model_zoo.sam_source(keys.SAM.MODEL, keys.SAM.WEIGHTS))
        return SamProposals(
            sam,
            points_per_side=keys.SAM.POINTS,
            pred_iou_thresh=keys.SAM.PRED_IOU,
            stability_score_thresh=keys.SAM.STABILITY,
        )
    if keys.MASKS == "kmeans":
        return ClusterProposals(clip, conv, keys.KMEANS.CLUSTERS, keys.KMEANS.RESTARTS)
    if keys.MASKS == "hipie":
        return _model_proposals(keys.HIPIE.CONFIG_FILE, keys.HIPIE.WEIGHTS)
    return None


def _model_proposals(name: str, weights: str) -> ModelProposals:
    cfg = model_zoo.get_config(name)
    model = model_zoo.get(name, trained=not weights)
    if "universal" not in model.tasks:
        raise InputError(
            f"MODEL.PROPOSAL_CLIP.HIPIE.CONFIG_FILE: {name} is a {type(model).__name__}, which "
            "segments no vocabulary"
        )
    if weights:
        Checkpointer(model).load(model_zoo.weights_address(weights))
    return ModelProposals(
        model.requires_grad_(False),
        cfg.INPUT.MIN_SIZE_TEST,
        cfg.INPUT.MAX_SIZE_TEST,
        bgr=cfg.INPUT.FORMAT == "BGR",
    )
