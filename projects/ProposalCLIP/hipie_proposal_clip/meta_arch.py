"""Meta-architecture of mask classification with CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.errors import InputError
from hipie.modeling.device_transfer import to_device
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import (
    InputConfig,
    batch_inference_size,
    build_targets,
    output_size,
    pad_images,
    vocabulary_of,
    vocabulary_targets,
)
from hipie.modeling.meta_arch.postprocess import requested_settings
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_ensemble import train_vocabulary_prompts
from hipie.modeling.postprocessing.instance_inference import ImageFrame
from hipie.modeling.postprocessing.mask_upsampling import upsample_to_input
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.modeling.transformer_decoder.maskdino_decoder import StuffBranch
from hipie.structures import DecoderOutput, InferenceSize, LayerOutput, Size, TextFeatures
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_proposal_clip.build import (
    CLIP_ENCODER,
    DECODER,
    DECODERS,
    MASK_PROMPTS,
    ClassificationSettings,
    model_arguments,
)
from hipie_proposal_clip.checkpoint_converters import FC_CLIP, OVSEG
from hipie_proposal_clip.modeling.conv_clip import DENSE as DENSE_FEATURES
from hipie_proposal_clip.modeling.conv_clip import STRIDE, ConvClip
from hipie_proposal_clip.modeling.ensemble import geometric_ensemble
from hipie_proposal_clip.modeling.in_vocabulary_head import InVocabularyHead, layer_masks
from hipie_proposal_clip.modeling.mask_encoders import (
    CROPS,
    DENSE,
    class_token_features,
    crop_features,
)
from hipie_proposal_clip.modeling.mask_pooling import binary_masks
from hipie_proposal_clip.modeling.mask_prompts import MaskPrompts, contrastive_loss
from hipie_proposal_clip.modeling.proposals import MaskProposals, ModelProposals, SamProposals
from hipie_proposal_clip.modeling.text_classifier import (
    TextClassifier,
    batch_logits,
    classes_as_tokens,
)
from hipie_proposal_clip.postprocessing import mask_results, query_results

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

Inputs = list[dict[str, Any]]
PUBLISHED = ClassificationSettings()


@dataclass(frozen=True)
class DecodedImages:
    """Masks of B images.

    Attributes:
        output: of the decoder, with class embeddings in CLIP's space.
        dense: [B, C, h, w] CLIP's dense features, where the backbone is CLIP's.
        sizes: (height, width) of each unpadded image.
        canvas: (height, width) of the padded batch.
    """

    output: DecoderOutput
    dense: Tensor | None
    sizes: tuple[Size, ...]
    canvas: Size


@META_ARCH_REGISTRY.register()
class ProposalCLIP(SegmentationModel):
    """Masks of any source, classified by CLIP.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and may have
    `vocabulary`, by default the classes of `DATASETS.TEST[0]` (in training of `DATASETS.TRAIN[0]`);
    `height` and `width` give the size of the results, and `results`, if present, names those to
    compute. In training also `instances`. Returns in training a dict of losses; otherwise a dict an
    image with `instances`, `sem_seg` and `panoptic_seg`.

    With a decoder, its queries have an embedding that is compared with CLIP's text features
    (in-vocabulary), and CLIP's own feature of the mask is compared, too (out-vocabulary); a
    geometric ensemble combines both. Masks of other sources are classified by CLIP alone.

    CLIP is a part of the model and of its checkpoints. All of it is frozen but what `trained_part`
    names.

    Args:
        clip: the model.
        conv: its convolutional image encoder, for dense features; None = not needed.
        mask_prompts: of crops; None = none.
        proposals: source of masks without training; None = a decoder.
        classification: how masks are classified.
        settings: requested results and thresholds.
        input_config: normalisation, padding and default vocabularies.
        trained_part: "decoder", "clip" or "mask_prompts".
        bgr: whether images have blue first.
        backbone: of the decoder; None = CLIP's image encoder.
        generator: decoder of masks; None = `proposals`.
        in_vocabulary_head: of the decoder.
        criterion: of the decoder.
        in_features: outputs of the backbone that the decoder reads, the finest first.
        lateral_feature: a further, finer one for the mask features; "" = none.
    """

    tasks = frozenset({"universal"})

    @configurable
    def __init__(
        self,
        *,
        clip: Clip,
        conv: ConvClip | None = None,
        mask_prompts: MaskPrompts | None = None,
        proposals: MaskProposals | None = None,
        classification: ClassificationSettings = PUBLISHED,
        settings: InferenceSettings,
        input_config: InputConfig,
        trained_part: str = DECODER,
        bgr: bool = False,
        backbone: Backbone | None = None,
        generator: nn.Module | None = None,
        in_vocabulary_head: InVocabularyHead | None = None,
        criterion: nn.Module | None = None,
        in_features: Sequence[str] = ("res3", "res4", "res5"),
        lateral_feature: str = "",
    ) -> None:
        super().__init__()
        self.clip, self.conv, self.proposals = clip, conv, proposals
        self.clip_network: nn.Module = clip.model
        self.mask_prompts = mask_prompts
        self.classification, self.settings = classification, settings
        self.input_config, self.trained_part, self.bgr = input_config, trained_part, bgr
        self.backbone, self.generator = backbone, generator
        self.in_vocabulary_head, self.criterion = in_vocabulary_head, criterion
        self.feature_names = (*([lateral_feature] if lateral_feature else []), *in_features)
        self.proposal_network: nn.Module | None = None
        if isinstance(proposals, SamProposals):
            self.proposal_network = proposals.sam.model
        elif isinstance(proposals, ModelProposals):
            self.proposal_network = proposals.model
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        for name in ("pixel_mean", "pixel_std"):
            values = torch.tensor(getattr(input_config, name)).view(3, 1, 1)
            self.register_buffer(name, values, False)
        self._freeze()
        self.register_load_state_dict_post_hook(_clear_text_cache)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.PROPOSAL_CLIP`, `MODEL.HIPIE` and Detectron2's keys."""
        return model_arguments(cfg)

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: some sources of masks have weights of their own."""
        return False

    @classmethod
    def requires_checkpoint_of(cls, cfg: CfgNode) -> bool:
        """Whether the masks come from a decoder."""
        return cfg.MODEL.PROPOSAL_CLIP.MASKS in DECODERS

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converters of the checkpoints of FC-CLIP and OVSeg."""
        return (FC_CLIP, OVSEG)

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefix of the network that makes the masks, which has weights of its own."""
        return ("proposal_network.",)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> ProposalCLIP:
        """Set the training mode; CLIP and the network of the masks stay in evaluation mode."""
        super().train(mode)
        self.clip_network.eval()
        if self.proposal_network is not None:
            self.proposal_network.eval()
        return self

    def _freeze(self) -> None:
        """Leave only the trained part trainable."""
        self.clip_network.requires_grad_(False)
        if self.trained_part == CLIP_ENCODER:
            self.clip.visual.requires_grad_(True)
        for module in (self.backbone, self.generator, self.in_vocabulary_head):
            if module is not None and self.trained_part != DECODER:
                module.requires_grad_(False)
        if self.mask_prompts is not None:
            self.mask_prompts.requires_grad_(self.trained_part == MASK_PROMPTS)

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of the mask prompts and of the embedding of no object."""
        names = {"mask_prompts.tokens", "in_vocabulary_head.void_embedding"}
        return names | {"in_vocabulary_head.logit_scale"}

    # Training -------------------------------------------------------------------------------

    def losses(self, batched_inputs: Inputs) -> dict[str, Tensor]:
        """Compute the losses of the trained part.

        Raises:
            InputError: if there is no decoder to train, or no ground truth.
        """
        if self.trained_part != DECODER:
            return self._crop_losses(batched_inputs)
        if self.generator is None or self.criterion is None:
            raise InputError(
                'MODEL.PROPOSAL_CLIP.TRAIN is "decoder", and MODEL.PROPOSAL_CLIP.MASKS is no '
                "decoder; use --eval-only"
            )
        vocabularies = [
            vocabulary_of(item, self.input_config.train_dataset) for item in batched_inputs
        ]
        classifiers = [self._classifier(vocabulary) for vocabulary in vocabularies]
        text = classes_as_tokens(classifiers, self.device)
        features, _, _, canvas = self._extract_features(batched_inputs, training=True)
        targets = [
            vocabulary_targets(item, vocabulary, text, index, canvas)
            for index, (item, vocabulary) in enumerate(
                zip(batched_inputs, vocabularies, strict=True)
            )
        ]
        output = self._embed(
            self.generator(
                features,
                class_text=text.hidden,
                pooled_text=_pooled_classes(text),
                targets=targets,
            )
            if isinstance(self.generator, StuffBranch)
            else self.generator(features)
        )
        losses: dict[str, Tensor] = self.criterion(
            self._with_logits(output, classifiers), targets, self._mask_head, text.mask
        )
        return losses

    def _crop_losses(self, inputs: Inputs) -> dict[str, Tensor]:
        """Contrastive loss of masked crops of the ground truth and their class names (OVSeg)."""
        images, texts = [], []
        for item in inputs:
            vocabulary = vocabulary_of(item, self.input_config.train_dataset)
            targets = build_targets(
                item["instances"],
                (int(item["image"].shape[-2]), int(item["image"].shape[-1])),
                positive_map=torch.zeros(len(item["instances"]), 1, dtype=torch.bool),
                is_thing=vocabulary.is_thing,
                device=self.device,
            )
            visible = targets.masks.flatten(1).any(1).nonzero().flatten()
            count = self.classification.max_crops
            chosen = visible[torch.randperm(len(visible), device=self.device)[:count]]
            prompts = self.mask_prompts if self.trained_part == MASK_PROMPTS else None
            image = self._rgb(item["image"])
            images.append(crop_features(self.clip, image, targets.masks[chosen], prompts))
            names = [vocabulary.classes[label].phrases[0] for label in targets.labels[chosen]]
            if names:
                texts.append(self.clip.text_features(names, self.classification.templates))
        if not texts:
            trained = [value for value in self.parameters() if value.requires_grad]
            return {"loss_contrastive": sum(value.sum() for value in trained) * torch.zeros(())}
        loss = contrastive_loss(torch.cat(images), torch.cat(texts), self.clip.logit_scale.detach())
        return {"loss_contrastive": loss}

    # Inference ------------------------------------------------------------------------------

    def inference(
        self, batched_inputs: Inputs, image_features: ImageFeatures | None = None
    ) -> list[dict[str, Any]]:
        """Compute the results of every image; see the class."""
        if self.proposals is not None:
            return [self._name_proposals(item, self.proposals) for item in batched_inputs]
        decoded = self._decode(batched_inputs)
        return [self._query_results(item, decoded, i) for i, item in enumerate(batched_inputs)]

    def inference_size(self, batched_inputs: Sequence[dict[str, Any]]) -> InferenceSize:
        """Sizes that determine the memory of inference; see `SegmentationModel`."""
        classes = [len(self._vocabulary(item)) for item in batched_inputs]
        head = self.in_vocabulary_head
        channels = 3 if head is None else head.width
        return batch_inference_size(
            batched_inputs, channels=channels, num_classes=max(classes, default=0)
        )

    def _decode(self, inputs: Inputs) -> DecodedImages:
        features, dense, sizes, canvas = self._extract_features(inputs, training=False)
        assert self.generator is not None
        if isinstance(self.generator, StuffBranch):
            output = self.generator.decode(features)
        else:
            output = self.generator(features)
            output = replace(output, layers=output.layers[-1:], proposals=None)
        return DecodedImages(self._embed(output), dense, sizes, canvas)

    def _query_results(
        self, item: dict[str, Any], decoded: DecodedImages, i: int
    ) -> dict[str, Any]:
        vocabulary = self._vocabulary(item)
        layer = decoded.output.layers[-1].of_image(i)
        mask_logits = layer_masks(layer, decoded.output.mask_features[i][None])[0].float()
        scores = self.query_scores(
            layer,
            mask_logits,
            vocabulary,
            image=self._rgb(item["image"]),
            size=decoded.sizes[i],
            dense=None if decoded.dense is None else decoded.dense[i],
        )
        frame = ImageFrame(decoded.sizes[i], output_size(item, decoded.sizes[i]))
        settings = requested_settings(item, self.settings)
        return query_results(scores, mask_logits, vocabulary.is_thing, frame, settings)

    def query_scores(
        self,
        layer: LayerOutput,
        mask_logits: Tensor,
        vocabulary: Vocabulary,
        *,
        image: Tensor,
        size: Size,
        dense: Tensor | None = None,
    ) -> Tensor:
        """Combine the in-vocabulary and the out-vocabulary classification of queries.

        Args:
            layer: of one image, with class embeddings in CLIP's space.
            mask_logits: [Q, h, w] at a quarter of the padded canvas.
            vocabulary: K classes.
            image: [3, H, W] RGB in 0..1.
            size: (H, W).
            dense: [C, h', w'] CLIP's dense features of the padded canvas; None = computed.

        Returns:
            [Q, K + 1], no object last.
        """
        head = self.in_vocabulary_head
        assert head is not None and layer.class_embeddings is not None
        classifier = self._classifier(vocabulary)
        logits = classifier.logits(layer.class_embeddings[0], head.scale, head.void_embedding)
        features, valid = self._clip_features(mask_logits, image, size, dense)
        clip_logits = classifier.logits(features, self.clip.logit_scale)
        probabilities = clip_logits.softmax(-1)
        in_training = [
            not self._train_prompts.isdisjoint(entry.phrases) for entry in vocabulary.classes
        ]
        ensemble = self.classification.ensemble
        weights = ensemble.weights(in_training, vocabulary.is_thing, logits.device)
        if self.classification.mask_features == CROPS:
            probabilities = torch.where(valid[:, None], probabilities, 1.0)
        elif self.classification.valid_masks_only:
            weights = weights * valid[:, None]
        return geometric_ensemble(
            ensemble, logits, probabilities, weights, normalized=self.classification.normalized
        )

    def _clip_features(
        self, mask_logits: Tensor, image: Tensor, size: Size, dense: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """CLIP's features [Q, D] of masks [Q, h, w], and which masks have pixels [Q] bool."""
        kind = self.classification.mask_features
        if kind == DENSE:
            assert self.conv is not None
            dense = self._dense_features(image) if dense is None else dense
            grid = (int(dense.shape[-2]), int(dense.shape[-1]))
            valid = binary_masks(mask_logits[None], grid)[0].flatten(1).any(1)
            return self.conv.mask_features(dense[None], mask_logits[None])[0], valid
        threshold = self.classification.crop_threshold if kind == CROPS else 0.5
        masks = upsample_to_input(mask_logits, size).sigmoid() > threshold
        valid = masks.flatten(1).any(1)
        features = image.new_zeros(len(masks), self.clip.width)
        if kind == CROPS:
            features[valid] = crop_features(self.clip, image, masks[valid], self.mask_prompts)
        else:
            features = class_token_features(self.clip, image, masks)
        return features, valid

    def _name_proposals(self, item: dict[str, Any], proposals: MaskProposals) -> dict[str, Any]:
        vocabulary = self._vocabulary(item)
        image = self._rgb(item["image"])
        size = (int(image.shape[-2]), int(image.shape[-1]))
        masks = proposals(image, vocabulary)
        classifier = self._classifier(vocabulary)
        scores = image.new_zeros(0, len(vocabulary))
        if len(masks):
            features = self.mask_features(image, masks)
            scores = classifier.logits(features, self.clip.logit_scale).softmax(-1)
        settings = requested_settings(item, self.settings)
        return mask_results(masks, scores, vocabulary.is_thing, output_size(item, size), settings)

    def mask_features(self, image: Tensor, masks: Tensor) -> Tensor:
        """Compute CLIP's features of binary masks.

        Args:
            image: [3, H, W] RGB in 0..1.
            masks: [N, H, W] bool, none of them empty.

        Returns:
            [N, D].
        """
        kind = self.classification.mask_features
        if kind == CROPS:
            return crop_features(self.clip, image, masks, self.mask_prompts)
        if kind != DENSE:
            return class_token_features(self.clip, image, masks)
        assert self.conv is not None
        dense = self._dense_features(image)
        # Cells of the padded grid that contain a pixel of the mask, as in `patches_of_masks`.
        padding = (0, -masks.shape[-1] % STRIDE, 0, -masks.shape[-2] % STRIDE)
        cells = F.max_pool2d(F.pad(masks, padding).float(), STRIDE)
        return self.conv.mask_features(dense[None], cells[None] - 0.5)[0]

    # Both -----------------------------------------------------------------------------------

    def _extract_features(
        self, inputs: Inputs, *, training: bool
    ) -> tuple[list[Tensor], Tensor | None, tuple[Size, ...], Size]:
        """Features of the decoder, CLIP's dense features if shared, image sizes, canvas."""
        images = [item["image"] for item in inputs]
        if self.backbone is None and self.bgr:
            images = [image.flip(0) for image in images]
        pixels, padding_mask, sizes = pad_images(
            images, self.pixel_mean, self.pixel_std, self.input_config.divisibility(training)
        )
        canvas = (int(padding_mask.shape[1]), int(padding_mask.shape[2]))
        if self.backbone is not None:
            features = self.backbone(pixels)
            return [features[name] for name in self.feature_names], None, sizes, canvas
        assert self.conv is not None
        with torch.no_grad():
            features = self.conv.features(pixels)
        dense = features[DENSE_FEATURES] if self.classification.mask_features == DENSE else None
        return [features[name] for name in self.feature_names], dense, sizes, canvas

    def _dense_features(self, image: Tensor) -> Tensor:
        """[C, h, w] CLIP's dense features of an image [3, H, W] (RGB in 0..1), padded to 32."""
        assert self.conv is not None
        visual = self.clip.visual
        mean, std = (
            torch.tensor(values, device=image.device).view(3, 1, 1)
            for values in (visual.image_mean, visual.image_std)
        )
        pixels, _, _ = pad_images([image], mean, std, STRIDE)
        return self.conv.features(pixels)[DENSE_FEATURES][0]

    def _embed(self, output: DecoderOutput) -> DecoderOutput:
        assert self.in_vocabulary_head is not None
        return self.in_vocabulary_head.embed(output)

    def _with_logits(
        self, output: DecoderOutput, classifiers: Sequence[TextClassifier]
    ) -> DecoderOutput:
        """Add the class logits of all layers."""
        head = self.in_vocabulary_head
        assert head is not None

        def classified(layer: LayerOutput) -> LayerOutput:
            assert layer.class_embeddings is not None
            logits = batch_logits(
                classifiers, layer.class_embeddings, head.scale, head.void_embedding
            )
            return replace(layer, logits=logits)

        return replace(
            output,
            layers=tuple(classified(layer) for layer in output.layers),
            proposals=output.proposals and classified(output.proposals),
            denoising=tuple(classified(layer) for layer in output.denoising),
        )

    @property
    def _mask_head(self) -> Any:
        assert self.generator is not None
        return self.generator.mask_head

    def _classifier(self, vocabulary: Vocabulary) -> TextClassifier:
        if self.clip.device != self.device:
            self.clip.model.to(self.device)
        return TextClassifier.of_vocabulary(self.clip, vocabulary, self.classification.templates)

    def _vocabulary(self, item: dict[str, Any]) -> Vocabulary:
        return vocabulary_of(item, self.input_config.test_dataset)

    def _rgb(self, image: Tensor) -> Tensor:
        """[3, H, W] RGB in 0..1 on the model's device."""
        scaled = to_device(image, self.device).float() / 255
        return scaled.flip(0) if self.bgr else scaled

    @cached_property
    def _train_prompts(self) -> frozenset[str]:
        return train_vocabulary_prompts(
            self.classification.train_vocabulary,
            "MODEL.PROPOSAL_CLIP.ENSEMBLE.TRAIN_VOCABULARY",
        )


def _pooled_classes(text: TextFeatures) -> Tensor:
    """[B, 1, D] mean feature of the classes of each image; no object does not count."""
    classes = text.mask[:, :-1, None].float()
    return (text.hidden[:, :-1] * classes).sum(1, keepdim=True) / classes.sum(1, keepdim=True)


def _clear_text_cache(module: nn.Module, incompatible_keys: Any) -> None:
    """Forget text features of the weights before."""
    if isinstance(module, ProposalCLIP):
        module.clip.clear_text_cache()
