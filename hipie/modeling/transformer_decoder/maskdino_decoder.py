"""The decoder of stuff: queries from the memory itself, one box head for all (MaskDINO)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hipie.modeling.heads.mlp import MLP
from hipie.modeling.pixel_decoder.multi_scale_features import Levels
from hipie.modeling.transformer_decoder.layers import DecoderLayer
from hipie.modeling.transformer_decoder.position_encoding import sine_box_embedding
from hipie.modeling.transformer_decoder.proposals import anchor_boxes, gather_rows
from hipie.modeling.transformer_decoder.reference_points import inverse_sigmoid
from hipie.modeling.transformer_decoder.thing_decoder import box_head, top_rows


@dataclass
class StuffProposals:
    """The tokens that became queries, best first.

    Attributes:
        topk: [B, Q] token of every query.
        content: [B, Q, width].
        box_logits: [B, Q, 4], +inf for anchors that may not propose.
        scores: [B, S] what tokens were chosen by.
    """

    topk: Tensor
    content: Tensor
    box_logits: Tensor
    scores: Tensor


@dataclass
class DecodedStuff:
    """One entry a state: before the first layer, then after every layer.

    Attributes:
        queries: [B, N, width] each, normed.
        boxes: [B, N, 4] each.
    """

    queries: list[Tensor]
    boxes: list[Tensor]


class StuffDecoder(nn.Module):
    """Two-stage selection and deformable decoder layers.

    Args:
        width, num_layers, num_heads, num_points, ffn_width, num_levels: of the transformer.
        num_queries: how many tokens become queries.
    """

    def __init__(
        self,
        width: int,
        num_queries: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
        ffn_width: int,
        num_levels: int = 4,
    ) -> None:
        super().__init__()
        self.width, self.num_queries = width, num_queries
        self.proposal_projection = nn.Linear(width, width)
        self.proposal_norm = nn.LayerNorm(width)
        self.class_features = nn.Linear(width, width)
        self.box_head = box_head(width)
        self.norm = nn.LayerNorm(width)
        self.reference_position = MLP(2 * width, width, width, 2)
        self.layers = nn.ModuleList(
            DecoderLayer(width, num_heads, num_levels, num_points, ffn_width)
            for _ in range(num_layers)
        )

    def propose(self, levels: Levels) -> StuffProposals:
        """Choose the tokens with the largest of their `class_features` outputs; no word asked."""
        anchors, usable = anchor_boxes(levels)
        memory = levels.tokens.masked_fill(~usable[..., None], 0.0)
        candidates = self.proposal_norm(self.proposal_projection(memory))
        scores = self.class_features(candidates).float().amax(-1)
        topk = top_rows(scores.detach(), self.num_queries)
        content = gather_rows(candidates, topk)
        box_logits = self.box_head(content).float() + gather_rows(anchors, topk)
        return StuffProposals(topk, content, box_logits, scores)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        levels: Levels,
        attention_mask: Tensor | None,
    ) -> DecodedStuff:
        """Run all layers.

        Args:
            queries: [B, N, width] content.
            references: [B, N, 4] cxcywh in 0..1 of the canvas.
            levels: the memory, coarse level first.
            attention_mask: [N, N] bool, True where a query must not look.
        """
        out = DecodedStuff([self.norm(queries)], [references])
        ratios = levels.ratios.repeat(1, 1, 2)
        for layer in self.layers:
            entering = references.detach()
            on_canvas = entering[:, :, None] * ratios[:, None]
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
            normed = self.norm(queries)
            step = self.box_head(normed).float()
            out.queries.append(normed)
            out.boxes.append((step + inverse_sigmoid(references)).sigmoid())
            running = self.box_head(queries).float() + inverse_sigmoid(entering)
            references = running.sigmoid()
        return out


def initial_references(proposals: StuffProposals) -> Tensor:
    """[B, Q, 4] boxes of the proposals, without gradient."""
    return torch.sigmoid(proposals.box_logits.detach())
