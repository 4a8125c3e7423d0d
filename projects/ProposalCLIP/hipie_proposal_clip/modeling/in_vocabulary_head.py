"""Class embeddings of trained queries, compared with CLIP's text features."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from hipie.modeling.heads.mlp import MLP
from hipie.structures import DecoderOutput, LayerOutput
from hipie_proposal_clip.modeling.mask_pooling import mask_pooling

INITIAL_SCALE = 1 / 0.07
MAX_SCALE = 100.0


class InVocabularyHead(nn.Module):
    """FC-CLIP's in-vocabulary classifier: query and pooled mask features to CLIP's space.

    The mask features of the pixel decoder, averaged inside the query's mask, are normed, projected
    and added to the query; an MLP maps the sum to an embedding. The scale of the cosines with text
    is learned, and there is a learned embedding of no object (section 3.3 of the paper and its
    code).

    Args:
        width: channels of queries and mask features.
        embedding_dim: D of CLIP.
    """

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.width = width
        self.pool_norm = nn.LayerNorm(width)
        self.pool_projection = nn.Linear(width, width)
        self.class_embedding = MLP(width, width, embedding_dim, 3)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.void_embedding = nn.Parameter(torch.randn(1, embedding_dim))

    @property
    def scale(self) -> Tensor:
        """Factor of the cosines, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    def forward(self, queries: Tensor, mask_features: Tensor, mask_logits: Tensor) -> Tensor:
        """Compute embeddings.

        Args:
            queries: [B, Q, width].
            mask_features: [B, width, h, w].
            mask_logits: [B, Q, h, w].

        Returns:
            [B, Q, D], not normalised.
        """
        pooled = self.pool_projection(self.pool_norm(mask_pooling(mask_features, mask_logits)))
        embedding: Tensor = self.class_embedding(pooled + queries)
        return embedding

    def embed_layer(self, layer: LayerOutput, mask_features: Tensor) -> Tensor:
        """[B, Q, D] embeddings of the queries of a layer and mask features [B, width, h, w]."""
        if layer.class_embeddings is None or layer.mask_embeddings is None:
            raise ValueError("the in-vocabulary head needs class and mask embeddings of a layer")
        return self(layer.class_embeddings, mask_features, layer_masks(layer, mask_features))

    def embed(self, output: DecoderOutput) -> DecoderOutput:
        """Replace the class embeddings of all layers of an output by embeddings [B, Q, D]."""
        mask_features = torch.stack(output.mask_features)

        def embedded(layer: LayerOutput) -> LayerOutput:
            return replace(layer, class_embeddings=self.embed_layer(layer, mask_features))

        return replace(
            output,
            layers=tuple(embedded(layer) for layer in output.layers),
            proposals=output.proposals and embedded(output.proposals),
            denoising=tuple(embedded(layer) for layer in output.denoising),
        )


def layer_masks(layer: LayerOutput, mask_features: Tensor) -> Tensor:
    """Mask logits [B, Q, h, w] of a layer and mask features [B, C, h, w]."""
    if layer.mask_embeddings is None:
        raise ValueError("masks need the mask embeddings of a layer")
    masks = layer.mask_embeddings @ mask_features.flatten(2).to(layer.mask_embeddings.dtype)
    return masks.unflatten(2, mask_features.shape[-2:])
