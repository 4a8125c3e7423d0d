"""GRSer meta-architecture: group-wise referring segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from grser.build import build_components
from grser.checkpoint_converters import NAMES_BEFORE_RENAMING, OFFICIAL_LAVT, RELEASED_SWIN
from grser.data.dataset import grser_groups, has_groups
from grser.modeling.criterion import Distances, GroupCriterion, has_target
from grser.modeling.image_batch import Group, groups_from_input, stack_images, stack_targets
from grser.modeling.lavt import LAVT, upsample
from grser.modeling.negative_rejection import (
    NegativeRejectionHead,
    is_positive,
    positive_probability,
)
from grser.modeling.swin import SwinBackbone
from grser.modeling.text import ExpressionEncoder, ExpressionFeatures
from grser.modeling.triphasic_head import TriphasicFeatures, TriphasicHead
from grser.postprocessing import InferenceConfig, postprocess_image, to_instances
from grser.weight_decay import parameters_without_weight_decay
from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.errors import InputError
from hipie.modeling.activation_checkpointing import checkpoint_layer_groups
from hipie.modeling.device_transfer import to_device
from hipie.modeling.meta_arch.base import SegmentationModel

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures


@META_ARCH_REGISTRY.register()
class GRSer(SegmentationModel):
    """Group-wise referring segmentation (Wu et al., ICCV 2023).

    Takes Detectron2's list of dicts. A dict is a group: `images`, a list of dicts with `image`
    ([3, H, W], 0..255) and optionally `height` and `width` of the output, and `expression`; in
    training each image has `target` ([H, W] of 0 and 1, all 0 for negative images). Or it is a
    single image, `image` with `expressions`, in training with `instances` as for HIPIE: ordinary
    referring segmentation, whose expressions always have a target.

    Returns a dict of losses in training. Otherwise the output of a group is a list with one dict
    for each image: `sem_seg` [1, H, W] of 0 and 1, `score` and `positive`. If the dict of the group
    has `heatmaps` True, it also has `heatmaps`, a dict of `language` [h, w], `visual` [K, h, w]
    (the most reliable first) and `sources` [K], indices of the images of the K prototypes, or None
    where heatmaps are pooled; all are cosines at the stride of the feature map. The output of a
    single image is a dict with `referring`, an `Instances` for each expression.

    Args:
        text_encoder: encodes expressions and anti-expressions.
        lavt: image encoder and decoder.
        triphasic_head: group modules; None gives LAVT, image by image.
        rejection_head: compares images with expressions; None: no image is rejected.
        criterion: the losses.
        inference_config: rejection and output at inference.
        feature_level: index of the feature map that the group modules use; 3 is the coarsest.
        pixel_mean, pixel_std: of images in 0..255, three numbers each.
        checkpointed_parts: names of `layer_groups` whose activations are recomputed in the backward
            pass.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"group", "referring"})

    @configurable
    def __init__(
        self,
        *,
        text_encoder: ExpressionEncoder,
        lavt: LAVT,
        triphasic_head: TriphasicHead | None,
        rejection_head: NegativeRejectionHead | None,
        criterion: GroupCriterion,
        inference_config: InferenceConfig,
        feature_level: int = 3,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        checkpointed_parts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.lavt = lavt
        self.triphasic_head = triphasic_head
        self.rejection_head = rejection_head
        self.criterion = criterion
        self.inference_config = inference_config
        self.feature_level = feature_level
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), False)
        checkpoint_layer_groups(self.layer_groups(), checkpointed_parts, type(self).__name__)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.GRSER` and Detectron2's keys."""
        return build_components(cfg)

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converters of LAVT's and Swin's published files, and of earlier names of GRSer."""
        return (OFFICIAL_LAVT, RELEASED_SWIN, NAMES_BEFORE_RENAMING)

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Blocks of a Swin transformer, and the fusions of its stages with the text."""
        encoder = self.lavt.encoder
        blocks: list[nn.Module] = []
        if isinstance(encoder.backbone, SwinBackbone):
            blocks = [block for stage in encoder.backbone.stages for block in stage]
        return {"backbone": blocks, "fusion": list(encoder.fusions)}

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefix of the text encoder if an installed package provides its weights."""
        return ("text_encoder.",) if self.text_encoder.has_external_weights() else ()

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str | None:
        """Groups in training and of data sets that have groups; else the data set's own mapper."""
        return grser_groups.__name__ if training or has_groups(dataset_name) else None

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of norms and of Swin's relative position bias tables."""
        return parameters_without_weight_decay(self)

    # Training -------------------------------------------------------------------------------

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch of groups.

        Raises:
            ValueError: for a group without images or expression, or an image without its target.
        """
        groups = [g for item in batched_inputs for g in groups_from_input(item, training=True)]
        images = [image for group in groups for image in group.images]
        counts = [len(group.images) for group in groups]
        pixels = stack_images(images, self.pixel_mean, self.pixel_std)
        targets = stack_targets(images, tuple(pixels.shape[-2:]), pixels)
        text = self.text_encoder.encode([group.expression for group in groups])
        group_of = to_device(torch.tensor(_group_indices(counts)), self.device)
        features = self.lavt.encoder(pixels, text.tokens[group_of], text.mask[group_of])
        if self.triphasic_head is None:
            logits = upsample(self.lavt.decoder(features), tuple(targets.shape[-2:]))
            return self.criterion.mask(logits, targets)
        has_negatives = [group.has_negatives for group in groups]
        return self._group_losses(features, text, counts, targets, has_negatives)

    def _group_losses(
        self,
        features: list[Tensor],
        text: ExpressionFeatures,
        counts: list[int],
        targets: Tensor,
        has_negatives: list[bool],
    ) -> dict[str, Tensor]:
        """Losses of groups of `counts` images, of which some have images without the target."""
        expression, anti_expression = text.expression, text.anti_expression
        z, heatmaps = self._triphasic_features(features, counts, expression, anti_expression)
        passes, mirror = [z], bool(self.criterion.config.mirror_weight)
        if mirror:
            mirror_z, anti_heatmaps = self._triphasic_features(
                features, counts, anti_expression, expression
            )
            passes.append(mirror_z)
        # Both passes are one batch: separate batch norm statistics would remove their difference.
        logits = self._decode(
            [torch.cat([level] * len(passes)) for level in features], torch.cat(passes)
        )
        by_pass = upsample(logits, tuple(targets.shape[-2:])).split(len(targets))
        losses = self.criterion.mask(by_pass[0], targets)
        if self.rejection_head is not None:
            losses |= self._triplet_loss(z, text, counts, targets, has_negatives)
        if mirror:
            losses |= self.criterion.mirror(by_pass[1], targets, heatmaps, anti_heatmaps)
        return losses

    def _triplet_loss(
        self,
        z: Tensor,
        text: ExpressionFeatures,
        counts: list[int],
        targets: Tensor,
        has_negatives: list[bool],
    ) -> dict[str, Tensor]:
        """Triplet loss of the images of groups that have images without the target."""
        pairs = [
            (i, group) for i, group in enumerate(_group_indices(counts)) if has_negatives[group]
        ]
        index = to_device(torch.tensor(pairs, dtype=torch.long).view(-1, 2), z.device)
        image_index, group_of = index.unbind(1)
        distance, anti_distance = self.rejection_head(
            z[image_index], text.expression[group_of], text.anti_expression[group_of]
        )
        positive = has_target(targets)[image_index]
        return self.criterion.triplet(Distances(distance, anti_distance, positive))

    # Inference ------------------------------------------------------------------------------

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[Any]:
        """Compute the outputs of a batch; see the class.

        Args:
            batched_inputs: groups or single images.
            image_features: must be None, since LAVT fuses language into its image encoder.

        Raises:
            ValueError: for a group without images or expression.
        """
        outputs: list[Any] = []
        for item in batched_inputs:
            groups = groups_from_input(item, training=False)
            if "images" in item:
                outputs.append(self._segment_group(groups[0]))
            else:
                instances = [to_instances(self._segment_group(group)[0]) for group in groups]
                outputs.append({"referring": instances})
        return outputs

    def _segment_group(self, group: Group) -> list[dict[str, Any]]:
        """Output dicts of a group's images."""
        config = self.inference_config
        text = self.text_encoder.encode([group.expression])
        pixels = stack_images(group.images, self.pixel_mean, self.pixel_std)
        features = self._encode_in_chunks(pixels, text)
        decisions: list[tuple[bool | None, float | None]] = [(None, None)] * len(pixels)
        triphasic = None
        if self.triphasic_head is None:
            logits = self.lavt.decoder(features)
        else:
            triphasic = self.triphasic_head(
                features[self.feature_level],
                text.expression[0],
                None if text.anti_expression is None else text.anti_expression[0],
            )
            logits = self._decode_in_chunks(features, triphasic.z)
            if self._rejects(group):
                decisions = self._reject_negatives(triphasic.z, text)
        outputs: list[dict[str, Any]] = []
        for image, image_logits, (positive, score) in zip(
            group.images, logits, decisions, strict=True
        ):
            size = (
                int(image.get("height", image["image"].shape[-2])),
                int(image.get("width", image["image"].shape[-1])),
            )
            full = upsample(image_logits[None], tuple(pixels.shape[-2:]))[0]
            outputs.append(
                postprocess_image(
                    full, size, positive=positive, score=score, soft_masks=config.soft_masks
                )
            )
        if group.heatmaps or (config.return_heatmaps and group.has_negatives):
            for output, heatmaps in zip(outputs, _heatmaps_by_image(triphasic), strict=True):
                output["heatmaps"] = heatmaps
        return outputs

    def _rejects(self, group: Group) -> bool:
        """Whether images of a group can be rejected by the comparison with its expressions."""
        config = self.inference_config
        return (
            self.rejection_head is not None
            and config.reject_negatives
            and (group.has_negatives or config.reject_single_images)
        )

    def _reject_negatives(
        self, z: Tensor, text: ExpressionFeatures
    ) -> list[tuple[bool | None, float | None]]:
        """Whether each image is positive, and its score."""
        margin = self.inference_config.margin
        distances = self.rejection_head(z, text.expression, text.anti_expression)
        positive = is_positive(*distances, margin).tolist()
        return list(zip(positive, positive_probability(*distances, margin).tolist(), strict=True))

    def _encode_in_chunks(self, pixels: Tensor, text: ExpressionFeatures) -> list[Tensor]:
        """Four feature maps of a group's images, `images_per_forward` at a time."""
        chunks = []
        for images in pixels.split(self.inference_config.images_per_forward):
            tokens = text.tokens.expand(len(images), -1, -1)
            mask = text.mask.expand(len(images), -1)
            chunks.append(self.lavt.encoder(images, tokens, mask))
        return [torch.cat(levels) for levels in zip(*chunks, strict=True)]

    def _decode_in_chunks(self, features: list[Tensor], z: Tensor) -> Tensor:
        """Logits of a group's images, `images_per_forward` at a time."""
        step = self.inference_config.images_per_forward
        return torch.cat(
            [
                self._decode([level[i : i + step] for level in features], z[i : i + step])
                for i in range(0, len(z), step)
            ]
        )

    # Both -----------------------------------------------------------------------------------

    def _triphasic_features(
        self,
        features: list[Tensor],
        counts: list[int],
        expression: Tensor,
        anti_expression: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute z and the language heatmaps of all images, group by group."""
        by_group = features[self.feature_level].split(counts)
        outputs = [
            self.triphasic_head(
                maps,
                expression[index],
                None if anti_expression is None else anti_expression[index],
            )
            for index, maps in enumerate(by_group)
        ]
        return torch.cat([group.z for group in outputs]), torch.cat(
            [group.language for group in outputs]
        )

    def _decode(self, features: list[Tensor], z: Tensor) -> Tensor:
        """LAVT's decoder with the projection of z in place of its feature map."""
        level = self.feature_level
        projected = self.triphasic_head.output_projection(z.to(features[level].dtype))
        return self.lavt.decoder([*features[:level], projected, *features[level + 1 :]])


def _heatmaps_by_image(features: TriphasicFeatures | None) -> list[dict[str, Any]]:
    """`heatmaps` of the output of each image of a group.

    Raises:
        ValueError: for a model without group modules.
    """
    if features is None:
        raise InputError('heatmaps were requested of a model with MODEL.GRSER.HEATMAPS "none"')
    return [
        {
            "language": language,
            "visual": features.visual[index],
            "sources": None if features.sources is None else features.sources[index],
        }
        for index, language in enumerate(features.language)
    ]


def _group_indices(counts: Sequence[int]) -> list[int]:
    """Index of the group of every image, of groups of `counts` images."""
    return [group for group, count in enumerate(counts) for _ in range(count)]
