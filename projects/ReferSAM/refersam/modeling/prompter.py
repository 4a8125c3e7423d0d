"""Prompter: tokens that query maps and text and become SAM's mask and sparse prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refersam.feature_capture import FeatureCapture
from refersam.modeling.attention import Attention, FeedForward, LevelAttention, layer_norm
from refersam.modeling.interactor import InteractorOutput
from refersam.modeling.multi_scale_geometry import STRIDES, MultiScaleGeometry, level_positions
from refersam.modeling.sam import PROMPT_WIDTH
from refersam.modeling.spatial_prior import STEM_STRIDE, STEM_WIDTH, global_norm, tokens_to_map

NUM_HEADS = 8
FFN_RATIO = 4
WIDTH = PROMPT_WIDTH


class Projections(nn.Module):
    """Projections of the text, the maps and the map at stride 4 to 256 channels.

    Args:
        vision_width: D, channels of the maps.
        text_width: C, channels of a text token.
        strides: strides of the maps; those of other maps that the interactor has are left out.
        fine: project the map at stride 4, for the prompter.
    """

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        strides: Sequence[int] = STRIDES,
        *,
        fine: bool = True,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.text = nn.Sequential(
            nn.Linear(text_width, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), layer_norm(WIDTH)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(vision_width, WIDTH), layer_norm(WIDTH)) for _ in strides
        )
        if not fine:
            return
        self.fine = nn.Conv2d(STEM_WIDTH, WIDTH, 1, bias=False)
        self.fine_norm = global_norm(WIDTH)
        self.out = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            global_norm(WIDTH),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
        )

    def project_maps(self, output: InteractorOutput) -> dict[int, Tensor]:
        """Project the tokens of each level: [B, S_l, 256] by stride."""
        lengths = [height * width for height, width in output.sizes.values()]
        by_stride = dict(zip(output.sizes, output.maps.split(lengths, dim=1), strict=True))
        return {
            stride: layer(by_stride[stride])
            for stride, layer in zip(self.strides, self.levels, strict=True)
        }

    def mask_feature(self, fine: Tensor, finest: Tensor, image_of: Tensor | None) -> Tensor:
        """Compute the map that the dense token is multiplied with.

        Args:
            fine: [N, 64, H/4, W/4].
            finest: [B, 256, h, w], the projected map of the smallest stride.
            image_of: [B] index of the image of every expression, or None.

        Returns:
            [B, 256, H/4, W/4].
        """
        projected = self.fine_norm(self.fine(fine))
        if image_of is not None:
            projected = projected[image_of]
        upsampled = F.interpolate(
            finest, scale_factor=self.strides[0] // STEM_STRIDE, mode="bilinear"
        )
        return self.out(projected + upsampled)


class PromptBlock(nn.Module):
    """Self-attention and cross-attention of prompt tokens to maps and text, with post-norm.

    Args:
        levels: number of maps.
    """

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.self_attention = Attention(WIDTH, WIDTH, WIDTH, NUM_HEADS)
        self.to_vision = LevelAttention(WIDTH, WIDTH, WIDTH, NUM_HEADS, levels)
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
        levels: number of maps.
        blocks: number of layers.
    """

    def __init__(self, sparse_tokens: int = 4, levels: int = 3, blocks: int = 2) -> None:
        super().__init__()
        self.sparse = nn.Embedding(sparse_tokens, WIDTH)
        self.position = nn.Embedding(sparse_tokens + 1, WIDTH)
        self.level_embedding = nn.Parameter(torch.randn(levels, WIDTH))
        self.blocks = nn.ModuleList(PromptBlock(levels) for _ in range(blocks))

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
        dense = summary_token(text, summary_index).detach()
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


def summary_token(text: Tensor, index: Tensor) -> Tensor:
    """Select one token of each expression, text [B, T, C] and index [B] -> [B, 1, C]."""
    return text[torch.arange(len(text), device=text.device), index][:, None]


def tokens_to_maps(
    levels: dict[int, Tensor], sizes: dict[int, tuple[int, int]]
) -> dict[int, Tensor]:
    """Tokens [B, S_l, 256] by stride -> maps [B, 256, h, w] by stride."""
    return {stride: tokens_to_map(tokens, sizes[stride]) for stride, tokens in levels.items()}
