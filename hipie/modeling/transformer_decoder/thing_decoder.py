"""Decoder of things: two-stage Deformable DETR with denoising and dynamic masks (DINO)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hipie.modeling.device_transfer import to_device
from hipie.modeling.fusion.bidirectional_attention import FusionConfig
from hipie.modeling.heads.class_head import TextClassHead
from hipie.modeling.heads.dynamic_mask_head import (
    MASK_STRIDE,
    DynamicMaskHead,
    MaskFeatures,
    aligned_upsample,
)
from hipie.modeling.heads.mask_embedding_head import MaskEmbeddingHead
from hipie.modeling.heads.mlp import MLP, TextProjection
from hipie.modeling.pixel_decoder.multi_scale_features import level_strides
from hipie.modeling.pixel_decoder.thing_encoder import ThingEncoder
from hipie.modeling.transformer_decoder.denoising import (
    DenoisingConfig,
    DenoisingQueries,
    build_denoising_queries,
    corner_noise,
    denoising_attention_mask,
)
from hipie.modeling.transformer_decoder.layers import DecoderLayer, TransformerConfig
from hipie.modeling.transformer_decoder.position_encoding import sine_box_embedding
from hipie.modeling.transformer_decoder.proposals import (
    anchor_boxes,
    build_box_head,
    gather_tokens,
    inverse_sigmoid,
    topk_tokens,
)
from hipie.structures import DecoderOutput, FeatureLevels, LayerOutput, Size, Targets

PRIOR_PROBABILITY = 0.01
# Levels of the mask features, and the finest stride of the first one: masks are computed at half of
# it, and finer ones would be of no use.
MASK_LEVELS = 3
MIN_MASK_STRIDE = 8


class ThingDecoder(nn.Module):
    """Deformable decoder layers with iterative box refinement, one box head a layer.

    Args:
        transformer: sizes.
        levels: number of feature levels.
    """

    def __init__(self, transformer: TransformerConfig, levels: int = 4) -> None:
        super().__init__()
        self.width = width = transformer.width
        self.layers = nn.ModuleList(
            DecoderLayer(transformer, levels) for _ in range(transformer.decoder_layers)
        )
        self.box_heads = nn.ModuleList(build_box_head(width) for _ in self.layers)
        self.reference_position = MLP(2 * width, width, width, 2)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        attention_mask: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Run all layers.

        Args:
            queries: [B, N, width] content.
            references: [B, N, 4] cxcywh; background queries may be outside 0..1.
            memory: [B, S, width].
            levels: of the memory.
            attention_mask: [N, N] bool, True where a query (row) must not attend (column).

        Returns:
            One entry a layer of each: queries [B, N, width], the references [B, N, 4] that entered
            the layer, and the boxes [B, N, 4] that left it, whose gradient reaches one layer
            further back (DINO's "look forward twice").
        """
        all_queries, all_references, all_boxes = [], [], []
        ratios = levels.valid_ratios.repeat(1, 1, 2)
        detached = references
        for layer, box_head in zip(self.layers, self.box_heads, strict=True):
            on_canvas = detached[:, :, None] * ratios[:, None]
            position = self.reference_position(
                sine_box_embedding(on_canvas[:, :, 0], self.width // 2)
            )
            queries = layer(
                queries,
                position,
                on_canvas,
                memory,
                levels,
                padding_mask=levels.padding_mask,
                attention_mask=attention_mask,
            )
            offset = box_head(queries).float()
            all_queries.append(queries)
            all_references.append(references)
            all_boxes.append((offset + inverse_sigmoid(references)).sigmoid())
            references = (offset + inverse_sigmoid(detached)).sigmoid()
            detached = references.detach()
        return all_queries, all_references, all_boxes


class ThingBranch(ThingEncoder):
    """Early-fusion encoder and two-stage decoder of things.

    The N queries are, in order, denoising queries (in training), background queries, and matching
    queries. Background queries take part in attention only.

    Args:
        in_channels: channels of the backbone's feature maps, the finest first.
        text_width: channels of a token.
        transformer: sizes of encoder and decoder.
        fusion: sizes of the bi-directional attention; None = no early fusion.
        denoising: denoising in training.
        num_background_queries: learned queries with learned references.
        mask_channels: channels of the mask features.
        strides: of the feature maps. Mask features come from the finest level of at least stride 8
            and the two levels after it, as far as there are.
        num_levels: levels of the encoder; None = one more than there are feature maps.
        dot_product_masks: whether masks are dot products of mask embeddings with mask features at
            stride 4, instead of dynamic convolutions.
        predicts_iou: whether there are IoU heads.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        text_width: int,
        transformer: TransformerConfig,
        fusion: FusionConfig | None,
        denoising: DenoisingConfig,
        *,
        num_background_queries: int = 10,
        mask_channels: int = 8,
        strides: Sequence[int] = (8, 16, 32),
        num_levels: int | None = None,
        dot_product_masks: bool = False,
        predicts_iou: bool = True,
    ) -> None:
        super().__init__(in_channels, text_width, transformer, fusion, num_levels)
        width, num_layers = transformer.width, transformer.decoder_layers
        self.num_queries = transformer.num_queries
        self.num_background = num_background_queries
        self.denoising = denoising
        self.proposal_projection = nn.Linear(width, width)
        self.proposal_norm = nn.LayerNorm(width)
        self.proposal_score = nn.Linear(width, 1)
        self.proposal_box = build_box_head(width)
        self.query_content = nn.Embedding(self.num_queries, width)
        self.background_content = nn.Embedding(num_background_queries, width)
        self.background_references = nn.Embedding(num_background_queries, 4)
        all_strides = level_strides(strides, num_levels)
        self.decoder = ThingDecoder(transformer, len(all_strides))
        self.class_heads = nn.ModuleList(
            TextClassHead(width, text_width) for _ in range(num_layers)
        )
        self.iou_heads = nn.ModuleList(
            nn.Linear(width, 1) for _ in range(num_layers if predicts_iou else 0)
        )
        first = next(i for i, stride in enumerate(all_strides) if stride >= MIN_MASK_STRIDE)
        self.mask_levels = slice(first, first + MASK_LEVELS)
        num_mask_levels = len(all_strides[self.mask_levels])
        self.mask_head: DynamicMaskHead | MaskEmbeddingHead
        self.mask_embedding: MLP | None = None
        if dot_product_masks:
            self.mask_features = MaskFeatures(width, width, num_mask_levels)
            self.mask_embedding = MLP(width, width, width, 3)
            self.mask_head = MaskEmbeddingHead()
            self.mask_upsampling = all_strides[first] // MASK_STRIDE
        else:
            self.mask_features = MaskFeatures(width, mask_channels, num_mask_levels)
            self.mask_head = DynamicMaskHead(width, mask_channels, stride=all_strides[first])
        self.denoising_content = TextProjection(text_width, width)
        bias = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        for head in (self.proposal_score, *self.iou_heads):
            nn.init.constant_(head.bias, bias)

    def forward(
        self,
        levels: FeatureLevels,
        image_sizes: Sequence[Size] | Tensor,
        *,
        class_text: Tensor,
        pooled_text: Tensor,
        targets: Sequence[Targets] | None = None,
        max_objects: int | None = None,
        all_layers: bool | None = None,
    ) -> tuple[DecoderOutput, Tensor]:
        """Encode, propose and decode.

        Args:
            levels: of `fuse`.
            image_sizes: (height, width) of the B unpadded images in pixels; or [B, 2], where they
                are not known before the computation runs.
            class_text: [B, T, text_width] the fused tokens, or [B, 1, text_width] one pooled
                expression.
            pooled_text: [B, 1, text_width] unfused, content of the denoising queries.
            targets: ground truth in training; None = no denoising and no proposals.
            max_objects: see `build_denoising_queries`.
            all_layers: predictions of all layers instead of the last; by default in training.

        Returns:
            The predictions, without background queries, and the encoder memory [B, S, width].
        """
        training = targets is not None
        memory = self.encode(levels)
        proposals, topk, start = self._propose(memory, levels, all_boxes=training)
        noised = None
        if targets is not None:
            boxes = [target.boxes for target in targets]
            noised = build_denoising_queries(
                targets,
                boxes,
                self.denoising.num_queries,
                corner_noise,
                negatives=True,
                max_objects=max_objects,
                max_queries=start.shape[1] if self.denoising.official_frames else None,
            )
        decoded = self.decoder(*self._initial_queries(start, noised, pooled_text, memory, levels))
        count = noised.layout.num_queries if noised else 0
        matching = slice(count + self.num_background, None)
        if isinstance(image_sizes, Tensor):
            sizes = image_sizes.flip(1)[:, None].to(start)
        else:
            sizes = to_device(
                torch.tensor([[(w, h)] for h, w in image_sizes], dtype=start.dtype), start.device
            )
        queries, references, layer_boxes = decoded
        num_layers = len(queries)
        first = 0 if (training if all_layers is None else all_layers) else num_layers - 1

        def predict(query_slice: slice, centers: Sequence[Tensor]) -> tuple[LayerOutput, ...]:
            return tuple(
                self._predict(
                    layer,
                    queries[layer][:, query_slice],
                    layer_boxes[layer][:, query_slice],
                    centers[layer],
                    class_text,
                )
                for layer in range(first, num_layers)
            )

        centers = [reference[:, matching, :2].detach() * sizes for reference in references]
        denoising: tuple[LayerOutput, ...] = ()
        if noised:
            denoising_centers = self._denoising_centers(references, count, sizes)
            denoising = predict(slice(0, count), denoising_centers)
        output = DecoderOutput(
            layers=predict(matching, centers),
            mask_features=self._mask_features(memory, levels).unbind(0),
            references=references[0][:, matching],
            proposal_index=topk,
            proposals=proposals,
            denoising=denoising,
            denoising_layout=noised.layout if noised else None,
        )
        return output, memory

    def _mask_features(self, memory: Tensor, levels: FeatureLevels) -> Tensor:
        maps = levels.with_tokens(memory).to_maps()
        features: Tensor = self.mask_features(maps[self.mask_levels])
        if self.mask_embedding is not None:
            # Dot products are linear: this upsamples the masks.
            return aligned_upsample(features, self.mask_upsampling)
        return features

    def _propose(
        self, memory: Tensor, levels: FeatureLevels, *, all_boxes: bool
    ) -> tuple[LayerOutput | None, Tensor, Tensor]:
        """Select the best tokens.

        Returns:
            Proposals of all tokens (None unless `all_boxes`), the best tokens [B, Q] and their
            boxes [B, Q, 4].
        """
        anchors, valid = anchor_boxes(levels)
        valid_memory = memory.masked_fill(~valid[..., None], 0.0)
        candidates = self.proposal_norm(self.proposal_projection(valid_memory))
        scores = self.proposal_score(candidates).float()
        topk = topk_tokens(scores[..., 0].detach(), self.num_queries)
        if not all_boxes:
            best, best_anchors = gather_tokens(candidates, topk), gather_tokens(anchors, topk)
            return None, topk, (self.proposal_box(best).float() + best_anchors).sigmoid()
        boxes = (self.proposal_box(candidates).float() + anchors).sigmoid()
        start = gather_tokens(boxes, topk).detach()
        return LayerOutput(boxes=boxes, logits=scores), topk, start

    def _initial_queries(
        self,
        start: Tensor,
        noised: DenoisingQueries | None,
        pooled_text: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
    ) -> tuple[Tensor, Tensor, Tensor, FeatureLevels, Tensor | None]:
        """Arguments of the decoder: content, references, memory, levels and attention mask."""
        batch, num_matching = start.shape[:2]
        content = torch.cat(
            [self.background_content.weight, self.query_content.weight[:num_matching]]
        )
        queries = content.expand(batch, -1, -1)
        background = self.background_references.weight.expand(batch, -1, -1)
        references = torch.cat([background.float(), start], dim=1)
        if noised is None:
            return queries, references, memory, levels, None
        noised_content = self.denoising_content(pooled_text) * noised.is_used[..., None]
        mask = denoising_attention_mask(noised.layout, references.shape[1], start.device)
        return (
            torch.cat([noised_content.to(queries.dtype), queries], dim=1),
            torch.cat([noised.references, references], dim=1),
            memory,
            levels,
            mask,
        )

    def _denoising_centers(
        self, references: Sequence[Tensor], count: int, sizes: Tensor
    ) -> list[Tensor]:
        """Mask centres of the denoising queries in pixels, [B, count, 2] a layer.

        See `DenoisingConfig.official_frames`.
        """
        if not self.denoising.official_frames:
            return [reference[:, :count, :2].detach() * sizes for reference in references]
        first = count + self.num_background
        queries = slice(first, first + count)
        return [inverse_sigmoid(reference[:, queries, :2].detach()) for reference in references]

    def _predict(
        self, layer: int, queries: Tensor, boxes: Tensor, centers: Tensor, text: Tensor
    ) -> LayerOutput:
        return LayerOutput(
            boxes=boxes,
            logits=self.class_heads[layer](queries, text),
            mask_embeddings=queries
            if self.mask_embedding is None
            else self.mask_embedding(queries),
            mask_centers=centers,
            iou_logits=self.iou_heads[layer](queries).float() if len(self.iou_heads) else None,
        )
