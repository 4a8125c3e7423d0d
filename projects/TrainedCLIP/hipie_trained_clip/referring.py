"""Base class of the architectures of referring segmentation, CRIS and ETRIS."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from hipie.errors import InputError, printable
from hipie.modeling.activation_checkpointing import checkpoint_layer_groups, checkpointed_parts
from hipie.modeling.device_transfer import to_device
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import expression_targets, output_size
from hipie.modeling.open_vocabulary.clip_loading import RANDOM_PREFIX, load_clip
from hipie.modeling.postprocessing.referring_inference import expression_instances
from hipie.modeling.text_encoder.caption import expression_caption
from hipie_trained_clip.modeling.layers import TextConditionedProjector
from hipie_trained_clip.modeling.vision_language_decoder import VisionLanguageDecoder

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

KEYS = "MODEL.TRAINED_CLIP"
NUM_MARKERS = 2
EXPRESSIONS_PER_FORWARD = 16


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the neck and the decoder, the keys `HIDDEN_DIM` and `DECODER`.

    Attributes:
        channels: of the map.
        layers, heads, dim_feedforward, dropout: see `VisionLanguageDecoder`.
    """

    channels: int = 512
    layers: int = 3
    heads: int = 8
    dim_feedforward: int = 2048
    dropout: float = 0.1

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DecoderConfig:
        """Read the keys.

        Raises:
            InputError: for channels that cannot be divided.
        """
        keys = cfg.MODEL.TRAINED_CLIP
        decoder = keys.DECODER
        if keys.HIDDEN_DIM % 4 or keys.HIDDEN_DIM % decoder.HEADS:
            raise InputError(
                f"{KEYS}.HIDDEN_DIM is {keys.HIDDEN_DIM}; it has to be a multiple of 4 and of "
                f"{KEYS}.DECODER.HEADS, {decoder.HEADS}"
            )
        return cls(
            keys.HIDDEN_DIM,
            decoder.LAYERS,
            decoder.HEADS,
            decoder.DIM_FEEDFORWARD,
            decoder.DROPOUT,
        )

    def build(self, text_channels: int) -> VisionLanguageDecoder:
        """Build the decoder for words of so many channels."""
        return VisionLanguageDecoder(
            self.channels,
            text_channels,
            layers=self.layers,
            heads=self.heads,
            dim_feedforward=self.dim_feedforward,
            dropout=self.dropout,
        )


