"""Referring segmentation by CLIP among mask proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from hipie.modeling.meta_arch.inputs import output_size
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_blocks import last_blocks
from hipie.modeling.open_vocabulary.error import unknown_name
from hipie.modeling.sam.predictor import Sam
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.meta_arch import InferenceConfig, Size, TrainingFree, build_clip
from hipie_training_free.modeling.dino import Dino
from hipie_training_free.modeling.global_local_clip import expression_features, mask_features
from hipie_training_free.modeling.mask_proposals import (
    ProposalGenerator,
    kmeans_proposals,
    sam_proposals,
)


@META_ARCH_REGISTRY.register()
class GlobalLocalCLIP(TrainingFree):
    """Selection of SAM's or DINO's mask proposals by CLIP.

    Takes dicts with `image` ([3, H, W], 0..255) and `expressions`, a list of expressions; returns a
    dict for each image with `referring`, an `Instances` for each expression: one mask, or none if
    there is no proposal.

    Args:
        clip: with a ViT that has a class token.
        proposals: generates the masks of an image.
        proposal_network: the network of the generator.
        global_weight, expression_weight, blocks: MODEL.TRAINING_FREE.REFERRING.
        inference: inputs and outputs.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"referring"})

    @configurable
    def __init__(
        self,
        *,
        clip: Clip,
        proposals: ProposalGenerator,
        proposal_network: nn.Module | None = None,
        global_weight: float = 0.85,
        expression_weight: float = 0.5,
        blocks: int = 3,
        inference: InferenceConfig | None = None,
    ) -> None:
        super().__init__(inference)
        clip.require_mask_pooling()
        last_blocks(clip.visual, blocks)
        self.clip, self.proposals = clip, proposals
        self.network, self.proposal_network = clip.model, proposal_network
        self.global_weight, self.expression_weight = global_weight, expression_weight
        self.blocks = blocks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`.

        Raises:
            TrainingFreeError: for a weight outside 0..1.
        """
        keys = cfg.MODEL.TRAINING_FREE.REFERRING
        for name in ("GLOBAL", "EXPRESSION"):
            if not 0 <= keys[name] <= 1:
                raise TrainingFreeError(
                    f"MODEL.TRAINING_FREE.REFERRING.{name} is {keys[name]}; it has to be in 0..1"
                )
        proposals, network = _build_proposals(cfg)
        return {
            "clip": build_clip(cfg),
            "proposals": proposals,
            "proposal_network": network,
            "global_weight": keys.GLOBAL,
            "expression_weight": keys.EXPRESSION,
            "blocks": keys.BLOCKS,
            "inference": InferenceConfig.from_config(cfg),
        }

    def segment(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Raise an error, since a vocabulary is not supported.

        Raises:
            TrainingFreeError: always.
        """
        raise TrainingFreeError(f"{type(self).__name__} needs `expressions`, not a vocabulary")

    def propose_masks(self, image: Tensor) -> Tensor:
        """Propose masks [N, H, W] bool of an image [3, H, W]; N may be 0."""
        return self.proposals(image)

    def score_masks(self, image: Tensor, masks: Tensor, expressions: Sequence[str]) -> Tensor:
        """Compute cosines of masks and expressions.

        Args:
            image: [3, H, W] RGB in 0..1.
            masks: [N, H, W] bool.
            expressions: K expressions.

        Returns:
            [K, N] in -1..1.
        """
        visual = mask_features(self.clip, image, masks, self.global_weight, self.blocks)
        text = expression_features(self.clip, list(expressions), self.expression_weight)
        return text @ visual.t()

    def _segment_input(self, item: dict[str, Any]) -> dict[str, Any]:
        expressions = expressions_of(item, type(self).__name__)
        image = self.rgb_image(item)
        size = output_size(item, tuple(image.shape[-2:]))
        masks = self.propose_masks(image)
        if not len(masks):
            empty = image.new_zeros(0)
            return {"referring": [referring_instances(masks, empty, size) for _ in expressions]}
        best = self.score_masks(image, masks, expressions).max(1)
        scores = (best.values.float() + 1) / 2
        return {
            "referring": [
                referring_instances(masks[index][None], score[None], size)
                for index, score in zip(best.indices, scores, strict=True)
            ]
        }


def _build_proposals(cfg: CfgNode) -> tuple[ProposalGenerator, nn.Module]:
    keys = cfg.MODEL.TRAINING_FREE
    kind = keys.REFERRING.PROPOSALS
    if kind == "sam":
        sam = Sam.from_source(keys.REFERRING.SAM, keys.REFERRING.SAM_WEIGHTS)
        return sam_proposals(sam, keys.REFERRING.POINTS), sam.model
    if kind == "kmeans":
        dino = Dino.from_source(keys.DINO.MODEL, keys.DINO.WEIGHTS)
        return kmeans_proposals(dino, keys.KMEANS.CLUSTERS, keys.KMEANS.RESTARTS), dino.network
    raise unknown_name("kind of proposals", kind, ("sam", "kmeans"))


def expressions_of(item: dict[str, Any], architecture: str) -> Sequence[str]:
    """Return the expressions of an input dict.

    Raises:
        TrainingFreeError: if there is none, naming the file and the architecture.
    """
    expressions: Sequence[str] | None = item.get("expressions")
    if expressions:
        return expressions
    file = item.get("file_name", "an image")
    raise TrainingFreeError(f"{file}: {architecture} needs `expressions`, a list of expressions")


def referring_instances(masks: Tensor, scores: Tensor, size: Size) -> Instances:
    """`Instances` of masks [n, h, w] and scores [n] at the output size."""
    instances = Instances(size)
    if tuple(masks.shape[-2:]) != tuple(size) and len(masks):
        masks = F.interpolate(masks[None].float(), size=size, mode="bilinear")[0] >= 0.5
    instances.pred_masks = masks if len(masks) else torch.zeros(0, *size, dtype=torch.bool)
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    instances.scores = scores
    instances.pred_classes = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return instances
