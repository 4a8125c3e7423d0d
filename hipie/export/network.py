"""HIPIE as a function of one image, with fixed or given class names, which exporters can trace."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.export import Dim

from hipie import __version__
from hipie.errors import InputError, UnsupportedError
from hipie.export.text_network import text_network
from hipie.export.traceable import ExportRequest, TraceableNetwork
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.modeling.postprocessing.pixel_scores import geometric_mean, mask_class_probabilities
from hipie.modeling.postprocessing.score_calibration import instance_scores
from hipie.modeling.postprocessing.token_to_class import MASKED_LOGIT
from hipie.modeling.text_encoder.caption import vocabulary_caption
from hipie.structures import LayerOutput, MaskHead
from hipie.vocabularies.vocabulary import Vocabulary

OUTPUT_NAMES = ("boxes", "scores", "panoptic_scores", "masks")
# Suffix of the name of the text encoder's file.
TEXT_SUFFIX = "_text"
# Stride of masks.
MASK_STRIDE = 4
# Smallest and largest sides of a canvas, in pixels.
MIN_SIDE, MAX_SIDE = 192, 2048
# Largest numbers of tokens and classes that are inputs.
MAX_TOKENS, MAX_CLASSES = 8192, 4096


class OpenVocabularyNetwork(nn.Module):
    """HIPIE for one image and given text features, up to the masks of all queries at stride 4.

    What depends on the content of an image (non-maximum suppression, the selection of segments)
    follows outside, as in `examples/run_onnx.py`.

    Args:
        model: in evaluation mode; it is copied.

    Raises:
        UnsupportedError: for a model without stuff decoder, with CLIP, or in bfloat16.
    """

    def __init__(self, model: HIPIE) -> None:
        super().__init__()
        if model.stuff is None or model.clip_ensemble is not None or model.precision != "float32":
            raise UnsupportedError(
                "models are exported in float32, with a stuff decoder (MODEL.HIPIE.STUFF.ENABLED) "
                "and without CLIP (MODEL.HIPIE.CLIP.ENABLED)"
            )
        if model.is_compiled:
            raise UnsupportedError(
                "a compiled model is not exported: build it without compile=True"
            )
        if model.stuff.fusion is not None:
            raise UnsupportedError("models with MODEL.HIPIE.STUFF.EARLY_FUSION are not exported")
        self.model = copy.deepcopy(model)
        del self.model.text_encoder, self.model.thing_criterion, self.model.stuff_criterion
        self.model.naming = None
        prepare_modules(self.model)

    def forward(
        self, image: Tensor, size: Tensor, text: Tensor, class_tokens: Tensor, is_thing: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the predictions of one image.

        Args:
            image: [3, H, W] float32, 0..255, in the model's channel order, padded to the right and
                at the bottom to a multiple of what the backbone needs.
            size: [2] int64, (height, width) of the image without padding.
            text: [T, C] float32, features of the tokens of the caption.
            class_tokens: [K, T] float32, 1 where a token belongs to a class, else 0.
            is_thing: [K] bool.

        Returns:
            `boxes` [Q, 4] cxcywh of the Q thing queries in 0..1 of the image; `scores` [Q, K] of
            instances; `panoptic_scores` [Q + S, K], those of S stuff queries last; and `masks`
            [Q + S, H / 4, W / 4], logits.
        """
        model, settings = self.model, self.model.settings
        stuff_branch = model.stuff
        assert stuff_branch is not None  # checked by the constructor
        rows = torch.arange(image.shape[1], device=image.device) >= size[0]
        columns = torch.arange(image.shape[2], device=image.device) >= size[1]
        padded = rows[:, None] | columns
        pixels = (image - model.pixel_mean) / model.pixel_std
        pixels = pixels.masked_fill(padded, 0.0)[None]
        by_name = model.backbone(pixels)
        names = [*([model.lateral_feature] if model.lateral_feature else []), *model.in_features]
        features = [by_name[name] for name in names]
        levels = model._project(features, padded[None])
        text_mask = torch.ones_like(text[None, :, 0], dtype=torch.bool)
        levels, fused_text = model.things.fuse(levels, text[None], text_mask)
        pooled_text = text.mean(0)[None, None]
        things, _ = model.things(levels, size[None], class_text=fused_text, pooled_text=pooled_text)
        stuff_text = fused_text if model.stuff_settings.fused_text else text[None]
        stuff = stuff_branch.classify(stuff_branch.decode(features), stuff_text)
        thing, other = things.layers[-1], stuff.layers[-1]
        # Thing queries are no stuff, unless all classes are.
        thing_logits = self._class_logits(thing, class_tokens)
        thing_logits = thing_logits.masked_fill(~is_thing & is_thing.any(), MASKED_LOGIT)
        stuff_logits = self._class_logits(other, class_tokens)
        if not (
            settings.thing_scores_from_stuff_decoder or settings.panoptic_from_stuff_decoder_only
        ):
            stuff_logits = stuff_logits.masked_fill(is_thing, MASKED_LOGIT)
        masks = [
            _all_masks(model.things.mask_head, thing, things.mask_features),
            _all_masks(stuff_branch.mask_head, other, stuff.mask_features),
        ]
        competing = [self._panoptic_scores(logits) for logits in (thing_logits, stuff_logits)]
        if settings.panoptic_from_stuff_decoder_only:
            competing[0] = torch.zeros_like(competing[0])
        iou_logits = None if thing.iou_logits is None else thing.iou_logits[0]
        scores = instance_scores(thing_logits, iou_logits)
        weight = model.pixel_settings.masks
        if model.pixel_head is not None and weight:
            mask_features = torch.stack(stuff.mask_features)
            of_backbone = features[-len(model.in_features) :]
            encoded = model.pixel_head.encode(of_backbone, mask_features, padded[None])[0]
            classes = _mean_tokens(class_tokens) @ text
            probabilities = model.pixel_head(encoded, classes).softmax(0)[:-1]
            ratio = model.pixel_head.stride // MASK_STRIDE
            of_masks = [mask_class_probabilities(probabilities, of, ratio) for of in masks]
            scores = geometric_mean(scores, of_masks[0], weight)
            competing = [
                geometric_mean(own, of, weight) for own, of in zip(competing, of_masks, strict=True)
            ]
        return thing.boxes[0], scores, torch.cat(competing), torch.cat(masks)

    def _class_logits(self, layer: LayerOutput, class_tokens: Tensor) -> Tensor:
        """Logits of the tokens of each class, pooled: [N, K]."""
        logits = layer.require_logits()[0]
        if self.model.settings.token_pooling == "mean":
            return logits @ _mean_tokens(class_tokens).t()
        return logits[:, None].masked_fill(class_tokens == 0, -torch.inf).amax(-1)

    def _panoptic_scores(self, class_logits: Tensor) -> Tensor:
        """`panoptic_scores` without a condition on the number of classes, which may be dynamic."""
        settings = self.model.settings
        scaled = class_logits.float().sigmoid() / settings.temperature
        added = settings.min_softmax_classes - torch.ones_like(scaled[:1]).sum(1, keepdim=True)
        absent = added.clamp_min(0).log().expand(len(scaled), 1)
        return (scaled - torch.cat([scaled, absent], 1).logsumexp(1, keepdim=True)).exp()