class ReferringCLIP(SegmentationModel):
    """Mask of an expression from CLIP's image and text encoder.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and `expressions`;
    `height` and `width` give the size of the output. In training it also has `instances`: the
    target of expression k is the union of the instances with `gt_classes` k.

    Returns a dict of losses in training; otherwise a dict for each image with `referring`, an
    `Instances` for each expression, empty where no pixel is above the threshold.

    Args:
        clip: a CLIP of open_clip.
        tokenizer: texts and `context_length` -> ids.
        decoder: sizes.
        divisor: the sides of images are multiples of this.
        max_tokens: of an expression with both markers.
        mask_threshold: probability above which a pixel belongs to the mask.
        image_format: "RGB" or "BGR".
        has_pretrained_weights: whether the weights of `clip` are not random.
        checkpointed: names of `layer_groups` that are recomputed in the backward pass.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"referring"})

    def __init__(
        self,
        *,
        clip: nn.Module,
        tokenizer: Callable[..., Tensor],
        decoder: DecoderConfig,
        divisor: int,
        max_tokens: int = 17,
        mask_threshold: float = 0.35,
        image_format: str = "RGB",
        has_pretrained_weights: bool = True,
        checkpointed: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone: Any = clip.requires_grad_(True)
        self.backbone.has_pretrained_weights = has_pretrained_weights
        self._tokenizer = tokenizer
        self.divisor, self.max_tokens = divisor, max_tokens
        self.mask_threshold, self.image_format = mask_threshold, image_format
        text_channels = self.backbone.ln_final.normalized_shape[0]
        self.decoder = decoder.build(text_channels)
        self.projector = TextConditionedProjector(self.joint_channels, decoder.channels)
        mean, std = self.backbone.visual.image_mean, self.backbone.visual.image_std
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", 255 * torch.tensor(std).view(3, 1, 1), False)
        checkpoint_layer_groups(self.layer_groups(), checkpointed, type(self).__name__)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINED_CLIP`.

        Raises:
            InputError: for a number of tokens or a threshold out of range.
        """
        keys = cfg.MODEL.TRAINED_CLIP
        clip, tokenizer = load_clip(keys.CLIP.MODEL, keys.CLIP.WEIGHTS)
        longest = len(getattr(clip, "positional_embedding", ()))
        if not NUM_MARKERS < keys.MAX_TOKENS <= longest:
            raise InputError(
                f"{KEYS}.MAX_TOKENS is {keys.MAX_TOKENS}; it has to be in {NUM_MARKERS + 1}.."
                f"{longest} for this CLIP"
            )
        if not 0 < keys.MASK_THRESHOLD < 1:
            raise InputError(f"{KEYS}.MASK_THRESHOLD is {keys.MASK_THRESHOLD}, not between 0 and 1")
        return {
            "clip": clip,
            "tokenizer": tokenizer,
            "decoder": DecoderConfig.from_config(cfg),
            "max_tokens": keys.MAX_TOKENS,
            "mask_threshold": keys.MASK_THRESHOLD,
            "image_format": cfg.INPUT.FORMAT,
            "has_pretrained_weights": not keys.CLIP.MODEL.startswith(RANDOM_PREFIX),
            "checkpointed": checkpointed_parts(cfg),
        }

    @property
    def joint_channels(self) -> int:
        """D, channels of an expression's feature."""
        return int(self.backbone.text_projection.shape[1])

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def learning_rate_multipliers(self) -> list[tuple[str, float]]:
        """CLIP's position embeddings have the full rate, as in the released programs."""
        return [("positional_embedding", 1.0)]

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """Layers of the decoder."""
        return {"decoder": list(self.decoder.layers)}

    @abstractmethod
    def mask_logits(self, images: Tensor, ids: Tensor, image_of: Tensor | None = None) -> Tensor:
        """Compute mask logits from tensors.

        Args:
            images: [N, 3, H, W] normalised.
            ids: [B, T] token ids, 0 for padding.
            image_of: [B] index of the image of every expression; None: expression b belongs to
                image b.

        Returns:
            [B, H / 4, W / 4].
        """

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the cross entropy of the masks (CRIS, eq. 8), at the resolution of the logits.

        Raises:
            InputError: if an image has no expressions, or the images have different sizes.
        """
        for item in batched_inputs:
            self._require_expressions(item)
        sizes = {tuple(item["image"].shape[-2:]) for item in batched_inputs}
        if len(sizes) > 1:
            raise InputError(
                f"the images of a batch must be of one size, and are of {sorted(sizes)}; "
                "INPUT.SQUARE_SIZE resizes them"
            )
        images = torch.stack([self.preprocess(item) for item in batched_inputs])
        texts = [text for item in batched_inputs for text in item["expressions"]]
        rows = [i for i, item in enumerate(batched_inputs) for _ in item["expressions"]]
        canvas = (int(images.shape[-2]), int(images.shape[-1]))
        masks = [
            target.masks.any(0)
            for item in batched_inputs
            for target in expression_targets(item, canvas, self.device)
        ]
        image_of = to_device(torch.tensor(rows), self.device)
        logits = self.mask_logits(images, self.tokenize(texts), image_of).float()
        targets = F.interpolate(torch.stack(masks)[:, None].float(), size=logits.shape[-2:])[:, 0]
        return {"loss_mask": F.binary_cross_entropy_with_logits(logits, targets)}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Compute the results of a batch; see the class.

        Raises:
            InputError: if an image has no expressions, naming its file.
        """
        return [{"referring": self._segment_expressions(item)} for item in batched_inputs]

    def tokenize(self, expressions: Sequence[str]) -> Tensor:
        """Token ids [B, max_tokens] of expressions; long ones are truncated with a warning.

        Raises:
            InputError: for an expression without a word.
        """
        texts = [expression_caption(expression).text for expression in expressions]
        ids = self._tokenizer(texts)
        lengths = (ids != 0).sum(1)
        for row in torch.nonzero(lengths > self.max_tokens).flatten().tolist():
            warnings.warn(
                f'the expression "{printable(expressions[row], 40)}" has '
                f"{int(lengths[row]) - NUM_MARKERS} tokens; "
                f"only the first {self.max_tokens - NUM_MARKERS} are used",
                stacklevel=2,
            )
            ids[row, self.max_tokens - 1] = ids[row, lengths[row] - 1]
        return to_device(ids[:, : self.max_tokens], self.device)

    def preprocess(self, item: dict[str, Any]) -> Tensor:
        """Normalise the image of an input dict: [3, H, W].

        Raises:
            InputError: for sides that are not multiples of `divisor`, naming the file.
        """
        image = to_device(item["image"], self.device).float()
        height, width = image.shape[-2:]
        if height % self.divisor or width % self.divisor:
            raise InputError(
                f"{_file_name(item)}: an image of {width}x{height} pixels has sides that are not "
                f"divisible by {self.divisor}; INPUT.SQUARE_SIZE resizes images"
            )
        if self.image_format == "BGR":
            image = image.flip(0)
        return (image - self.pixel_mean) / self.pixel_std

    def _segment_expressions(self, item: dict[str, Any]) -> list[Instances]:
        """`Instances` of every expression of an image."""
        self._require_expressions(item)
        image = self.preprocess(item)[None]
        size = output_size(item, (int(image.shape[-2]), int(image.shape[-1])))
        results = []
        expressions = item["expressions"]
        for start in range(0, len(expressions), EXPRESSIONS_PER_FORWARD):
            ids = self.tokenize(expressions[start : start + EXPRESSIONS_PER_FORWARD])
            image_of = torch.zeros(len(ids), dtype=torch.long, device=self.device)
            logits = self.mask_logits(image, ids, image_of).float()
            maps = F.interpolate(
                logits.sigmoid()[None], size=size, mode="bicubic", align_corners=True
            )[0]
            results += [
                expression_instances(probabilities.clamp(0, 1), probabilities > self.mask_threshold)
                for probabilities in maps
            ]
        return results

    def _require_expressions(self, item: dict[str, Any]) -> None:
        if not item.get("expressions"):
            raise InputError(
                f"{_file_name(item)}: {type(self).__name__} needs `expressions`, a list of "
                "expressions"
            )


def rows_of(features: Tensor, image_of: Tensor | None) -> Tensor:
    """Repeat the features [N, ...] of images for their expressions: [B, ...]."""
    return features if image_of is None else features[image_of]


def _file_name(item: dict[str, Any]) -> str:
    return str(item.get("file_name", "an image"))
