"""The decoder of things: queries refine boxes layer by layer (DINO)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hipie.modeling.heads.mlp import MLP
from hipie.modeling.pixel_decoder.multi_scale_features import Levels
from hipie.modeling.transformer_decoder.layers import DecoderLayer
from hipie.modeling.transformer_decoder.position_encoding import sine_box_embedding
from hipie.modeling.transformer_decoder.reference_points import inverse_sigmoid


@dataclass
class DecodedThings:
    """What the decoder leaves, one entry a layer.

    Attributes:
        queries: [B, N, width] each.
        references: [B, N, 4] each: the box that entered the layer.
        boxes: [B, N, 4] each: the box that left it, gradients reaching back one layer more.
    """

    queries: list[Tensor]
    references: list[Tensor]
    boxes: list[Tensor]


class ThingDecoder(nn.Module):
    """Deformable decoder layers with a box head each and references that follow them."""

    def __init__(
        self, width: int, num_layers: int, heads: int, points: int, ffn_width: int, levels: int = 4
    ) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, levels, points, ffn_width) for _ in range(num_layers)
        )
        self.box_heads = nn.ModuleList(box_head(width) for _ in range(num_layers))
        self.reference_position = MLP(2 * width, width, width, 2)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: Levels,
        attention_mask: Tensor | None,
    ) -> DecodedThings:
        """Run all layers.

        Args:
            queries: [B, N, width] content.
            references: [B, N, 4] cxcywh; background queries may lie outside 0..1.
            memory: [B, S, width].
            levels: of the memory.
            attention_mask: [N, N] bool, True where a query must not look.
        """
        out = DecodedThings([], [], [])
        ratios = levels.ratios.repeat(1, 1, 2)
        entering = references
        for layer, box_head_ in zip(self.layers, self.box_heads, strict=True):
            on_canvas = entering[:, :, None] * ratios[:, None]
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
            step = box_head_(queries).float()
            out.queries.append(queries)
            out.references.append(references)
            out.boxes.append((step + inverse_sigmoid(references)).sigmoid())
            references = (step + inverse_sigmoid(entering)).sigmoid()
            entering = references.detach()
        return out


def box_head(width: int) -> MLP:
    """Three layers to a box step in logits; at first the step is zero."""
    head = MLP(width, width, 4, 3)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head


def top_rows(scores: Tensor, count: int) -> Tensor:
    """[B, S] scores -> [B, count] indices by falling score."""
    return torch.topk(scores, min(count, scores.shape[1]), dim=1)[1]
