"""Decoder of stuff: MaskDINO with text as the classifier (late fusion).

Image features are decoded without text; text is read by the class heads only. So everything but
the class logits can be computed before any text is known. With an early fusion of its own, an
ablation, the encoder reads text as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion, FusionConfig
from hipie.modeling.heads.class_head import TextClassHead
from hipie.modeling.heads.mask_embedding_head import MaskEmbeddingHead
from hipie.modeling.heads.mlp import MLP, TextProjection
from hipie.modeling.pixel_decoder.maskdino_pixel_decoder import MaskDINOPixelDecoder
from hipie.modeling.pixel_decoder.thing_encoder import apply_fusion, build_fusion
from hipie.modeling.transformer_decoder.denoising import (
    DenoisingConfig,
    DenoisingQueries,
    build_denoising_queries,
    center_size_noise,
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
from hipie.structures import DecoderOutput, FeatureLevels, LayerOutput, Targets, TextFeatures


class MaskDINODecoder(nn.Module):
    """Two-stage query selection and deformable decoder layers with one shared box head.

    Args:
        transformer: sizes.
        levels: number of feature levels.
    """

    def __init__(self, transformer: TransformerConfig, levels: int = 4) -> None:
        super().__init__()
        self.width = width = transformer.width
        self.num_queries = transformer.num_queries
        self.proposal_projection = nn.Linear(width, width)
        self.proposal_norm = nn.LayerNorm(width)
        self.class_features = nn.Linear(width, width)
        self.box_head = build_box_head(width)
        self.norm = nn.LayerNorm(width)
        self.reference_position = MLP(2 * width, width, width, 2)
        self.layers = nn.ModuleList(
            DecoderLayer(transformer, levels) for _ in range(transformer.decoder_layers)
        )

    def propose(self, levels: FeatureLevels) -> tuple[Tensor, Tensor, Tensor]:
        """Select the tokens with the largest `class_features` outputs; independent of text.

        Returns:
            Token of every query [B, Q], best first; its content [B, Q, width]; and its box
            [B, Q, 4] cxcywh before the sigmoid, +inf where the anchor is invalid.
        """
        anchors, valid = anchor_boxes(levels)
        memory = levels.tokens.masked_fill(~valid[..., None], 0.0)
        candidates = self.proposal_norm(self.proposal_projection(memory))
        scores = self.class_features(candidates).float().amax(-1)
        topk = topk_tokens(scores.detach(), self.num_queries)
        content = gather_tokens(candidates, topk)
        return topk, content, self.box_head(content).float() + gather_tokens(anchors, topk)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        levels: FeatureLevels,
        attention_mask: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run all layers.

        Args:
            queries: [B, N, width] content.
            references: [B, N, 4] cxcywh in 0..1 of the canvas.
            levels: the memory, coarse level first.
            attention_mask: [N, N] bool, True where a query (row) must not attend (column).

        Returns:
            Normalised queries [B, N, width] and boxes [B, N, 4], each before the first layer, then
            after every layer.
        """
        all_queries, all_boxes = [self.norm(queries)], [references]
        ratios = levels.valid_ratios.repeat(1, 1, 2)
        for layer in self.layers:
            detached = references.detach()
            on_canvas = detached[:, :, None] * ratios[:, None]
            position = self.reference_position(
                sine_box_embedding(on_canvas[:, :, 0], self.width // 2)
            )
            queries = layer(
                queries,
                position,
                on_canvas,
                levels.tokens,
                levels,
                padding_mask=None,
                attention_mask=attention_mask,
            )
            normalized = self.norm(queries)
            offset = self.box_head(normalized).float()
            all_queries.append(normalized)
            all_boxes.append((offset + inverse_sigmoid(references)).sigmoid())
            offset = self.box_head(queries).float()
            references = (offset + inverse_sigmoid(detached)).sigmoid()
        return all_queries, all_boxes


class StuffBranch(nn.Module):
    """MaskDINO's pixel decoder, decoder and mask dot product, with text class heads.

    Args:
        in_channels: channels of the backbone's feature maps, the finest first.
        text_width: channels of a token.
        transformer: sizes of encoder and decoder.
        denoising: denoising in training.
        finest_stride, num_levels, lateral: see `MaskDINOPixelDecoder`.
        fusion: of text and image before the encoder; None = late fusion.
        classifies_text: whether it has text class heads; without them its outputs have class
            embeddings and no logits, for a class head of the caller's.
        pixel_decoder: in place of one of the sizes above.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        text_width: int,
        transformer: TransformerConfig,
        denoising: DenoisingConfig,
        *,
        finest_stride: int = 8,
        num_levels: int | None = None,
        lateral: ShapeSpec | None = None,
        fusion: FusionConfig | None = None,
        classifies_text: bool = True,
        pixel_decoder: MaskDINOPixelDecoder | None = None,
    ) -> None:
        super().__init__()
        width = transformer.width
        self.denoising = denoising
        self.fusion: BidirectionalFusion | None = None
        self.pixel_decoder = pixel_decoder or MaskDINOPixelDecoder(
            in_channels,
            transformer,
            finest_stride=finest_stride,
            num_levels=num_levels,
            lateral=lateral,
        )
        self.decoder = MaskDINODecoder(transformer, len(self.pixel_decoder.projections.levels))
        self.mask_embedding = MLP(width, width, width, 3)
        self.mask_head = MaskEmbeddingHead()
        # One for each state of the queries: initial, after every layer but the last; proposals;
        # final.
        count = transformer.decoder_layers + 2 if classifies_text else 0
        self.class_heads = nn.ModuleList(TextClassHead(width, text_width) for _ in range(count))
        self.denoising_content = TextProjection(text_width, width)
        if fusion is not None:
            self.fusion = build_fusion(fusion, width, text_width, transformer.encoder_layers)

    def encode(
        self, features: Sequence[Tensor], text: TextFeatures | None = None
    ) -> tuple[FeatureLevels, Tensor, TextFeatures | None]:
        """Encode backbone features.

        Args:
            features: see `MaskDINOPixelDecoder.forward`.
            text: of the text encoder, one caption an image; read by the early fusion only.

        Returns:
            Levels and mask features of `MaskDINOPixelDecoder.forward`, and the text after the early
            fusion (unchanged without one).

        Raises:
            ValueError: if there is an early fusion and no text.
        """
        fusion, fused = self.fusion, text
        if fusion is None:
            return *self.pixel_decoder(features), text
        if text is None:
            raise ValueError("a stuff decoder with early fusion needs text")

        def fuse(tokens: Tensor) -> Tensor:
            nonlocal fused
            tokens, hidden = apply_fusion(fusion, tokens, text.hidden, text.mask)
            fused = text.with_hidden(hidden)
            return tokens

        levels, mask_features = self.pixel_decoder(features, fuse)
        return levels, mask_features, fused

    def decode(self, features: Sequence[Tensor]) -> DecoderOutput:
        """Compute the output of the last layer without class logits; independent of text.

        Args:
            features: see `MaskDINOPixelDecoder.forward`.
        """
        levels, mask_features, _ = self.encode(features)
        return self._decode_levels(levels, mask_features)

    def decode_with_text(
        self, features: Sequence[Tensor], text: TextFeatures
    ) -> tuple[DecoderOutput, TextFeatures]:
        """Compute the output of the last layer without class logits, after the early fusion.

        Args:
            features: see `MaskDINOPixelDecoder.forward`.
            text: of the text encoder, one caption an image.

        Returns:
            The output, and the fused text (unchanged without early fusion).
        """
        levels, mask_features, fused = self.encode(features, text)
        return self._decode_levels(levels, mask_features), fused or text

    def _decode_levels(self, levels: FeatureLevels, mask_features: Tensor) -> DecoderOutput:
        topk, content, box_logits = self.decoder.propose(levels)
        references = box_logits.detach().sigmoid()
        queries, boxes = self.decoder(content.detach(), references, levels, None)
        last = self._describe(len(queries) - 1, queries[-1], boxes[-1])
        return DecoderOutput(
            layers=(last,),
            mask_features=mask_features.unbind(0),
            references=references,
            proposal_index=topk,
        )

    def classify(self, output: DecoderOutput, class_text: Tensor) -> DecoderOutput:
        """Add the class logits to an output of `decode`.

        Args:
            output: of B images.
            class_text: [B, T, text_width] fused tokens, or [B, 1, text_width].
        """
        last = self._classify(output.layers[-1], self.class_heads[-1], class_text)
        return replace(output, layers=(*output.layers[:-1], last))

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        class_text: Tensor | None,
        pooled_text: Tensor | None,
        targets: Sequence[Targets] | None = None,
        max_objects: int | None = None,
        text: TextFeatures | None = None,
    ) -> DecoderOutput:
        """Predictions of the proposals and of every state of the queries, as training needs them.

        Args:
            features: see `MaskDINOPixelDecoder.forward`.
            class_text: [B, T, text_width] fused tokens, or [B, 1, text_width]; None = those of
                `text` after the early fusion.
            pooled_text: [B, 1, text_width], content of the denoising queries; None = likewise.
            targets: ground truth; None = no denoising.
            max_objects: see `build_denoising_queries`.
            text: see `encode`.
        """
        levels, mask_features, own_text = self.encode(features, text)
        if class_text is None or pooled_text is None:
            if own_text is None:
                raise ValueError("a stuff decoder needs text at its class heads")
            class_text, pooled_text = own_text.hidden, own_text.pooled()
        topk, content, box_logits = self.decoder.propose(levels)
        queries, references = content.detach(), box_logits.detach().sigmoid()
        noised = None if targets is None else self._noised(targets, max_objects)
        count, mask = 0, None
        if noised is not None:
            count = noised.layout.num_queries
            noised_content = self.denoising_content(pooled_text) * noised.is_used[..., None]
            queries = torch.cat([noised_content.to(queries.dtype), queries], dim=1)
            references = torch.cat([noised.references, references], dim=1)
            mask = denoising_attention_mask(noised.layout, topk.shape[1], references.device)
        states, boxes = self.decoder(queries, references, levels, mask)
        proposals = self._classify_state(
            self._embed(self.decoder.norm(content), torch.sigmoid(box_logits)), -2, class_text
        )
        return DecoderOutput(
            layers=self._predict(states, boxes, class_text, slice(count, None)),
            # One tensor an image: indexing the batch would cost a batch of zeros per gradient.
            mask_features=mask_features.unbind(0),
            references=references[:, count:],
            proposal_index=topk,
            proposals=proposals,
            denoising=self._predict(states, boxes, class_text, slice(0, count)) if noised else (),
            denoising_layout=noised.layout if noised else None,
        )

    def _noised(
        self, targets: Sequence[Targets], max_objects: int | None
    ) -> DenoisingQueries | None:
        official = self.denoising.official_frames
        boxes = [target.boxes if official else target.boxes_on_canvas() for target in targets]
        noise = center_size_noise(self.denoising.noise)
        return build_denoising_queries(
            targets,
            boxes,
            self.denoising.num_queries,
            noise,
            negatives=False,
            max_objects=max_objects,
        )

    def _predict(
        self, queries: Sequence[Tensor], boxes: Sequence[Tensor], text: Tensor, query_slice: slice
    ) -> tuple[LayerOutput, ...]:
        last = len(queries) - 1
        outputs = []
        for state in range(len(queries)):
            output = self._describe(
                state, queries[state][:, query_slice], boxes[state][:, query_slice]
            )
            outputs.append(self._classify_state(output, -1 if state == last else state, text))
        return tuple(outputs)

    def _classify_state(self, output: LayerOutput, head: int, text: Tensor) -> LayerOutput:
        """Add the logits of the class head of an index, if there are class heads."""
        if not len(self.class_heads):
            return output
        return self._classify(output, self.class_heads[head], text)

    def _describe(self, state: int, queries: Tensor, boxes: Tensor) -> LayerOutput:
        # After a layer the queries are normalised once more: the published head does it twice.
        return self._embed(self.decoder.norm(queries) if state else queries, boxes)

    def _embed(self, queries: Tensor, boxes: Tensor) -> LayerOutput:
        return LayerOutput(
            boxes=boxes,
            class_embeddings=self.decoder.class_features(queries),
            mask_embeddings=self.mask_embedding(queries),
        )

    @staticmethod
    def _classify(output: LayerOutput, class_head: nn.Module, text: Tensor) -> LayerOutput:
        if output.class_embeddings is None:
            raise ValueError("class logits need the class embeddings of a layer")
        return replace(output, logits=class_head(output.class_embeddings, text))
