"""The architecture `GRSer`: groups of images with an expression in, losses or answers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from grser.build import assemble
from grser.checkpoint_converters import OFFICIAL_LAVT, RELEASED_SWIN
from grser.data.batch import Group, groups_of
from grser.data.dataset import data_of
from grser.data.image_batch import stack_images, stack_targets
from grser.modeling.criterion import heatmap_loss, mask_loss, triplet_loss
from grser.modeling.lavt import LAVT, enlarged
from grser.modeling.negative_rejection import Comparison, confidence, is_positive
from grser.modeling.text import ExpressionPairs, ReadExpressions
from grser.modeling.triphasic_head import TriphasicHead
from grser.postprocessing import as_instances, image_answer
from grser.settings import GroupSettings
from grser.weight_decay import names_without_decay
from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.modeling.meta_arch.base import SegmentationModel


@META_ARCH_REGISTRY.register()
class GRSer(SegmentationModel):
    """Group-wise referring segmentation.

    Takes Detectron2's list of dicts. A dict is a group: `images`, a list of dicts with `image`
    ([3, H, W], 0..255) and perhaps `height` and `width` of the results, and `expression`; in
    training each image has `target` ([H, W] of 0 and 1, all 0 for a negative one). Or it is one
    image, `image` with `expressions`, in training with `instances` as for HIPIE: ordinary
    referring, where the expression is taken to be true.

    Returns in training a dict of losses. Otherwise for a group a list, one dict an image:
    `sem_seg` [1, H, W] of 0 and 1, `score` and `positive`; for an image a dict with `referring`,
    an `Instances` an expression.

    Args:
        text_encoder: see `SentencePairs`.
        lavt: encoder and decoder.
        head: the group's modules; None leaves LAVT alone, image by image.
        comparison: of images with expressions; None with `head`.
        settings: losses, the rule, and sizes.
        pixel_mean, pixel_std: of images in 0..255, three numbers each.
    """

    tasks = frozenset({"group", "referring"})
    data_of = staticmethod(data_of)

    @configurable
    def __init__(
        self,
        *,
        text_encoder: ExpressionPairs,
        lavt: LAVT,
        head: TriphasicHead | None,
        comparison: Comparison | None,
        settings: GroupSettings,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.lavt = lavt
        self.head = head
        self.comparison = comparison
        self.settings = settings
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.GRSER` and Detectron2's keys."""
        return assemble(cfg)

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converters of published LAVT checkpoints and of Swin's ImageNet weights."""
        return (OFFICIAL_LAVT, RELEASED_SWIN)

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefix of the text encoder's weights where an installed package provides them."""
        return ("text_encoder.",) if self.text_encoder.has_external_weights() else ()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of the parameters that are not pulled towards 0 in training."""
        return names_without_decay(self)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, results otherwise; see the class."""
        if self.training:
            return self.losses(batched_inputs)
        with torch.no_grad():
            return [self._answer(item) for item in batched_inputs]

    # Training -------------------------------------------------------------------------------

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted loss terms of a batch of groups.

        Raises:
            ValueError: for a group without images or words, or an image without its target.
        """
        groups = [group for item in batched_inputs for group in groups_of(item, training=True)]
        items = [item for group in groups for item in group.items]
        counts = [len(group.items) for group in groups]
        pixels = stack_images(items, self.pixel_mean, self.pixel_std)
        size = tuple(pixels.shape[-2:])
        targets = stack_targets(items, size, pixels)
        text = self.text_encoder.read([group.expression for group in groups])
        group_of = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(counts))
        group_of = group_of.to(self.device)
        maps = self.lavt.encoder(pixels, text.words[group_of], text.mask[group_of])
        ruled = torch.tensor([group.ruled for group in groups], device=self.device)[group_of]
        return self._losses(maps, text, counts, group_of, targets, ruled)

    def _losses(
        self,
        maps: list[Tensor],
        text: ReadExpressions,
        counts: list[int],
        group_of: Tensor,
        targets: Tensor,
        ruled: Tensor,
    ) -> dict[str, Tensor]:
        given, size = self.settings, tuple(targets.shape[-2:])
        loss = given.mask_loss, given.class_weights
        if self.head is None:
            logits = enlarged(self.lavt.decoder(maps), size)
            return {"loss_mask": mask_loss(logits, targets, *loss)}
        seen, heat = self._triphasic(maps, counts, text.sentence, text.anti)
        passes = [seen]
        if given.mirror_weight:
            mirrored, anti_heat = self._triphasic(maps, counts, text.anti, text.sentence)
            passes.append(mirrored)
        # In one batch: batch norm of each pass by itself would take away what tells them apart.
        logits = self._decode([torch.cat([one] * len(passes)) for one in maps], torch.cat(passes))
        parts = enlarged(logits, size).split(len(targets))
        losses = {"loss_mask": mask_loss(parts[0], targets, *loss)}
        near, far = self.comparison(
            seen[ruled], text.sentence[group_of[ruled]], text.anti[group_of[ruled]]
        )
        shown = targets.flatten(1).any(1)
        triplet = triplet_loss(
            near, far, shown[ruled], given.triplet_margin, given.triplet_negatives
        )
        losses["loss_triplet"] = given.triplet_weight * triplet
        if given.mirror_weight:
            # What this pass takes for the target is all the rest; read as background, so that the
            # target's pixels weigh the same in both passes, and dice is of the target.
            background = parts[1].flip(1)
            losses["loss_mirror"] = given.mirror_weight * mask_loss(background, targets, *loss)
            if given.heatmap_weight:
                sided = heatmap_loss(heat, anti_heat, targets)
                losses["loss_heatmap"] = given.heatmap_weight * sided
        return losses

    # Inference ------------------------------------------------------------------------------

    def _answer(self, item: dict[str, Any]) -> Any:
        groups = groups_of(item, training=False)
        if "images" in item:
            return self._ask(groups[0])
        return {"referring": [as_instances(self._ask(group)[0]) for group in groups]}

    def _ask(self, group: Group) -> list[dict[str, Any]]:
        """The answers of a group, one an image."""
        given = self.settings
        text = self.text_encoder.read([group.expression])
        pixels = stack_images(group.items, self.pixel_mean, self.pixel_std)
        maps = self._encode(pixels, text)
        if self.head is None:
            logits, decided = self.lavt.decoder(maps), [(None, None)] * len(pixels)
        else:
            seen, _ = self._triphasic(maps, [len(pixels)], text.sentence, text.anti)
            logits = self._decode_some(maps, seen)
            asked = given.decide and (group.ruled or given.decide_single)
            decided = self._decide(seen, text) if asked else None
            decided = decided or [(None, None)] * len(pixels)
        answers = []
        for item, one, (positive, score) in zip(group.items, logits, decided, strict=True):
            size = (
                int(item.get("height", item["image"].shape[-2])),
                int(item.get("width", item["image"].shape[-1])),
            )
            full = enlarged(one[None], tuple(pixels.shape[-2:]))[0]
            answers.append(
                image_answer(full, size, positive=positive, score=score, soft=given.soft)
            )
        return answers

    def _decide(self, seen: Tensor, text: ReadExpressions) -> list[tuple[bool, float]]:
        near, far = self.comparison(seen, text.sentence, text.anti)
        positive = is_positive(near, far, self.settings.margin).tolist()
        return list(
            zip(positive, confidence(near, far, self.settings.margin).tolist(), strict=True)
        )

    def _encode(self, pixels: Tensor, text: ReadExpressions) -> list[Tensor]:
        """The four maps of all images of a group, some images at a time."""
        parts = []
        for some in pixels.split(self.settings.images_at_once):
            words, mask = text.words.expand(len(some), -1, -1), text.mask.expand(len(some), -1)
            parts.append(self.lavt.encoder(some, words, mask))
        return [torch.cat(levels) for levels in zip(*parts, strict=True)]

    def _decode_some(self, maps: list[Tensor], seen: Tensor) -> Tensor:
        """`_decode`, some images at a time."""
        step = self.settings.images_at_once
        starts = range(0, len(seen), step)
        return torch.cat(
            [self._decode([m[s : s + step] for m in maps], seen[s : s + step]) for s in starts]
        )

    # Both -----------------------------------------------------------------------------------

    def _triphasic(
        self, maps: list[Tensor], counts: list[int], sentence: Tensor, anti: Tensor
    ) -> tuple[Tensor, Tensor]:
        """z and language heatmaps of all images, group by group."""
        asked = maps[self.settings.feature_level].split(counts)
        found = [self.head(one, sentence[number], anti[number]) for number, one in enumerate(asked)]
        features, heat = zip(*found, strict=True)
        return torch.cat(features), torch.cat(heat)

    def _decode(self, maps: list[Tensor], seen: Tensor) -> Tensor:
        """LAVT's decoder with z, narrowed, in the place of the map it was made of."""
        level = self.settings.feature_level
        narrowed = self.head.narrow(seen.to(maps[level].dtype))
        return self.lavt.decoder([*maps[:level], narrowed, *maps[level + 1 :]])
