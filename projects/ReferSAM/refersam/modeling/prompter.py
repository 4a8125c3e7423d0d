"""Prompter: tokens that query maps and text and become SAM's mask and sparse prompts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refersam.feature_capture import FeatureCapture
from refersam.modeling.attention import Attention, FeedForward, LevelAttention, layer_norm
from refersam.modeling.interactor import InteractorOutput
from refersam.modeling.multi_scale_geometry import MultiScaleGeometry, level_positions
from refersam.modeling.sam import PROMPT_WIDTH
from refersam.modeling.spatial_prior import STEM_WIDTH, global_norm, tokens_to_map

NUM_HEADS = 8
NUM_BLOCKS = 2
FFN_RATIO = 4
WIDTH = PROMPT_WIDTH


class Projections(nn.Module):
    """Projections of the text, the three maps and the map at stride 4 to 256 channels.

    Args:
        vision_width: D, channels of the maps.
        text_width: C, channels of a text token.
    """

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.text = nn.Sequential(
            nn.Linear(text_width, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), layer_norm(WIDTH)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(vision_width, WIDTH), layer_norm(WIDTH)) for _ in range(3)
        )
        self.fine = nn.Conv2d(STEM_WIDTH, WIDTH, 1, bias=False)
        self.fine_norm = global_norm(WIDTH)
        self.out = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            global_norm(WIDTH),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
        )

    def project_maps(self, output: InteractorOutput) -> list[Tensor]:
        """Project the tokens of each level: [B, S_l, 256] each."""
        lengths = [height * width for height, width in output.sizes]
        by_level = output.maps.split(lengths, dim=1)
        return [layer(tokens) for layer, tokens in zip(self.levels, by_level, strict=True)]

    def mask_feature(self, fine: Tensor, stride_8: Tensor, image_of: Tensor | None) -> Tensor:
        """Maps [N, 64, H/4, W/4] and [B, 256, H/8, W/8] -> [B, 256, H/4, W/4]."""
        projected = self.fine_norm(self.fine(fine))
        if image_of is not None:
            projected = projected[image_of]
        return self.out(projected + F.interpolate(stride_8, scale_factor=2, mode="bilinear"))


class PromptBlock(nn.Module):
    """Self-attention and cross-attention of prompt tokens to maps and text, with post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attention = Attention(WIDTH, WIDTH, WIDTH, NUM_HEADS)
        self.to_vision = LevelAttention(WIDTH, WIDTH, WIDTH, NUM_HEADS)
        self.to_text = Attention(WIDTH, WIDTH, WIDTH, NUM_HEADS)
        self.mlp = FeedForward(WIDTH, FFN_RATIO * WIDTH)
        self.norm_self, self.norm_vision = layer_norm(WIDTH), layer_norm(WIDTH)
        self.norm_text, self.norm_mlp = layer_norm(WIDTH), layer_norm(WIDTH)

    def forward(
        self,
        tokens: Tensor,
        token_positions: Tensor,
        maps: Tensor,
        map_positions: Tensor,
        lengths: list[int],
        text: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """Update prompt tokens.

        Args:
            tokens: [B, N, 256] prompt tokens.
            token_positions: [N, 256].
            maps: [B, S, 256], the concatenated levels.
            map_positions: [1, S, 256].
            lengths: number of tokens of every level.
            text: [B, T, 256].
            text_mask: [B, T] bool.

        Returns:
            [B, N, 256].
        """
        queries = tokens + token_positions
        tokens = self.norm_self(tokens + self.self_attention(queries, queries, tokens))
        attended = self.to_vision(tokens + token_positions, maps + map_positions, maps, lengths)
        tokens = self.norm_vision(tokens + attended)
        attended = self.to_text(tokens + token_positions, text, text, text_mask)
        tokens = self.norm_text(tokens + attended)
        return self.norm_mlp(tokens + self.mlp(tokens))


class Prompter(nn.Module):
    """A dense token, initialised with the expression's summary token, and learned sparse tokens.

    Args:
        sparse_tokens: number of sparse tokens.
    """

    def __init__(self, sparse_tokens: int = 4) -> None:
        super().__init__()
        self.sparse = nn.Embedding(sparse_tokens, WIDTH)
        self.position = nn.Embedding(sparse_tokens + 1, WIDTH)
        self.level_embedding = nn.Parameter(torch.randn(3, WIDTH))
        self.blocks = nn.ModuleList(PromptBlock() for _ in range(NUM_BLOCKS))

    def forward(
        self,
        levels: list[Tensor],
        geometry: MultiScaleGeometry,
        text: Tensor,
        text_mask: Tensor,
        summary_index: Tensor,
        capture: FeatureCapture,
    ) -> tuple[Tensor, Tensor]:
        """Compute the prompt tokens.

        Args:
            levels: [B, S_l, 256] tokens of each map.
            geometry: geometry of the maps.
            text: [B, T, 256].
            text_mask: [B, T] bool.
            summary_index: [B] index of the token that summarises the expression.
            capture: records features by name.

        Returns:
            The dense token [B, 1, 256], and the sparse tokens [B, N, 256].
        """
        batch = torch.arange(len(text), device=text.device)
        dense = text[batch, summary_index][:, None].detach()
        sparse = self.sparse.weight.to(dense.dtype).expand(len(text), -1, -1)
        tokens = torch.cat([dense, sparse], dim=1)
        positions = level_positions(geometry, self.level_embedding)
        maps = torch.cat(levels, dim=1)
        for index, block in enumerate(self.blocks):
            tokens = block(
                tokens, self.position.weight, maps, positions, geometry.lengths, text, text_mask
            )
            capture.record(f"prompt_block{index}", tokens)
        return tokens[:, :1], tokens[:, 1:]


class PromptHead(nn.Module):
    """Projections of prompt tokens to a coarse mask, SAM's mask prompt and its sparse prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_embedding = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)
        )
        self.mask_scaling = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.mask_scaling.weight)
        nn.init.zeros_(self.mask_scaling.bias)
        self.sparse_embedding = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), layer_norm(WIDTH)
        )

    def coarse_mask(self, dense: Tensor, mask_feature: Tensor, capture: FeatureCapture) -> Tensor:
        """Dense token [B, 1, 256] and map [B, 256, h, w] -> logits [B, 1, h, w]."""
        embedding = self.mask_embedding(dense)
        capture.record("dense_token", embedding)
        return torch.einsum("bnc,bchw->bnhw", embedding, mask_feature)


def tokens_to_maps(levels: list[Tensor], sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Tokens [B, S_l, 256] of each level -> maps [B, 256, h, w]."""
    return [tokens_to_map(tokens, size) for tokens, size in zip(levels, sizes, strict=True)]
