"""ReferSAM meta-architecture: referring segmentation on SAM."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.errors import InputError
from hipie.modeling.activation_checkpointing import checkpoint_layer_groups, checkpointed_parts
from hipie.modeling.device_transfer import to_device
from hipie.modeling.meta_arch.base import SegmentationModel
from refersam.checkpoint_converters import OFFICIAL_REFERSAM
from refersam.feature_capture import FeatureCapture
from refersam.interaction_config import KEYS, InteractionConfig
from refersam.modeling.criterion import MaskCriterion
from refersam.modeling.interactor import Interactor
from refersam.modeling.multi_scale_geometry import MAP_NAMES, MultiScaleGeometry
from refersam.modeling.no_interactor import NoInteractor
from refersam.modeling.prompter import (
    Projections,
    Prompter,
    PromptHead,
    summary_token,
    tokens_to_maps,
)
from refersam.modeling.sam import (
    PATCH_SIZE,
    SamVariant,
    build_image_encoder,
    build_mask_decoder,
    build_prompt_encoder,
    check_size,
    decode_masks,
    sam_variant,
)
from refersam.modeling.text import ExpressionEncoder, build_expression_encoder
from refersam.postprocessing import referring_inference
from refersam.weight_decay import parameters_without_weight_decay

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

EXPRESSIONS_PER_FORWARD = 16


@META_ARCH_REGISTRY.register()
class ReferSAM(SegmentationModel):
    """Referring segmentation on SAM (Liu et al., IEEE TCSVT 2025).

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255, sides that are
    multiples of 32) and `expressions` (a list of referring expressions); `height` and `width` give
    the size of the output. In training it also has `instances`: the target of expression k is the
    union of the instances with `gt_classes` k, or empty if there is none.

    Returns a dict of losses in training; otherwise a dict for each image with `referring`, an
    `Instances` for each expression, empty without a target (see `refersam.postprocessing`).

    Args:
        sam: type of the image encoder, a name of `refersam.modeling.sam.VARIANTS`.
        text_encoder: see `refersam.modeling.text`.
        criterion: the losses.
        interaction: parts, learned tokens and numbers of layers.
        freeze_image_encoder: do not train the image encoder.
        no_target_pixels: see `refersam.postprocessing`.
        pixel_mean, pixel_std: of images in 0..255, three numbers each.
        checkpointed_parts: names of `layer_groups` whose activations are recomputed in the backward
            pass.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"referring"})

    @configurable
    def __init__(
        self,
        *,
        sam: str,
        text_encoder: ExpressionEncoder,
        criterion: MaskCriterion,
        interaction: InteractionConfig | None = None,
        freeze_image_encoder: bool = False,
        no_target_pixels: int = 0,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        checkpointed_parts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        variant = sam_variant(sam)
        interaction = interaction or InteractionConfig()
        self.text_encoder = text_encoder
        self.image_encoder = build_image_encoder(variant)
        self.prompt_encoder = build_prompt_encoder()
        self.mask_decoder = build_mask_decoder()
        self.interactor = _build_interactor(variant, text_encoder.width, interaction)
        strides = interaction.feature_strides if interaction.has_maps else ()
        self.projections = Projections(
            variant.width,
            text_encoder.width,
            strides if interaction.prompter else strides and (PATCH_SIZE,),
            fine=interaction.prompter,
        )
        self.prompter = self.prompt_head = None
        if interaction.prompter:
            self.prompter = Prompter(
                interaction.sparse_tokens, len(strides), interaction.num_prompt_blocks
            )
            self.prompt_head = PromptHead()
        elif criterion.supervises_coarse_mask:
            raise InputError(
                f"{KEYS}.LOSS.WEIGHTS has weights of the coarse mask, {criterion.weights[2:]}, but "
                f"{KEYS}.PROMPTER is False: only the prompter predicts it"
            )
        self.criterion = criterion
        self.dense_prompt = interaction.dense_prompt
        self.no_target_pixels = no_target_pixels
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), False)
        if freeze_image_encoder:
            self.image_encoder.requires_grad_(False)
        checkpoint_layer_groups(self.layer_groups(), checkpointed_parts, type(self).__name__)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.REFERSAM` and Detectron2's keys."""
        keys = cfg.MODEL.REFERSAM
        sam_variant(keys.SAM)
        return {
            "sam": keys.SAM,
            "text_encoder": build_expression_encoder(
                keys.TEXT.SOURCE, frozen=keys.TEXT.FROZEN, max_tokens=keys.TEXT.MAX_TOKENS
            ),
            "criterion": MaskCriterion(keys.LOSS.NUM_POINTS, keys.LOSS.WEIGHTS),
            "interaction": InteractionConfig(
                interactor=keys.INTERACTOR,
                interactor_text=keys.INTERACTOR_TEXT,
                feature_strides=tuple(keys.FEATURE_STRIDES),
                num_interactions=keys.NUM_INTERACTIONS,
                num_extra_pairs=keys.NUM_EXTRA_PAIRS,
                context_tokens=keys.CONTEXT_TOKENS,
                prompter=keys.PROMPTER,
                num_prompt_blocks=keys.NUM_PROMPT_BLOCKS,
                sparse_tokens=keys.SPARSE_TOKENS,
                dense_prompt=keys.DENSE_PROMPT,
            ),
            "freeze_image_encoder": keys.FREEZE_IMAGE_ENCODER,
            "no_target_pixels": keys.TEST.NO_TARGET_PIXELS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "checkpointed_parts": checkpointed_parts(cfg),
        }

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converter of the authors' checkpoints."""
        return (OFFICIAL_REFERSAM,)

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        """ViT blocks of the image encoder, and the fusions of the interactor."""
        fusions: list[nn.Module] = []
        if isinstance(self.interactor, Interactor):
            pairs = [pair for block in self.interactor.interactions for pair in block.pairs]
            fusions = [pair.exchange for pair in pairs if pair.exchange is not None]
        return {"backbone": list(self.image_encoder.blocks), "fusion": fusions}

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefix of the text encoder if an installed package provides its weights."""
        return ("text_encoder.",) if self.text_encoder.has_external_weights() else ()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of norms, embeddings, learned tokens and residual scales."""
        return parameters_without_weight_decay(self)

    # Tensors ---------------------------------------------------------------------------------

    def mask_logits(
        self,
        images: Tensor,
        token_ids: Tensor,
        token_mask: Tensor,
        *,
        image_of: Tensor | Sequence[int] | None = None,
        returned: Collection[str] | str | None = None,
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Compute mask logits from tensors.

        Args:
            images: [N, 3, H, W] normalised, sides that are multiples of 32.
            token_ids: [B, T] token ids of the text encoder, markers included.
            token_mask: [B, T], 1 or True for tokens that are not padding.
            image_of: [B] index of the image of every expression; None: expression b belongs to
                image b.
            returned: names of intermediate features to return as well, or "all".

        Returns:
            Logits [B, H, W], coarse logits [B, 1, H/4, W/4] (None without a prompter), and with
            `returned` a dict of features.

        Raises:
            ValueError: for shapes that do not fit, or an unknown feature.
        """
        _check_shapes(images, token_ids, token_mask, image_of)
        capture = FeatureCapture(returned or ())
        text = self.text_encoder.encode_tokens(token_ids, token_mask)
        capture.record("text", text)
        rows = None if image_of is None else torch.as_tensor(image_of, device=images.device)
        logits, coarse_logits = self._segment(images, text, token_mask.bool(), rows, capture)
        if returned is None:
            return logits, coarse_logits
        capture.check_names()
        return logits, coarse_logits, capture.features

    def _segment(
        self,
        images: Tensor,
        text: Tensor,
        text_mask: Tensor,
        image_of: Tensor | None,
        capture: FeatureCapture | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Images [N, 3, H, W] and text [B, T, C] -> logits and coarse logits."""
        capture = capture or FeatureCapture()
        output = self.interactor(self.image_encoder, images, text, text_mask, image_of, capture)
        text = self.projections.text(output.text)
        capture.record("lang_proj", text)
        levels = self.projections.project_maps(output)
        maps = tokens_to_maps(levels, output.sizes)
        for stride, level in maps.items():
            capture.record(MAP_NAMES[stride], level)
        embedding = self.image_encoder.neck(output.patches)
        if maps:
            embedding = embedding + maps[PATCH_SIZE]
        capture.record("image_embedding", embedding)
        summary_index = self.text_encoder.summary_index(text_mask)
        coarse_logits = None
        if self.prompter is None or self.prompt_head is None:
            sparse_prompt = summary_token(text, summary_index)
        else:
            mask_feature = self.projections.mask_feature(output.fine, maps[min(maps)], image_of)
            capture.record("mask_feature", mask_feature)
            geometry = MultiScaleGeometry.from_sizes(tuple(output.sizes.values()), images.device)
            dense, sparse = self.prompter(
                list(levels.values()), geometry, text, text_mask, summary_index, capture
            )
            coarse_logits = self.prompt_head.coarse_mask(dense, mask_feature, capture)
            capture.record("coarse_logits", coarse_logits)
            sparse_prompt = self.prompt_head.sparse_embedding(sparse)
        capture.record("sparse_prompt", sparse_prompt)
        low_res_logits = self._decode(embedding, coarse_logits, sparse_prompt, capture)
        logits = F.interpolate(
            low_res_logits.float(),
            size=tuple(images.shape[-2:]),
            mode="bilinear",
            align_corners=True,
        )[:, 0]
        capture.record("logits", logits)
        return logits, None if coarse_logits is None else coarse_logits.float()

    def _decode(
        self,
        embedding: Tensor,
        coarse_logits: Tensor | None,
        sparse_prompt: Tensor,
        capture: FeatureCapture,
    ) -> Tensor:
        """Embedding, coarse mask and sparse prompt -> SAM's mask logits [B, 1, H/4, W/4]."""
        if self.dense_prompt and self.prompt_head is not None:
            mask_prompt = self.prompt_head.mask_scaling(coarse_logits)
            capture.record("mask_prompt", mask_prompt)
            dense_prompt = self.prompt_encoder.mask_downscaling(mask_prompt)
        else:
            no_mask = self.prompt_encoder.no_mask_embed.weight
            dense_prompt = no_mask[:, :, None, None].expand_as(embedding)
        capture.record("dense_prompt", dense_prompt)
        positions = self.prompt_encoder.pe_layer(tuple(embedding.shape[-2:]))[None]
        logits, iou_token = decode_masks(
            self.mask_decoder, embedding, positions, sparse_prompt, dense_prompt
        )
        capture.record("low_res_logits", logits)
        if capture.is_requested("iou"):
            capture.record("iou", self.mask_decoder.iou_prediction_head(iou_token)[:, :1])
        return logits

    # Detectron2's dicts ----------------------------------------------------------------------

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the weighted losses of a batch.

        Raises:
            ValueError: if an image has no expressions or no `instances`, naming its file; or if the
                images have different sizes.
        """
        for item in batched_inputs:
            if "instances" not in item or not item.get("expressions"):
                raise InputError(
                    f"{_file_name(item)}: a training image needs `expressions` and `instances`"
                )
        sizes = {tuple(item["image"].shape[-2:]) for item in batched_inputs}
        if len(sizes) > 1:
            raise InputError(
                f"the images of a batch must be of one size, and are of {sorted(sizes)}; "
                "INPUT.SQUARE_SIZE resizes them"
            )
        images = torch.stack([self._preprocess(item) for item in batched_inputs])
        expressions = [text for item in batched_inputs for text in item["expressions"]]
        rows = [i for i, item in enumerate(batched_inputs) for _ in item["expressions"]]
        targets = torch.cat([target_masks(item, self.device) for item in batched_inputs])
        text, text_mask = self.text_encoder.encode(expressions)
        image_of = to_device(torch.tensor(rows), self.device)
        logits, coarse_logits = self._segment(images, text, text_mask, image_of)
        return self.criterion(logits, coarse_logits, targets)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Compute the results of a batch; see the class.

        Args:
            batched_inputs: images with `expressions`.
            image_features: must be None, since text is fused inside the image encoder.

        Raises:
            ValueError: if an image has no expressions, naming its file.
        """
        return [{"referring": self._segment_expressions(item)} for item in batched_inputs]

    def _segment_expressions(self, item: dict[str, Any]) -> list[Any]:
        """`Instances` of every expression of an image."""
        if not item.get("expressions"):
            raise InputError(
                f"{_file_name(item)}: ReferSAM needs `expressions`, a list of expressions"
            )
        image = self._preprocess(item)[None]
        size = item.get("height", image.shape[-2]), item.get("width", image.shape[-1])
        results = []
        for start in range(0, len(item["expressions"]), EXPRESSIONS_PER_FORWARD):
            expressions = item["expressions"][start : start + EXPRESSIONS_PER_FORWARD]
            text, text_mask = self.text_encoder.encode(expressions)
            image_of = torch.zeros(len(expressions), dtype=torch.long, device=self.device)
            logits, _ = self._segment(image, text, text_mask, image_of)
            results += [referring_inference(mask, size, self.no_target_pixels) for mask in logits]
        return results

    def _preprocess(self, item: dict[str, Any]) -> Tensor:
        pixels = to_device(item["image"], self.device)
        check_size(*pixels.shape[-2:])
        return (pixels - self.pixel_mean) / self.pixel_std


def _build_interactor(
    variant: SamVariant, text_width: int, config: InteractionConfig
) -> Interactor | NoInteractor:
    if not config.interactor:
        return NoInteractor(variant, config.feature_strides if config.has_maps else ())
    return Interactor(
        variant,
        text_width,
        config.context_tokens,
        strides=config.feature_strides,
        interactions=config.num_interactions,
        extra_pairs=config.num_extra_pairs,
        fuse_text=config.interactor_text,
    )


def target_masks(item: dict[str, Any], device: torch.device) -> Tensor:
    """Compute the union of the instances of each expression of a training dict: [K, H, W] float."""
    instances = item["instances"]
    masks = to_device(instances.gt_masks.tensor, device)
    targets = torch.zeros(
        len(item["expressions"]), *item["image"].shape[-2:], device=device, dtype=torch.bool
    )
    for expression, mask in zip(instances.gt_classes.tolist(), masks, strict=True):
        targets[expression] |= mask
    return targets.float()


def _check_shapes(
    images: Tensor, ids: Tensor, mask: Tensor, image_of: Tensor | Sequence[int] | None
) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], and are {list(images.shape)}")
    check_size(*images.shape[-2:])
    count = len(images) if image_of is None else len(image_of)
    if ids.ndim != 2 or mask.shape != ids.shape or len(ids) != count:
        raise ValueError(
            f"token_ids {list(ids.shape)} and token_mask {list(mask.shape)} must both be "
            f"[{count}, T]"
        )


def _file_name(item: dict[str, Any]) -> str:
    return str(item.get("file_name", "an image"))