class ExportedNetwork(OpenVocabularyNetwork):
    """HIPIE for one image and one vocabulary; see `OpenVocabularyNetwork`.

    Args:
        model: in evaluation mode; it is copied.
        vocabulary: the K classes.
    """

    def __init__(self, model: HIPIE, vocabulary: Vocabulary) -> None:
        super().__init__(model)
        with torch.no_grad():
            encoded = model.text_encoder([vocabulary_caption(vocabulary)])
        text, spans = encoded.hidden[0], encoded.token_spans[0]
        class_tokens = torch.zeros(len(spans), len(text))
        for row, span in zip(class_tokens, spans, strict=True):
            row[list(span)] = 1
        self.text: Tensor
        self.class_tokens: Tensor
        self.is_thing: Tensor
        self.register_buffer("text", text.clone())
        self.register_buffer("class_tokens", class_tokens)
        self.register_buffer("is_thing", torch.tensor(vocabulary.is_thing, dtype=torch.bool))

    def forward(  # type: ignore[override]
        self, image: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the predictions of one image; see `OpenVocabularyNetwork.forward`."""
        return super().forward(image, size, self.text, self.class_tokens, self.is_thing)


def hipie_networks(
    model: SegmentationModel, cfg: CfgNode, request: ExportRequest
) -> dict[str, TraceableNetwork]:
    """Build the networks of a HIPIE; without a vocabulary, that of its text encoder as well."""
    assert isinstance(model, HIPIE)
    if request.num_images is not None:
        raise InputError("HIPIE is exported for one image: leave the number of images out")
    step = model.input_config.divisibility(training=False)
    image, size = example_image(step)
    rows = Dim("rows", min=-(-MIN_SIDE // step), max=MAX_SIDE // step)
    columns = Dim("columns", min=-(-MIN_SIDE // step), max=MAX_SIDE // step)
    inputs = {"image": image, "size": size}
    dynamic: dict[str, Any] = {"image": {1: step * rows, 2: step * columns}, "size": None}
    about = description(model, cfg, request.vocabulary)
    if request.vocabulary is not None:
        network = ExportedNetwork(model, request.vocabulary).eval()
        return {"": TraceableNetwork(network, inputs, OUTPUT_NAMES, about, dynamic)}
    encoder = text_network(model.text_encoder)
    num_tokens, num_classes = 11, 5
    inputs |= {
        "text": torch.randn(
            num_tokens, model.text_encoder.width, generator=torch.Generator().manual_seed(0)
        ),
        "class_tokens": torch.eye(num_classes, num_tokens),
        "is_thing": torch.arange(num_classes) < 3,
    }
    tokens = Dim("tokens", min=3, max=MAX_TOKENS)
    classes = Dim("classes", min=2, max=MAX_CLASSES)
    dynamic |= {"text": {0: tokens}, "class_tokens": {0: classes, 1: tokens}}
    dynamic["is_thing"] = {0: classes}
    given = OpenVocabularyNetwork(model).eval()
    return {
        "": TraceableNetwork(given, inputs, OUTPUT_NAMES, about, dynamic),
        TEXT_SUFFIX: encoder,
    }


def description(model: HIPIE, cfg: CfgNode, vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Describe preparation and postprocessing, for programs without this package.

    Returns:
        `classes` (name and kind, in the order of the score columns; None where they are inputs);
        `min_size`, `max_size`, `format` ("RGB" or "BGR") and `divisibility` of the canvas; the
        thresholds `nms`, `object_mask` and `overlap`; `detections`, the largest number of
        instances; and `version`.
    """
    settings = model.settings
    classes = None
    if vocabulary is not None:
        classes = [{"name": entry.name, "kind": entry.kind} for entry in vocabulary.classes]
    return {
        "classes": classes,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "format": cfg.INPUT.FORMAT,
        "divisibility": model.input_config.divisibility(training=False),
        "nms": settings.nms_threshold,
        "object_mask": settings.object_mask_threshold,
        "overlap": settings.overlap_threshold,
        "detections": settings.detections_per_image,
        "version": __version__,
    }


def example_image(step: int) -> tuple[Tensor, Tensor]:
    """Image [3, H, W] of noise whose sides are multiples of `step`, and a size [2] inside it."""
    height, width = (side // step * step for side in (256 + step, 320 + step))
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 255
    return image, torch.tensor([height - 3, width - 5])


def prepare_modules(model: nn.Module) -> None:
    """Replace what exporters cannot trace, in place: TensorFlow's "same" padding of timm."""
    for module in model.modules():
        if "Conv2dSame" in (base.__name__ for base in type(module).__mro__):
            module.forward = partial(_convolve_same, module)


def _mean_tokens(class_tokens: Tensor) -> Tensor:
    """Weights [K, T] of the tokens in the mean of each class."""
    return class_tokens / class_tokens.sum(1, keepdim=True)


def _all_masks(head: MaskHead, layer: LayerOutput, features: tuple[Tensor, ...]) -> Tensor:
    queries = torch.arange(layer.boxes.shape[1], device=layer.boxes.device)
    count = layer.boxes.shape[1]
    return head.logits(layer, features, torch.zeros_like(queries), queries, [count]).float()


def _convolve_same(layer: Any, x: Tensor) -> Tensor:
    """TensorFlow's "same" convolution of maps whose sides are multiples of the stride."""
    around = []
    for kernel, stride, dilation in zip(
        layer.kernel_size[::-1], layer.stride[::-1], layer.dilation[::-1], strict=True
    ):
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        around += [total // 2, total - total // 2]
    return F.conv2d(
        F.pad(x, around), layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
    )
