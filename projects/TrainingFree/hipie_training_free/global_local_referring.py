"""The architecture `GlobalLocalCLIP`: the mask that an expression means."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from hipie.modeling.meta_arch.inputs import output_size
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.error import unknown_name
from hipie.modeling.sam.predictor import Sam
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.meta_arch import Size, TrainingFree, build_clip, shared_settings
from hipie_training_free.modeling.clip_blocks import last_blocks
from hipie_training_free.modeling.dino import Dino
from hipie_training_free.modeling.global_local_clip import expression_features, mask_features
from hipie_training_free.modeling.mask_proposals import Proposals, group_proposals, sam_proposals


@META_ARCH_REGISTRY.register()
class GlobalLocalCLIP(TrainingFree):
    """Proposals by SAM or DINO, chosen among by CLIP.

    Takes dicts with `image` ([3, H, W], 0..255) and `expressions`, a list of expressions; returns a
    dict an image with `referring`, an `Instances` an expression: one mask, or none where there was
    no proposal.

    Args:
        clip: with a ViT that has a class token.
        proposals: an image -> masks.
        proposer: the network that they come from.
        weight, sentence_weight, blocks: MODEL.TRAINING_FREE.REFERRING.
        shared: of `TrainingFree`.
    """

    tasks = frozenset({"referring"})

    @configurable
    def __init__(
        self,
        *,
        clip: Clip,
        proposals: Proposals,
        proposer: nn.Module | None = None,
        weight: float = 0.85,
        expression_weight: float = 0.5,
        blocks: int = 3,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        clip.require_mask_pooling()
        last_blocks(clip.visual, blocks)
        self.clip, self.proposals = clip, proposals
        self.network, self.proposer = clip.model, proposer
        self.weight, self.expression_weight, self.blocks = weight, expression_weight, blocks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.REFERRING
        for name in ("GLOBAL", "EXPRESSION"):
            if not 0 <= keys[name] <= 1:
                raise TrainingFreeError(
                    f"MODEL.TRAINING_FREE.REFERRING.{name} is {keys[name]}; it has to be in 0..1"
                )
        proposals, proposer = _build_proposals(cfg)
        return {
            "clip": build_clip(cfg),
            "proposals": proposals,
            "proposer": proposer,
            "weight": keys.GLOBAL,
            "sentence_weight": keys.EXPRESSION,
            "blocks": keys.BLOCKS,
            **shared_settings(cfg),
        }

    def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        expressions = item.get("expressions")
        if not expressions:
            where = item.get("file_name", "an image")
            raise TrainingFreeError(
                f"{where}: GlobalLocalCLIP needs `expressions`, a list of expressions"
            )
        image = self.picture(item)
        size = output_size(item, tuple(image.shape[-2:]))
        masks = self.proposals(image)
        if not len(masks):
            return {"referring": [_instances(masks, image.new_zeros(0), size) for _ in expressions]}
        seen = mask_features(self.clip, image, masks, self.weight, self.blocks)
        text = expression_features(self.clip, list(expressions), self.expression_weight)
        best = (text @ seen.t()).max(1)
        scores = (best.values.float() + 1) / 2
        return {
            "referring": [
                _instances(masks[place][None], score[None], size)
                for place, score in zip(best.indices, scores, strict=True)
            ]
        }


def _build_proposals(cfg: CfgNode) -> tuple[Proposals, nn.Module]:
    keys = cfg.MODEL.TRAINING_FREE
    kind = keys.REFERRING.PROPOSALS
    if kind == "sam":
        sam = Sam.from_source(keys.REFERRING.SAM, keys.REFERRING.SAM_WEIGHTS)
        return sam_proposals(sam, keys.REFERRING.POINTS), sam.model
    if kind == "kmeans":
        dino = Dino.from_source(keys.DINO.MODEL, keys.DINO.WEIGHTS)
        return group_proposals(dino, keys.KMEANS.CLUSTERS, keys.KMEANS.RESTARTS), dino.network
    raise unknown_name("kind of proposals", kind, ("sam", "kmeans"))


def _instances(masks: Tensor, scores: Tensor, size: Size) -> Instances:
    """One answer at the size of the results."""
    found = Instances(size)
    if tuple(masks.shape[-2:]) != tuple(size) and len(masks):
        masks = F.interpolate(masks[None].float(), size=size, mode="bilinear")[0] >= 0.5
    found.pred_masks = masks if len(masks) else torch.zeros(0, *size, dtype=torch.bool)
    found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
    found.scores = scores
    found.pred_classes = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return found
