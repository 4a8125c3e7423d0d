"""HIPIE: things, stuff, parts and referring expressions in one model (Wang et al., NeurIPS 2023).

Things use early fusion: image and text features attend to each other before the thing encoder.
Stuff uses late fusion: its decoder reads image features only, and text enters at its class head.
Keys of `MODEL.HIPIE` change that for ablations, see `docs/ablations.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.backbone import ViT
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.checkpoint.converters.hipie import OFFICIAL_HIPIE, UNINEXT
from hipie.checkpoint.converters.swin import RELEASED_SWIN
from hipie.errors import InputError
from hipie.modeling.activation_checkpointing import checkpoint_layer_groups
from hipie.modeling.backbone.layers import backbone_layers
from hipie.modeling.backbone.swin import SwinBackbone
from hipie.modeling.criterion.build import criterion_steps
from hipie.modeling.criterion.normalizer_averaging import max_over_processes
from hipie.modeling.criterion.pixel_class_loss import (
    pixel_class_loss,
    pixel_class_targets,
    pixel_dice_loss,
)
from hipie.modeling.device_transfer import join, run, to_device
from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead
from hipie.modeling.heads.pixel_class_head import PixelClassHead
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.build import PixelHeadSettings, StuffSettings, hipie_arguments
from hipie.modeling.meta_arch.inputs import (
    InputConfig,
    batch_inference_size,
    expression_targets,
    output_size,
    pad_images,
    training_task,
    vocabulary_of,
    vocabulary_targets,
)
from hipie.modeling.meta_arch.postprocess import (
    raw_branch,
    requested_settings,
    requested_threshold,
    vocabulary_results,
)
from hipie.modeling.postprocessing.pixel_scores import PixelScores
from hipie.modeling.postprocessing.referring_inference import referring_inference
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.modeling.precision import in_model_precision
from hipie.modeling.text_encoder.base import TextEncoder
from hipie.modeling.text_encoder.caption import expression_caption, vocabulary_caption
from hipie.modeling.transformer_decoder.maskdino_decoder import StuffBranch
from hipie.modeling.transformer_decoder.thing_decoder import ThingBranch
from hipie.structures import (
    DecoderOutput,
    FeatureLevels,
    HIPIEOutput,
    ImageFeatures,
    InferenceSize,
    RawPredictions,
    Size,
    Targets,
    TextFeatures,
)
from hipie.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble, ClipMaskScores
    from hipie.modeling.open_vocabulary.imagenet_naming import ImageNetNaming

Inputs = list[dict[str, Any]]
EXPRESSIONS_PER_CHUNK = 16
PUBLISHED_STUFF = StuffSettings()
PIXEL_SETTINGS = PixelHeadSettings()


@META_ARCH_REGISTRY.register()
class HIPIE(SegmentationModel):
    """Universal segmentation with text prompts.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and either
    `vocabulary` (`hipie.Vocabulary`) or `expressions` (a list of referring expressions); with
    neither, the classes of `DATASETS.TEST[0]` (in training of `DATASETS.TRAIN[0]`). `height` and
    `width` give the size of the results, and `results`, if present, names those to compute.
    In training also `instances` and `task` ("detection", "semantic", "parts" or "referring", one
    for the whole batch; "detection" where it is missing and there are no `expressions`). Batches of
    semantic maps without things and of parts train the stuff decoder only.

    Returns in training a dict of losses; otherwise a dict an image: `instances`, `sem_seg`
    [K, H, W] and `panoptic_seg` for a vocabulary (with `part_seg` where it has classes and their
    parts), `referring` (a list of `Instances`: the best one of every expression, or none where its
    score is below `MODEL.HIPIE.TEST.NO_TARGET`) for expressions.

    Args:
        backbone: of `BACKBONE_REGISTRY`.
        text_encoder: of class names and expressions.
        things: early-fusion encoder and decoder of things.
        stuff: late-fusion decoder of stuff; None = the thing decoder also predicts stuff.
        thing_criterion, stuff_criterion: see `hipie.modeling.criterion.build`.
        settings: requested results and thresholds of inference.
        input_config: normalisation, padding and default vocabularies.
        propagate_part_to_whole: in part training a part is also positive for its whole's name
            wherever the caption has it.
        average_normalizers: whether denoising has the same layout in all processes of a training,
            as the criteria need whose normalizers are averaged over processes. All processes then
            have to compute losses together.
        clip_ensemble: combines CLIP's mask scores with the model's.
        naming: combines a classifier's probabilities with those of the pixel class head.
        pixel_head: classifies the pixels of the stuff decoder's mask features; None = none.
        pixel_settings: weights of its loss, and of its scores for masks and the semantic map.
        stuff_settings: what the stuff decoder is trained on and compared with.
        in_features: outputs of the backbone that both branches read, the finest first.
        lateral_feature: a further, finer one for the stuff decoder's mask features; "" = none.
        checkpointed_parts: names of `layer_groups` whose activations are recomputed in the backward
            pass.

    Raises:
        ActivationCheckpointingError: if a part to recompute cannot be; see
            `hipie.modeling.activation_checkpointing`.
    """

    tasks = frozenset({"universal", "parts", "referring"})
    supports_image_features: ClassVar[bool] = True
    rejects_expressions_by_score: ClassVar[bool] = True
    supports_weak_labels: ClassVar[bool] = True

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        text_encoder: TextEncoder,
        things: ThingBranch,
        stuff: StuffBranch | None,
        thing_criterion: nn.Module,
        stuff_criterion: nn.Module,
        settings: InferenceSettings,
        input_config: InputConfig,
        propagate_part_to_whole: bool = False,
        average_normalizers: bool = False,
        clip_ensemble: ClipEnsemble | None = None,
        naming: ImageNetNaming | None = None,
        pixel_head: PixelClassHead | None = None,
        pixel_settings: PixelHeadSettings = PIXEL_SETTINGS,
        stuff_settings: StuffSettings = PUBLISHED_STUFF,
        in_features: Sequence[str] = ("res3", "res4", "res5"),
        lateral_feature: str = "",
        checkpointed_parts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.lateral_feature = lateral_feature
        self.backbone = backbone
        self.text_encoder = text_encoder
        self.things = things
        self.stuff = stuff
        self.thing_criterion = thing_criterion
        self.stuff_criterion = stuff_criterion
        self.settings = settings
        self.no_target_threshold = settings.no_target_threshold
        self.input_config = input_config
        self.propagate_part_to_whole = propagate_part_to_whole
        self.average_normalizers = average_normalizers
        self.clip_ensemble = clip_ensemble
        self.naming = naming
        self.pixel_head = pixel_head
        self.pixel_settings = pixel_settings
        self.stuff_settings = stuff_settings
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer(
            "pixel_mean", torch.tensor(input_config.pixel_mean).view(3, 1, 1), False
        )
        self.register_buffer("pixel_std", torch.tensor(input_config.pixel_std).view(3, 1, 1), False)
        checkpoint_layer_groups(self.layer_groups(), checkpointed_parts, type(self).__name__)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.HIPIE` and Detectron2's keys."""
        return hipie_arguments(cfg)

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return self.pixel_mean.device

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Layers of the backbone, the early fusion, and both branches' encoders and decoders."""
        encoder, decoder = [*self.things.encoder], [*self.things.decoder.layers]
        fusions: list[nn.Module] = [*self.things.fusions()]
        if self.stuff is not None:
            fusions += [] if self.stuff.fusion is None else [self.stuff.fusion]
            encoder += self.stuff.pixel_decoder.encoder
            decoder += self.stuff.decoder.layers
        return {
            "backbone": backbone_layers(self.backbone),
            "fusion": fusions,
            "encoder": encoder,
            "decoder": decoder,
        }

    def modules_to_compile(self) -> list[nn.Module]:
        """Backbone as a whole, or the blocks of a ViT, which are alike; and both branches' layers.

        The fusion decides by the memory that it takes how it is computed, and is left as it is.
        """
        groups = self.layer_groups()
        backbone = groups["backbone"] if isinstance(self.backbone, ViT) else [self.backbone]
        return [*backbone, *groups["encoder"], *groups["decoder"]]

    def float32_modules(self) -> list[nn.Module]:
        """Text encoder, which runs once a text, class heads and mask controller; see the docs."""
        things, stuff = self.things, self.stuff
        heads = [*things.class_heads, *things.iou_heads]
        if isinstance(things.mask_head, DynamicMaskHead):
            heads.append(things.mask_head.controller)
        heads += [] if stuff is None else stuff.class_heads
        if self.pixel_head is not None:
            heads += [self.pixel_head.text_projection, self.pixel_head.no_class]
        return [self.text_encoder, *heads]

    def int8_modules(self) -> list[nn.Module]:
        """Text encoder, backbone, encoders and decoders; fusion and heads keep float32."""
        groups = self.layer_groups()
        layers = (groups[part] for part in ("backbone", "encoder", "decoder"))
        return [self.text_encoder, *chain.from_iterable(layers)]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the text encoder."""
        return self.text_encoder.tokenizer

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefix of the text encoder's weights where an installed package provides them."""
        return ("text_encoder.",) if self.text_encoder.has_external_weights() else ()

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converters of the authors' HIPIE and UNINEXT checkpoints, and of Swin's weights."""
        return (OFFICIAL_HIPIE, UNINEXT, RELEASED_SWIN)

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of a Swin backbone's norms and position embeddings; published: none."""
        if not isinstance(self.backbone, SwinBackbone):
            return set()
        return {f"backbone.{name}" for name in self.backbone.parameters_without_weight_decay()}

    # Training -------------------------------------------------------------------------------

    def losses(self, batched_inputs: Inputs) -> dict[str, Tensor]:
        """Compute every weighted loss term of a batch of one task, by name.

        Raises:
            ValueError: if the batch mixes tasks, names an unknown one, or lacks ground truth.
        """
        task = training_task(batched_inputs)
        if task == "referring":
            return self._referring_losses(batched_inputs)
        return self._vocabulary_losses(batched_inputs, task)

    def _vocabulary_losses(self, inputs: Inputs, task: str) -> dict[str, Tensor]:
        vocabularies = [vocabulary_of(item, self.input_config.train_dataset) for item in inputs]
        features, padding_mask, sizes = self._extract_features(inputs, training=True)
        text = self.text_encoder([vocabulary_caption(v) for v in vocabularies])
        canvas = (padding_mask.shape[1], padding_mask.shape[2])
        propagate = task == "parts" and self.propagate_part_to_whole
        targets = [
            vocabulary_targets(
                item,
                vocabulary,
                text,
                i,
                canvas,
                all_things=self.stuff is None,
                tokenizer=self.text_encoder.tokenizer if propagate else None,
                image_format=self.input_config.image_format,
            )
            for i, (item, vocabulary) in enumerate(zip(inputs, vocabularies, strict=True))
        ]
        if self.pixel_settings.only and self.stuff is not None:
            mask_features = None
            if self.pixel_settings.only_reads_masks:
                with torch.no_grad():
                    mask_features = self.stuff.encode(features)[1]
            pixels = self._pixel_features(features, mask_features, padding_mask)
            return self._pixel_losses(pixels, text, targets)
        levels = self._project(features, padding_mask)
        levels, fused_text = self.things.fuse(levels, text.hidden, text.mask)
        max_objects = self._max_objects(targets)
        computations = []
        if task == "detection" or self.stuff is None:
            things, _ = self.things(
                levels,
                sizes,
                class_text=fused_text,
                pooled_text=text.pooled(),
                targets=targets,
                max_objects=max_objects,
            )
            computations.append(
                criterion_steps(
                    self.thing_criterion, things, targets, self.things.mask_head, text.mask
                )
            )
        if self.stuff is not None:
            stuff_targets = targets
            if not self.stuff_settings.supervise_things:
                stuff_targets = [target.without_things() for target in targets]
                max_objects = self._max_objects(stuff_targets)
            stuff_text = self._stuff_text(text, text.with_hidden(fused_text))
            stuff = self.stuff(
                features,
                class_text=stuff_text and stuff_text.hidden,
                pooled_text=stuff_text and stuff_text.pooled(),
                targets=stuff_targets,
                max_objects=max_objects,
                text=text,
            )
            computations.append(
                criterion_steps(
                    self.stuff_criterion, stuff, stuff_targets, self.stuff.mask_head, text.mask
                )
            )
        losses: dict[str, Tensor] = {}
        for of_decoder in run(join(*computations)):
            losses.update(of_decoder)
        if self.stuff is not None:
            mask_features = torch.stack(stuff.mask_features)
            pixels = self._pixel_features(features, mask_features, padding_mask)
            losses.update(self._pixel_losses(pixels, text, targets))
        return losses

    def _pixel_losses(
        self, pixels: Sequence[Tensor], text: TextFeatures, targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Losses of the pixel class head, if there is one; images have the same weight."""
        logits, settings = self._pixel_logits(pixels, text), self.pixel_settings
        if not logits:
            return {}
        classes = [
            pixel_class_targets(target, len(image) - 1, (image.shape[-2], image.shape[-1]))
            for image, target in zip(logits, targets, strict=True)
        ]
        cross_entropy = torch.stack(list(map(pixel_class_loss, logits, classes))).mean()
        losses = {"loss_pixel_class": settings.loss * cross_entropy}
        if settings.dice:
            dice = torch.stack(list(map(pixel_dice_loss, logits, classes))).mean()
            losses["loss_pixel_dice"] = settings.dice * dice
        return losses

    def _referring_losses(self, inputs: Inputs) -> dict[str, Tensor]:
        features, padding_mask, sizes = self._extract_features(inputs, training=True)
        canvas = (padding_mask.shape[1], padding_mask.shape[2])
        targets = [
            target for item in inputs for target in expression_targets(item, canvas, self.device)
        ]
        expressions, image_index = _image_expression_pairs(inputs)
        levels = self._project(features, padding_mask)
        levels = levels.select(to_device(torch.tensor(image_index), self.device))
        sizes = tuple(sizes[i] for i in image_index)
        _, _, things, _ = self._decode_expressions(levels, sizes, expressions, targets)
        text_mask = torch.ones(len(expressions), 1, dtype=torch.bool, device=self.device)
        return self.thing_criterion(things, targets, self.things.mask_head, text_mask)

    def _max_objects(self, targets: Sequence[Targets]) -> int:
        """Objects of the fullest image, of all processes where normalizers are averaged."""
        most = max(len(target) for target in targets)
        return max_over_processes(most, self.device) if self.average_normalizers else most

    # Inference ------------------------------------------------------------------------------

    @torch.no_grad()
    @in_model_precision
    def encode_images(self, batched_inputs: Inputs, *, stuff: bool = True) -> ImageFeatures:
        """Compute the features of images that do not depend on any text.

        These are the projected levels of the thing encoder and, since stuff uses late fusion, the
        whole output of the stuff decoder except for its class logits.

        Args:
            batched_inputs: Detectron2's list of dicts; only `image` is read.
            stuff: whether to run the stuff decoder; referring expressions do not need it.
        """
        return self._encode_images(batched_inputs, stuff=stuff)

    def _encode_images(self, batched_inputs: Inputs, *, stuff: bool = True) -> ImageFeatures:
        features, padding_mask, sizes = self._extract_features(batched_inputs, training=False)
        decoded: DecoderOutput | None = None
        inputs: tuple[Tensor, ...] = ()
        pixels: tuple[Tensor, ...] = ()
        if stuff and self.stuff is not None:
            if self.stuff.fusion is None:
                decoded = self.stuff.decode(features)
                mask_features = torch.stack(decoded.mask_features)
                pixels = self._pixel_features(features, mask_features, padding_mask)
            else:
                inputs = tuple(features)
        return ImageFeatures(
            image_sizes=sizes,
            canvas_size=(padding_mask.shape[1], padding_mask.shape[2]),
            things=self._project(features, padding_mask),
            stuff=decoded,
            stuff_inputs=inputs,
            pixels=pixels,
        )

    def _stuff_text(self, text: TextFeatures, fused: TextFeatures) -> TextFeatures | None:
        """Text of the stuff decoder's class heads; None = after its own fusion.

        Args:
            text: of the text encoder.
            fused: after the fusion of things.
        """
        if not self.stuff_settings.fused_text:
            return text
        assert self.stuff is not None
        return fused if self.stuff.fusion is None else None

    def _decode_stuff(
        self, features: ImageFeatures, text: TextFeatures, class_text: TextFeatures | None
    ) -> DecoderOutput | None:
        """Output of the stuff decoder with class logits; None without such a decoder.

        Args:
            features: of the images.
            text: of the text encoder, one caption an image.
            class_text: see `_stuff_text`.
        """
        if self.stuff is None:
            return None
        output = features.stuff
        if features.stuff_inputs:
            output, own_text = self.stuff.decode_with_text(features.stuff_inputs, text)
            class_text = class_text or own_text
        if output is None or class_text is None:
            raise ValueError("a vocabulary needs image features with the stuff decoder's output")
        return self.stuff.classify(output, class_text.hidden)

    @torch.no_grad()
    @in_model_precision
    def inference(
        self, batched_inputs: Inputs, image_features: ImageFeatures | None = None
    ) -> list[dict[str, Any]]:
        """Compute the results of every image; see the class.

        Images with a vocabulary and images with expressions may mix.

        Args:
            batched_inputs: Detectron2's list of dicts.
            image_features: of `encode_images`: of the same images in the same order, or of one
                image that all inputs are about. `image` is then read by CLIP only. None = computed
                here.

        Raises:
            ValueError: if the number of images differs, or a vocabulary needs the stuff decoder and
                the features were computed without.
        """
        if image_features is not None and len(image_features) not in (1, len(batched_inputs)):
            raise ValueError(
                f"there are {len(batched_inputs)} inputs and features of "
                f"{len(image_features)} images"
            )
        results: list[dict[str, Any]] = [{} for _ in batched_inputs]
        with_expressions = [i for i, item in enumerate(batched_inputs) if "expressions" in item]
        with_vocabulary = [i for i, item in enumerate(batched_inputs) if "expressions" not in item]
        for index, infer in (
            (with_vocabulary, self._vocabulary_inference),
            (with_expressions, self._referring_inference),
        ):
            if index:
                inputs = [batched_inputs[i] for i in index]
                features = image_features and _select_features(image_features, index)
                for i, result in zip(index, infer(inputs, features), strict=True):
                    results[i] = result
        return results

    @in_model_precision
    def predict_raw(
        self,
        batched_inputs: Inputs,
        *,
        thing_masks: Sequence[int] | Tensor | None = None,
        stuff_masks: Sequence[int] | Tensor | None = None,
    ) -> RawPredictions:
        """Compute the outputs of both decoders before postprocessing.

        Args:
            batched_inputs: as for the results, all with a vocabulary or all with expressions;
                (image, expression) pairs count in order.
            thing_masks: the thing queries whose masks are computed, the same for all images; None =
                all of them, [] = none.
            stuff_masks: likewise the stuff queries.

        Raises:
            ValueError: if images with vocabularies and images with expressions are mixed, or the
                model has no stuff decoder.
        """
        with_expressions = ["expressions" in item for item in batched_inputs]
        if any(with_expressions) != all(with_expressions):
            raise InputError(
                "raw predictions need a vocabulary in every input or expressions in every input"
            )
        with torch.no_grad():
            return self._predict_raw(batched_inputs, thing_masks, stuff_masks)

    def _predict_raw(
        self,
        batched_inputs: Inputs,
        thing_masks: Sequence[int] | Tensor | None = None,
        stuff_masks: Sequence[int] | Tensor | None = None,
    ) -> RawPredictions:
        if self.stuff is None:
            raise InputError("raw predictions need a stuff decoder (MODEL.HIPIE.STUFF.ENABLED)")
        features = self._encode_images(batched_inputs)
        stuff: DecoderOutput | None
        if "expressions" in batched_inputs[0]:
            expressions, image_index = _image_expression_pairs(batched_inputs)
            features = features.select(image_index)
            text, fused_text, things, memory = self._decode_expressions(
                features.things, features.image_sizes, expressions
            )
            pooled = self._expression_features(text, fused_text, training=False)
            stuff = self._decode_stuff(features, text, text.with_hidden(pooled))
        else:
            output = self._decode_vocabularies(
                features, [self._vocabulary(item) for item in batched_inputs]
            )
            things, stuff = output.things, output.stuff
            fused_text, memory = output.fused_text, output.encoder_memory
        assert stuff is not None  # encoded above, since there is a stuff decoder
        return RawPredictions(
            things=raw_branch(things, self.things.mask_head, thing_masks),
            stuff=raw_branch(stuff, self.stuff.mask_head, stuff_masks),
            fused_text=fused_text,
            encoder_memory=memory,
        )

    @torch.no_grad()
    @in_model_precision
    def decode(
        self, batched_inputs: Inputs, image_features: ImageFeatures | None = None
    ) -> HIPIEOutput:
        """Run the network on images with vocabularies, without postprocessing.

        Args:
            batched_inputs: as for `inference`.
            image_features: as for `inference`, of one image an input.
        """
        vocabularies = [self._vocabulary(item) for item in batched_inputs]
        return self._decode_inputs(batched_inputs, vocabularies, image_features)

    def postprocess(
        self,
        batched_inputs: Inputs,
        output: HIPIEOutput,
        clip_scores: Sequence[ClipMaskScores | None],
    ) -> list[dict[str, Any]]:
        """Compute results from the output of `decode`.

        Args:
            batched_inputs: as for `decode`.
            output: of `decode`.
            clip_scores: of `clip_scores`, one an image.
        """
        vocabularies = [self._vocabulary(item) for item in batched_inputs]
        return self._postprocess(batched_inputs, vocabularies, output, clip_scores)

    def inference_size(self, batched_inputs: Sequence[dict[str, Any]]) -> InferenceSize:
        """Sizes that determine the memory of `inference`; see `SegmentationModel`."""
        num_classes = [
            len(self._vocabulary(item))
            for item in batched_inputs
            if "expressions" not in item and requested_settings(item, self.settings).keeps_scores
        ]
        return batch_inference_size(
            batched_inputs, channels=self.things.width, num_classes=max(num_classes, default=0)
        )

    def clip_scores(
        self, item: dict[str, Any], vocabulary: Vocabulary | None = None
    ) -> ClipMaskScores | None:
        """CLIP scores of an image's masks; None if CLIP is disabled.

        Args:
            item: the input dict, with `image`.
            vocabulary: its classes; by default read from the dict.
        """
        if self.clip_ensemble is None:
            return None
        vocabulary = vocabulary or self._vocabulary(item)
        divisibility = self.input_config.divisibility(training=False)
        return self.clip_ensemble.mask_scores(
            item["image"], self.pixel_mean, vocabulary, divisibility
        )

    def _vocabulary_inference(
        self, inputs: Inputs, features: ImageFeatures | None
    ) -> list[dict[str, Any]]:
        vocabularies = [self._vocabulary(item) for item in inputs]
        output = self._decode_inputs(inputs, vocabularies, features)
        clip_scores = [
            self.clip_scores(item, vocabulary)
            for item, vocabulary in zip(inputs, vocabularies, strict=True)
        ]
        return self._postprocess(inputs, vocabularies, output, clip_scores)

    def _referring_inference(
        self, inputs: Inputs, features: ImageFeatures | None
    ) -> list[dict[str, Any]]:
        sizes = _image_sizes(inputs, features)
        features = features or self._encode_images(inputs, stuff=False)
        expressions, image_index = _image_expression_pairs(inputs)
        results: list[dict[str, Any]] = [{"referring": []} for _ in inputs]
        for start in range(0, len(expressions), EXPRESSIONS_PER_CHUNK):
            chunk = slice(start, start + EXPRESSIONS_PER_CHUNK)
            images = image_index[chunk]
            levels = features.things.select(torch.tensor(images, device=self.device))
            _, _, things, _ = self._decode_expressions(
                levels, [sizes[i] for i in images], expressions[chunk]
            )
            for pair, image in enumerate(images):
                best = referring_inference(
                    things.of_image(pair, self.things.mask_head),
                    input_size=sizes[image],
                    output_size=output_size(inputs[image], sizes[image]),
                    no_target_threshold=requested_threshold(inputs[image], self.settings),
                )
                results[image]["referring"].append(best)
        return results

    def _decode_inputs(
        self, inputs: Inputs, vocabularies: Sequence[Vocabulary], features: ImageFeatures | None
    ) -> HIPIEOutput:
        return self._decode_vocabularies(features or self._encode_images(inputs), vocabularies)

    def _decode_vocabularies(
        self, features: ImageFeatures, vocabularies: Sequence[Vocabulary]
    ) -> HIPIEOutput:
        """Run text encoder, fusion and both decoders on images with a vocabulary each."""
        text = self.text_encoder([vocabulary_caption(vocabulary) for vocabulary in vocabularies])
        levels, fused_text = self.things.fuse(features.things, text.hidden, text.mask)
        things, memory = self.things(
            levels, features.image_sizes, class_text=fused_text, pooled_text=text.pooled()
        )
        stuff_text = None
        if self.stuff is not None:
            stuff_text = self._stuff_text(text, text.with_hidden(fused_text))
        stuff = self._decode_stuff(features, text, stuff_text)
        return HIPIEOutput(
            things=things,
            stuff=stuff,
            image_sizes=features.image_sizes,
            token_spans=text.token_spans,
            fused_text=fused_text,
            encoder_memory=memory,
            pixel_logits=self._pixel_logits(features.pixels, text),
        )

    def _pixel_features(
        self, features: Sequence[Tensor], mask_features: Tensor | None, padding_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Features [C, h, w] of the pixel class head for every image; () without one."""
        if self.pixel_head is None:
            return ()
        of_backbone = features[-len(self.in_features) :]
        return self.pixel_head.encode(of_backbone, mask_features, padding_mask).unbind(0)

    def _pixel_logits(self, pixels: Sequence[Tensor], text: TextFeatures) -> tuple[Tensor, ...]:
        """Logits [K + 1, h, w] of the pixel class head for every image; () without one."""
        return () if self.pixel_head is None else self.pixel_head.classify(pixels, text)

    def _postprocess(
        self,
        inputs: Inputs,
        vocabularies: Sequence[Vocabulary],
        output: HIPIEOutput,
        clip_scores: Sequence[ClipMaskScores | None],
    ) -> list[dict[str, Any]]:
        return [
            vocabulary_results(
                output,
                i,
                item,
                vocabulary,
                self.settings,
                thing_mask_head=self.things.mask_head,
                stuff_mask_head=self.stuff.mask_head if self.stuff is not None else None,
                clip_scores=scores,
                pixel_scores=self._pixel_scores(output, i, item, vocabulary),
            )
            for i, (item, vocabulary, scores) in enumerate(
                zip(inputs, vocabularies, clip_scores, strict=True)
            )
        ]

    def _pixel_scores(
        self, output: HIPIEOutput, image: int, item: dict[str, Any], vocabulary: Vocabulary
    ) -> PixelScores | None:
        if not output.pixel_logits:
            return None
        settings = self.pixel_settings
        assert self.pixel_head is not None
        logits, stride = output.pixel_logits[image], self.pixel_head.stride
        if self.naming is not None:
            names = (vocabulary, self.text_encoder)
            logits = self.naming.combine(logits, stride, item["image"], *names)
        return PixelScores(logits, settings.masks, settings.semantic, stride)

    # Both -----------------------------------------------------------------------------------

    def _extract_features(
        self, inputs: Inputs, *, training: bool
    ) -> tuple[list[Tensor], Tensor, tuple[Size, ...]]:
        """Pad a batch and run the backbone.

        Returns:
            Features [B, C_i, h_i, w_i] as the stuff decoder reads them (see
            `MaskDINOPixelDecoder.forward`); padding mask [B, H, W] bool, True where padded; and
            (height, width) of each image.
        """
        pixels, padding_mask, sizes = pad_images(
            [item["image"] for item in inputs],
            self.pixel_mean,
            self.pixel_std,
            self.input_config.divisibility(training),
        )
        features = self.backbone(pixels)
        names = [*([self.lateral_feature] if self.lateral_feature else []), *self.in_features]
        return [features[name] for name in names], padding_mask, sizes

    def _project(self, features: Sequence[Tensor], padding_mask: Tensor) -> FeatureLevels:
        """Levels of the thing encoder, which does not read the lateral feature map."""
        return self.things.project(features[-len(self.in_features) :], padding_mask)

    def _decode_expressions(
        self,
        levels: FeatureLevels,
        image_sizes: Sequence[Size],
        expressions: Sequence[str],
        targets: Sequence[Targets] | None = None,
    ) -> tuple[TextFeatures, Tensor, DecoderOutput, Tensor]:
        """Run the thing decoder on (image, expression) pairs, each with one class.

        Returns:
            Unfused text features, fused text [B, T, C], predictions, encoder memory [B, S, C].
        """
        text = self.text_encoder([expression_caption(expression) for expression in expressions])
        levels, fused_text = self.things.fuse(levels, text.hidden, text.mask)
        things, memory = self.things(
            levels,
            image_sizes,
            class_text=self._expression_features(text, fused_text, training=targets is not None),
            pooled_text=text.pooled(),
            targets=targets,
            max_objects=None if targets is None else self._max_objects(targets),
        )
        return text, fused_text, things, memory

    def _expression_features(
        self, text: TextFeatures, fused_text: Tensor, *, training: bool
    ) -> Tensor:
        """Pooled expressions [B, 1, C] that queries are compared with."""
        unfused = self.settings.unfused_expression_features and not training
        return (text if unfused else text.with_hidden(fused_text)).pooled()

    def _vocabulary(self, item: dict[str, Any]) -> Vocabulary:
        return vocabulary_of(item, self.input_config.test_dataset)


def _image_expression_pairs(inputs: Inputs) -> tuple[list[str], list[int]]:
    """All expressions of a batch in order, and the index of each one's image."""
    pairs = [(text, i) for i, item in enumerate(inputs) for text in item["expressions"]]
    return [text for text, _ in pairs], [i for _, i in pairs]


def _image_sizes(inputs: Inputs, features: ImageFeatures | None) -> tuple[Size, ...]:
    if features is not None:
        return features.image_sizes
    images = [item["image"] for item in inputs]
    return tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)


def _select_features(features: ImageFeatures, index: Sequence[int]) -> ImageFeatures:
    """Select the features of inputs; those of a single image are shared by all inputs."""
    if len(features) == 1:
        return features if len(index) == 1 else features.select([0] * len(index))
    return features if list(index) == list(range(len(features))) else features.select(index)
