"""The late way: stuff is decoded without words, which meet it only at the class heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.criterion.predictions import DenoisingLayout, LayerPrediction, LayerPredictions
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.heads.class_head import TextClassHead
from hipie.modeling.heads.mlp import MLP
from hipie.modeling.heads.text_projection import TextResizer
from hipie.modeling.pixel_decoder.maskdino_pixel_decoder import StuffPixelDecoder
from hipie.modeling.transformer_decoder.denoising import (
    denoising_queries,
    group_attention_mask,
    jitter,
)
from hipie.modeling.transformer_decoder.maskdino_decoder import (
    DecodedStuff,
    StuffDecoder,
    initial_references,
)


@dataclass
class StuffOutput:
    """What the stuff branch says of B images.

    Attributes:
        layers: predictions before the first decoder layer, then after every layer, each made
            when it is asked for.
        proposals: of the selected queries, from the two-stage head.
        references: [B, Q, 4] the boxes that the decoder starts from.
        topk: [B, Q] the token of every query, counted from the coarsest level.
        denoising: like `layers`, for the denoising queries, or None.
        denoising_layout: where they stand, or None.
        mask_features: [B, C, H/4, W/4].
    """

    layers: Sequence[LayerPrediction]
    proposals: LayerPrediction
    references: Tensor
    topk: Tensor
    denoising: Sequence[LayerPrediction] | None
    denoising_layout: DenoisingLayout | None
    mask_features: Tensor


class StuffBranch(nn.Module):
    """MaskDINO's pixel decoder, decoder and mask dot product, with words as classifier.

    Args:
        in_channels: channels of res3, res4, res5.
        width: channels everywhere inside.
        text_width: channels of a token.
        num_queries: of the decoder.
        encoder_layers, decoder_layers, num_heads, num_points, ffn_width: of the transformers.
        denoising_queries: about how many noised copies in training; 0 for none.
        denoising_noise: how far these move, relative to the object.
        published_frame: noise the boxes of the unpadded image, as the published training does,
            although the branch counts in the padded canvas.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        width: int = 256,
        text_width: int = 768,
        num_queries: int = 300,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_width: int = 2048,
        denoising_queries: int = 100,
        denoising_noise: float = 0.4,
        published_frame: bool = False,
    ) -> None:
        super().__init__()
        self.denoising_budget = denoising_queries
        self.denoising_noise = denoising_noise
        self.published_frame = published_frame
        self.pixel_decoder = StuffPixelDecoder(
            in_channels, width, encoder_layers, num_heads, num_points, ffn_width
        )
        self.decoder = StuffDecoder(
            width,
            num_queries,
            decoder_layers,
            num_heads,
            num_points,
            ffn_width,
            len(in_channels) + 1,
        )
        self.mask_embedding = MLP(width, width, width, 3)
        # One a state of the queries: initial, after every layer but the last; proposals; final.
        self.class_heads = nn.ModuleList(
            TextClassHead(width, text_width) for _ in range(decoder_layers + 2)
        )
        self.denoising_content = TextResizer(text_width, width)

    def forward(
        self,
        features: Sequence[Tensor],
        *,
        text_for_classes: Tensor,
        pooled_text: Tensor,
        targets: Sequence[Targets] | None = None,
    ) -> StuffOutput:
        """Decode.

        Args:
            features: res3, res4, res5: [B, C_i, h_i, w_i].
            text_for_classes: [B, T, text_width] fused tokens, or [B, 1, text_width].
            pooled_text: [B, 1, text_width], what denoising queries are filled with.
            targets: the objects, in training; None leaves denoising out.
        """
        pyramid = self.pixel_decoder(features)
        proposals = self.decoder.propose(pyramid.levels)
        queries, references = proposals.content.detach(), initial_references(proposals)
        noised, mask, count = None, None, 0
        if targets is not None:
            boxes = [
                one.boxes if self.published_frame else one.boxes_on_canvas() for one in targets
            ]
            move = jitter(self.denoising_noise)
            noised = denoising_queries(targets, boxes, self.denoising_budget, move, negatives=False)
        if noised is not None:
            count = noised.layout.num_queries
            filler = self.denoising_content(pooled_text) * noised.used[..., None]
            queries = torch.cat([filler.to(queries.dtype), queries], dim=1)
            references = torch.cat([noised.references, references], dim=1)
            mask = group_attention_mask(noised.layout, proposals.topk.shape[1], references.device)
        decoded = self.decoder(queries, references, pyramid.levels, mask)
        # One tensor an image: indexing the batch would cost a batch of zeros a gradient.
        features_of_masks = pyramid.mask_features.unbind(0)
        view = (decoded, text_for_classes, features_of_masks)
        return StuffOutput(
            layers=self._predictions(*view, slice(count, None)),
            proposals=self._predict(
                self.decoder.norm(proposals.content),
                torch.sigmoid(proposals.box_logits),
                self.class_heads[-2],
                text_for_classes,
                features_of_masks,
            ),
            references=references[:, count:],
            topk=proposals.topk,
            denoising=self._predictions(*view, slice(0, count)) if noised else None,
            denoising_layout=noised.layout if noised else None,
            mask_features=pyramid.mask_features,
        )

    def _predictions(
        self, decoded: DecodedStuff, text: Tensor, mask_features: Sequence[Tensor], chosen: slice
    ) -> LayerPredictions:
        last = len(decoded.queries) - 1

        def predict(state: int) -> LayerPrediction:
            queries = decoded.queries[state][:, chosen]
            # Once more a norm after a layer: the published head does it twice.
            normed = self.decoder.norm(queries) if state else queries
            head = self.class_heads[-1] if state == last else self.class_heads[state]
            return self._predict(normed, decoded.boxes[state][:, chosen], head, text, mask_features)

        return LayerPredictions(last + 1, predict)

    def _predict(
        self,
        queries: Tensor,
        boxes: Tensor,
        class_head: TextClassHead,
        text: Tensor,
        mask_features: Sequence[Tensor],
    ) -> LayerPrediction:
        """Heads on normed queries [B, N, width]; mask features [width, h, w] an image."""
        embeddings = self.mask_embedding(queries)

        def masks(image: Tensor, query: Tensor) -> Tensor:
            order = image.argsort(stable=True)
            counts = torch.bincount(image, minlength=len(mask_features)).tolist()
            shares = embeddings[image[order], query[order]].split(counts)
            drawn = [
                torch.einsum("nc,chw->nhw", share, features.to(share.dtype))
                for share, features in zip(shares, mask_features, strict=True)
            ]
            return torch.cat(drawn)[order.argsort()]

        def point_masks(image: int, points: Tensor) -> Tensor:
            features = mask_features[image].float()
            # Half precision would move the points by parts of a pixel.
            with torch.autocast(features.device.type, enabled=False):
                grid = (2 * points.float() - 1)[None, None]
                sampled = F.grid_sample(features[None], grid, align_corners=False)
                return embeddings[image].float() @ sampled[0, :, 0]

        return LayerPrediction(
            token_logits=class_head(self.decoder.class_features(queries), text),
            boxes=boxes,
            masks=masks,
            point_masks=point_masks,
        )
