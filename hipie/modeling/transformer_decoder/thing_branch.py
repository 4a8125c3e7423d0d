"""The early way: things are fused with words, encoded, proposed and decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from hipie.modeling.criterion.predictions import DenoisingLayout, LayerPrediction, LayerPredictions
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion
from hipie.modeling.fusion.chunked import fuse_in_chunks, needs_chunks
from hipie.modeling.heads.class_head import TextClassHead
from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead, MaskFeatures
from hipie.modeling.heads.text_projection import TextResizer
from hipie.modeling.pixel_decoder.input_projection import InputProjections
from hipie.modeling.pixel_decoder.multi_scale_features import Levels, flatten_levels, shrink_mask
from hipie.modeling.transformer_decoder.denoising import (
    DenoisingQueries,
    denoising_queries,
    group_attention_mask,
    move_corners,
)
from hipie.modeling.transformer_decoder.layers import EncoderLayer
from hipie.modeling.transformer_decoder.position_encoding import sine_positions
from hipie.modeling.transformer_decoder.proposals import anchor_boxes, gather_rows
from hipie.modeling.transformer_decoder.reference_points import inverse_sigmoid
from hipie.modeling.transformer_decoder.thing_decoder import (
    DecodedThings,
    ThingDecoder,
    box_head,
    top_rows,
)


@dataclass
class ProjectedInputs:
    """P images before they meet any word.

    Attributes:
        levels: pixels [P, S, C] with their shapes.
        image_sizes: [P, 2] (width, height) of the unpadded images in pixels.
    """

    levels: Levels
    image_sizes: Tensor


@dataclass
class FusedInputs:
    """Pixels and words after they have seen each other.

    Attributes:
        levels: pixels [B, S, C] with their shapes.
        fused_text: [B, T, Ct].
        image_sizes: [B, 2] (width, height) of the unpadded images in pixels.
    """

    levels: Levels
    fused_text: Tensor
    image_sizes: Tensor


@dataclass
class ThingOutput:
    """What the thing branch says of B images; N counts background queries, then the others.

    Attributes:
        layers: one prediction a decoder layer, N queries each, made when it is asked for.
        num_background: how many of the N come first and count for nothing.
        proposals: of all S tokens; one class-agnostic logit each. None outside training.
        topk: [B, Q] the token that every query came from.
        denoising: like `layers`, for the denoising queries, or None.
        denoising_layout: where they stand, or None.
        mask_features: [B, channels, H/8, W/8].
        memory: [B, S, C] the encoder's result.
        fused_text: [B, T, Ct] words after they have seen the pixels.
        queries, references: of the N queries, one tensor a layer (references enter the layer).
    """

    layers: Sequence[LayerPrediction]
    num_background: int
    proposals: LayerPrediction | None
    topk: Tensor
    denoising: Sequence[LayerPrediction] | None
    denoising_layout: DenoisingLayout | None
    mask_features: Tensor
    memory: Tensor
    fused_text: Tensor
    queries: list[Tensor]
    references: list[Tensor]


class ThingBranch(nn.Module):
    """Projections, early fusion, deformable encoder, two-stage decoder, dynamic masks.

    Args:
        in_channels: channels of res3, res4, res5.
        width: channels everywhere inside.
        text_width: channels of a token.
        num_queries, num_background_queries: of the decoder.
        encoder_layers, decoder_layers, num_heads, num_points, ffn_width: of the transformer.
        early_fusion: words and pixels see each other before the encoder.
        fusion_width, fusion_heads, fusion_dropout: of the bi-directional attention.
        mask_channels: channels of the mask features.
        denoising_queries: about how many noised copies in training; 0 for none.
        published_denoising_masks: centre the masks of denoising query i on the logits of matching
            query i's reference box, counted in pixels, as the published training code does by
            mistake. Inference is the same either way.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        width: int = 256,
        text_width: int = 768,
        num_queries: int = 900,
        num_background_queries: int = 10,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_width: int = 2048,
        early_fusion: bool = True,
        fusion_width: int = 2048,
        fusion_heads: int = 8,
        fusion_dropout: float = 0.1,
        mask_channels: int = 8,
        denoising_queries: int = 200,
        published_denoising_masks: bool = False,
    ) -> None:
        super().__init__()
        self.width = width
        self.num_queries = num_queries
        self.num_background = num_background_queries
        self.denoising_budget = denoising_queries
        self.published_denoising_masks = published_denoising_masks
        levels = len(in_channels) + 1
        self.projections = InputProjections(in_channels, width)
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.fusion = None
        if early_fusion:
            self.fusion = BidirectionalFusion(
                width,
                text_width,
                fusion_width,
                fusion_heads,
                initial_gamma=1 / max(encoder_layers, 1),
                dropout=fusion_dropout,
            )
        self.encoder = nn.ModuleList(
            EncoderLayer(width, num_heads, levels, num_points, ffn_width)
            for _ in range(encoder_layers)
        )
        self.proposal_projection = nn.Linear(width, width)
        self.proposal_norm = nn.LayerNorm(width)
        self.proposal_score = nn.Linear(width, 1)
        self.proposal_box = box_head(width)
        self.query_content = nn.Embedding(num_queries, width)
        self.background_content = nn.Embedding(num_background_queries, width)
        self.background_references = nn.Embedding(num_background_queries, 4)
        self.decoder = ThingDecoder(width, decoder_layers, num_heads, num_points, ffn_width, levels)
        self.class_heads = nn.ModuleList(
            TextClassHead(width, text_width) for _ in range(decoder_layers)
        )
        self.iou_heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(decoder_layers))
        self.mask_features = MaskFeatures(width, mask_channels)
        self.mask_head = DynamicMaskHead(width, mask_channels)
        self.denoising_content = TextResizer(text_width, width)
        prior = -math.log(99)
        for head in (self.proposal_score, *self.iou_heads):
            nn.init.constant_(head.bias, prior)

    def project(self, features: Sequence[Tensor], padding_mask: Tensor) -> ProjectedInputs:
        """Bring P images to the branch's width; no word is asked.

        Args:
            features: res3, res4, res5: [P, C_i, h_i, w_i].
            padding_mask: [P, H, W] bool of the canvas, True where padded.
        """
        maps = self.projections(features)
        masks = [shrink_mask(padding_mask, one.shape[-2:]) for one in maps[:-1]]
        masks.append(shrink_mask(masks[0], maps[-1].shape[-2:]))
        positions = [
            sine_positions(mask, self.width, -0.5) + embedding[:, None, None]
            for mask, embedding in zip(masks, self.level_embedding, strict=True)
        ]
        valid = ~padding_mask
        sizes = torch.stack([valid[:, 0].sum(1), valid[:, :, 0].sum(1)], dim=-1).float()
        return ProjectedInputs(flatten_levels(maps, positions, masks), sizes)

    def fuse(
        self,
        projected: ProjectedInputs,
        text: Tensor,
        text_mask: Tensor,
        image_of: Tensor | None = None,
    ) -> FusedInputs:
        """Let words and pixels see each other, if the branch does so.

        Args:
            projected: P images, of `project`.
            text: [B, T, text_width].
            text_mask: [B, T] bool, True for real tokens.
            picture_of: [B] which image each text speaks of; None = one text an image, in order.
        """
        levels, sizes = projected.levels, projected.image_sizes
        if image_of is not None:
            levels, sizes = levels.select(image_of), sizes[image_of]
        if self.fusion is None:
            return FusedInputs(levels, text, sizes)
        if not torch.is_grad_enabled() and needs_chunks(levels.tokens, text):
            tokens, fused_text = fuse_in_chunks(self.fusion, levels.tokens, text, text_mask)
        else:
            tokens, fused_text = self.fusion(levels.tokens, text, text_mask)
        return FusedInputs(replace(levels, tokens=tokens), fused_text, sizes)

    def forward(
        self,
        fused: FusedInputs,
        *,
        text_for_classes: Tensor,
        unfused_pooled: Tensor,
        targets: Sequence[Targets] | None = None,
    ) -> ThingOutput:
        """Encode, propose and decode.

        Args:
            fused: of `fuse`.
            text_for_classes: [B, T, text_width] the fused tokens, or [B, 1, text_width] one
                pooled expression.
            unfused_pooled: [B, 1, text_width], what denoising queries are filled with.
            targets: the objects, in training; None leaves denoising out.
        """
        levels = fused.levels
        memory = self._encode(levels)
        proposals, topk, start = self._propose(memory, levels, targets is not None)
        noised = None
        if targets is not None:
            boxes = [one.boxes for one in targets]
            noised = denoising_queries(
                targets, boxes, self.denoising_budget, move_corners, negatives=True
            )
        queries, references, attention_mask = self._queries(start, noised, unfused_pooled)
        decoded = self.decoder(queries, references, memory, levels, attention_mask)
        mask_features = self.mask_features(levels.as_maps(memory)[:3])
        count = noised.layout.num_queries if noised else 0
        matching = slice(count, None)
        sizes = fused.image_sizes[:, None]
        centres = [one[:, matching, :2].detach() * sizes for one in decoded.references]
        denoising = None
        if noised:
            denoising = self._predictions(
                decoded,
                slice(0, count),
                self._denoising_centres(decoded, count, sizes),
                text_for_classes,
                mask_features,
            )
        return ThingOutput(
            layers=self._predictions(decoded, matching, centres, text_for_classes, mask_features),
            num_background=self.num_background,
            proposals=proposals,
            topk=topk,
            denoising=denoising,
            denoising_layout=noised.layout if noised else None,
            mask_features=mask_features,
            memory=memory,
            fused_text=fused.fused_text,
            queries=[one[:, matching] for one in decoded.queries],
            references=[one[:, matching] for one in decoded.references],
        )

    def _encode(self, levels: Levels) -> Tensor:
        centres = levels.centres()
        tokens = levels.tokens
        for layer in self.encoder:
            tokens = layer(tokens, levels, centres, levels.padding_mask)
        return tokens

    def _propose(
        self, memory: Tensor, levels: Levels, every_box: bool
    ) -> tuple[LayerPrediction | None, Tensor, Tensor]:
        """Proposals of all tokens (None unless wanted), the best tokens [B, Q], their boxes."""
        anchors, usable = anchor_boxes(levels)
        usable_memory = memory.masked_fill(~usable[..., None], 0.0)
        candidates = self.proposal_norm(self.proposal_projection(usable_memory))
        scores = self.proposal_score(candidates).float()
        topk = top_rows(scores[..., 0].detach(), self.num_queries)
        if not every_box:
            best, placed = gather_rows(candidates, topk), gather_rows(anchors, topk)
            return None, topk, (self.proposal_box(best).float() + placed).sigmoid()
        boxes = (self.proposal_box(candidates).float() + anchors).sigmoid()
        start = gather_rows(boxes, topk).detach()
        return LayerPrediction(scores, boxes), topk, start

    def _queries(
        self, start: Tensor, noised: DenoisingQueries | None, pooled: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Content, references and attention mask in the order denoising, background, others."""
        batch, chosen = start.shape[:2]
        content = torch.cat([self.background_content.weight, self.query_content.weight[:chosen]])
        queries = content.expand(batch, -1, -1)
        background = self.background_references.weight.expand(batch, -1, -1)
        references = torch.cat([background.float(), start], dim=1)
        if noised is None:
            return queries, references, None
        filler = self.denoising_content(pooled) * noised.used[..., None]
        mask = group_attention_mask(noised.layout, references.shape[1], start.device)
        return (
            torch.cat([filler.to(queries.dtype), queries], dim=1),
            torch.cat([noised.references, references], dim=1),
            mask,
        )

    def _denoising_centres(self, decoded: DecodedThings, count: int, sizes: Tensor) -> list[Tensor]:
        """Where masks of denoising queries are centred, in pixels, or as published (see class)."""
        if not self.published_denoising_masks:
            return [one[:, :count, :2].detach() * sizes for one in decoded.references]
        first = count + self.num_background
        centres = [inverse_sigmoid(one[:, first:, :2].detach()) for one in decoded.references]
        if centres[0].shape[1] < count:
            raise ValueError(
                f"published_denoising_masks needs as many queries as denoising queries; there are "
                f"{centres[0].shape[1]} and {count}"
            )
        return [one[:, :count] for one in centres]

    def _predictions(
        self,
        decoded: DecodedThings,
        chosen: slice,
        centres: Sequence[Tensor],
        text: Tensor,
        mask_features: Tensor,
    ) -> LayerPredictions:
        """What every layer says of a run of n queries; `centres` [B, n, 2] is of these only."""

        def predict(layer: int) -> LayerPrediction:
            queries = decoded.queries[layer][:, chosen]
            return LayerPrediction(
                token_logits=self.class_heads[layer](queries, text),
                boxes=decoded.boxes[layer][:, chosen],
                iou_logits=self.iou_heads[layer](queries).float(),
                masks=partial(self._masks, mask_features, queries, centres[layer]),
            )

        return LayerPredictions(len(decoded.queries), predict)

    def _masks(
        self, features: Tensor, queries: Tensor, centres: Tensor, image: Tensor, query: Tensor
    ) -> Tensor:
        chosen = (image, query)
        return self.mask_head(features, queries[chosen], centres[chosen], image)
