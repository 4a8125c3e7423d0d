"""The architecture `ReferSAM`: Detectron2's dicts in, losses or answers out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.modeling.meta_arch.base import SegmentationModel
from refersam.checkpoint_converters import OFFICIAL_REFERSAM
from refersam.feature_capture import Activations
from refersam.modeling.criterion import MaskCriterion
from refersam.modeling.interactor import Interactor
from refersam.modeling.multi_scale_geometry import Maps
from refersam.modeling.no_interactor import Apart
from refersam.modeling.prompter import Projections, Prompter, PromptHead, as_level_maps
from refersam.modeling.sam import (
    build_image_encoder,
    build_mask_decoder,
    build_prompt_encoder,
    check_size,
    decode_masks,
    sam_variant,
)
from refersam.modeling.text import BertExpressions, ClipExpressions, build_text
from refersam.postprocessing import answer
from refersam.weight_decay import names_without_decay

EXPRESSIONS_AT_ONCE = 16


@META_ARCH_REGISTRY.register()
class ReferSAM(SegmentationModel):
    """Referring segmentation on SAM.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255, sides that divide
    by 32) and `expressions` (a list of expressions); `height` and `width` give the size of the
    results. In training also `instances`: expression k means the union of those whose `gt_classes`
    is k; where there is none, it means nothing.

    Returns in training a dict of losses; otherwise a dict an image with `referring`: an
    `Instances` an expression, empty where nothing is meant (see `refersam.postprocessing`).

    Args:
        sam: type of the image encoder, a name of `refersam.modeling.sam.VARIANTS`.
        text_encoder: see `refersam.modeling.text`.
        criterion: the losses.
        context_tokens, sparse_tokens: learned tokens of interactor and prompter.
        interactor: words and image meet inside the image encoder, else in the prompter only.
        dense_prompt: SAM gets the coarse mask.
        freeze_image_encoder: it keeps its weights.
        recompute: trade time for memory in training.
        no_target_pixels: see `refersam.postprocessing`.
        pixel_mean, pixel_std: of images in 0..255, three numbers each.
    """

    tasks = frozenset({"referring"})

    @configurable
    def __init__(
        self,
        *,
        sam: str,
        text_encoder: BertExpressions | ClipExpressions,
        criterion: MaskCriterion,
        context_tokens: int = 16,
        sparse_tokens: int = 4,
        interactor: bool = True,
        dense_prompt: bool = True,
        freeze_image_encoder: bool = False,
        recompute: bool = False,
        no_target_pixels: int = 0,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        variant = sam_variant(sam)
        self.text_encoder = text_encoder
        self.image_encoder = build_image_encoder(variant)
        self.prompt_encoder = build_prompt_encoder()
        self.mask_decoder = build_mask_decoder()
        self.interactor = (
            Interactor(variant, text_encoder.width, context_tokens, recompute)
            if interactor
            else Apart(variant)
        )
        self.projections = Projections(variant.width, text_encoder.width)
        self.prompter = Prompter(sparse_tokens)
        self.prompt_head = PromptHead()
        self.criterion = criterion
        self.dense_prompt = dense_prompt
        self.no_target_pixels = no_target_pixels
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), False)
        if freeze_image_encoder:
            self.image_encoder.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.REFERSAM` and Detectron2's keys."""
        keys = cfg.MODEL.REFERSAM
        sam_variant(keys.SAM)
        return {
            "sam": keys.SAM,
            "text_encoder": build_text(
                keys.TEXT.SOURCE, frozen=keys.TEXT.FROZEN, max_tokens=keys.TEXT.MAX_TOKENS
            ),
            "criterion": MaskCriterion(keys.LOSS.NUM_POINTS, keys.LOSS.WEIGHTS),
            "context_tokens": keys.CONTEXT_TOKENS,
            "sparse_tokens": keys.SPARSE_TOKENS,
            "interactor": keys.INTERACTOR,
            "dense_prompt": keys.DENSE_PROMPT,
            "freeze_image_encoder": keys.FREEZE_IMAGE_ENCODER,
            "recompute": keys.CHECKPOINT_ACTIVATIONS,
            "no_target_pixels": keys.TEST.NO_TARGET_PIXELS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converter of the authors' checkpoints."""
        return (OFFICIAL_REFERSAM,)

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

    # Without Detectron2's dicts ----------------------------------------------------------------

    def mask_logits(
        self,
        images: Tensor,
        token_ids: Tensor,
        token_mask: Tensor,
        *,
        image_of: Tensor | Sequence[int] | None = None,
        returned: Collection[str] | str | None = None,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The network itself.

        Args:
            images: [B, 3, H, W] normalised, sides that divide by 32.
            token_ids: [B, T] tokens of the text encoder, markers included.
            token_mask: [B, T], 1 or True for real tokens.
            picture_of: [B] the row of `images` of every expression, where several expressions are of
                one image; None: one an image, in order.
            returned: names of activations to return as well, or "all".

        Returns:
            Logits [B, H, W], coarse logits [B, 1, H/4, W/4], and with `returned` a dict.

        Raises:
            ValueError: for shapes that do not fit, with the shapes; or an unknown activation.
        """
        _check_shapes(images, token_ids, token_mask, image_of)
        kept = Activations(returned or ())
        words = self.text_encoder.read(token_ids, token_mask)
        kept.note("text", words)
        rows = None if image_of is None else torch.as_tensor(image_of, device=images.device)
        logits, coarse = self._segment(images, words, token_mask.bool(), rows, kept)
        if returned is None:
            return logits, coarse
        kept.require_all_kept()
        return logits, coarse, kept.kept

    def _segment(
        self,
        images: Tensor,
        words: Tensor,
        word_mask: Tensor,
        image_of: Tensor | None,
        kept: Activations | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] and words [B, T, C] -> logits and coarse logits."""
        kept = kept or Activations()
        seen = self.interactor(self.image_encoder, images, words, word_mask, image_of, kept)
        words = self.projections.text(seen.words)
        kept.note("lang_proj", words)
        levels = self.projections.project_maps(seen)
        eighth, sixteenth, coarsest = as_level_maps(levels, seen.sizes)
        for name, one in zip(("c2", "c3", "c4"), (eighth, sixteenth, coarsest), strict=True):
            kept.note(name, one)
        mask_feature = self.projections.mask_feature(seen.fine, eighth, image_of)
        kept.note("mask_feature", mask_feature)
        embedding = self.image_encoder.neck(seen.patches) + sixteenth
        kept.note("image_embedding", embedding)
        dense, sparse = self.prompter(
            levels,
            Maps.of(seen.sizes, images.device),
            words,
            word_mask,
            self.text_encoder.summary(word_mask),
            kept,
        )
        coarse = self.prompt_head.coarse_mask(dense, mask_feature, kept)
        kept.note("coarse_logits", coarse)
        logits = self._prompt_sam(embedding, coarse, sparse, kept)
        full = F.interpolate(
            logits.float(), size=tuple(images.shape[-2:]), mode="bilinear", align_corners=True
        )[:, 0]
        kept.note("logits", full)
        return full, coarse.float()

    def _prompt_sam(
        self, embedding: Tensor, coarse: Tensor, sparse: Tensor, kept: Activations
    ) -> Tensor:
        """Embeddings, the coarse mask and sparse tokens -> SAM's mask [B, 1, H/4, W/4]."""
        if self.dense_prompt:
            scaled = self.prompt_head.mask_scaling(coarse)
            kept.note("mask_prompt", scaled)
            dense_prompt = self.prompt_encoder.mask_downscaling(scaled)
        else:
            nothing = self.prompt_encoder.no_mask_embed.weight
            dense_prompt = nothing[:, :, None, None].expand_as(embedding)
        kept.note("dense_prompt", dense_prompt)
        sparse_prompt = self.prompt_head.sparse_embedding(sparse)
        kept.note("sparse_prompt", sparse_prompt)
        grid = self.prompt_encoder.pe_layer(tuple(embedding.shape[-2:]))[None]
        logits, quality = decode_masks(
            self.mask_decoder, embedding, grid, sparse_prompt, dense_prompt
        )
        kept.note("low_res_logits", logits)
        if kept.wants("iou"):
            kept.note("iou", self.mask_decoder.iou_prediction_head(quality)[:, :1])
        return logits

    # With them ---------------------------------------------------------------------------------

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted loss terms of a batch.

        Raises:
            ValueError: if an image has no expressions or no `instances`, naming its file; or if the
                images are not of one size.
        """
        for item in batched_inputs:
            if "instances" not in item or not item.get("expressions"):
                raise ValueError(
                    f"{_name(item)}: a training image needs `expressions` and `instances`"
                )
        sizes = {tuple(item["image"].shape[-2:]) for item in batched_inputs}
        if len(sizes) > 1:
            raise ValueError(
                f"the images of a batch must be of one size, and are of {sorted(sizes)}; "
                "INPUT.SQUARE_SIZE resizes them"
            )
        images = torch.stack([self._normalised(item) for item in batched_inputs])
        expressions = [one for item in batched_inputs for one in item["expressions"]]
        rows = [i for i, item in enumerate(batched_inputs) for _ in item["expressions"]]
        targets = torch.cat([described_masks(item, self.device) for item in batched_inputs])
        words, mask = self.text_encoder.encode(expressions)
        image_of = torch.tensor(rows, device=self.device)
        logits, coarse = self._segment(images, words, mask, image_of)
        return self.criterion(logits, coarse, targets)

    def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        if not item.get("expressions"):
            raise ValueError(f"{_name(item)}: ReferSAM needs `expressions`, a list of expressions")
        image = self._normalised(item)[None]
        size = item.get("height", image.shape[-2]), item.get("width", image.shape[-1])
        answers = []
        for start in range(0, len(item["expressions"]), EXPRESSIONS_AT_ONCE):
            expressions = item["expressions"][start : start + EXPRESSIONS_AT_ONCE]
            words, mask = self.text_encoder.encode(expressions)
            rows = torch.zeros(len(expressions), dtype=torch.long, device=self.device)
            logits, _ = self._segment(image, words, mask, rows)
            answers += [answer(one, size, self.no_target_pixels) for one in logits]
        return {"referring": answers}

    def _normalised(self, item: dict[str, Any]) -> Tensor:
        pixels = item["image"].to(self.device)
        check_size(*pixels.shape[-2:])
        return (pixels - self.pixel_mean) / self.pixel_std


def described_masks(item: dict[str, Any], device: torch.device) -> Tensor:
    """[K, H, W] float, for each expression of a training dict the union of what it means."""
    objects = item["instances"]
    masks = objects.gt_masks.tensor.to(device)
    described = torch.zeros(
        len(item["expressions"]), *item["image"].shape[-2:], device=device, dtype=torch.bool
    )
    for expression, mask in zip(objects.gt_classes.tolist(), masks, strict=True):
        described[expression] |= mask
    return described.float()


def _check_shapes(
    images: Tensor, ids: Tensor, mask: Tensor, image_of: Tensor | Sequence[int] | None
) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], and are {list(images.shape)}")
    check_size(*images.shape[-2:])
    pictures = len(images) if image_of is None else len(image_of)
    if ids.ndim != 2 or mask.shape != ids.shape or len(ids) != pictures:
        raise ValueError(
            f"token_ids {list(ids.shape)} and token_mask {list(mask.shape)} must both be "
            f"[{pictures}, T]"
        )


def _name(item: dict[str, Any]) -> str:
    return str(item.get("file_name", "an image"))
