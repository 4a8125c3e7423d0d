"""The prompter: what was seen becomes tokens, and the tokens become SAM's prompts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refersam.feature_capture import Activations
from refersam.modeling.attention import Attention, FeedForward, LevelAttention, layer_norm
from refersam.modeling.interactor import Seen, level_positions
from refersam.modeling.multi_scale_geometry import Maps
from refersam.modeling.sam import PROMPT_WIDTH
from refersam.modeling.spatial_prior import STEM, as_map, split_levels, whole_map_norm

HEADS = 8
BLOCKS = 2
FFN_RATIO = 4
UNIT = PROMPT_WIDTH


class Projections(nn.Module):
    """Words, the three maps and a map at 1/4, all 256 wide.

    Args:
        vision_width: D.
        text_width: channels of a word.
    """

    def __init__(self, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.text = nn.Sequential(
            nn.Linear(text_width, UNIT), nn.GELU(), nn.Linear(UNIT, UNIT), layer_norm(UNIT)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(vision_width, UNIT), layer_norm(UNIT)) for _ in range(3)
        )
        self.fine = nn.Conv2d(STEM, UNIT, 1, bias=False)
        self.fine_norm = whole_map_norm(UNIT)
        self.out = nn.Sequential(
            nn.Conv2d(UNIT, UNIT, 3, padding=1, bias=False),
            whole_map_norm(UNIT),
            nn.GELU(),
            nn.Conv2d(UNIT, UNIT, 1),
        )

    def project_maps(self, seen: Seen) -> list[Tensor]:
        """The tokens of each level, [B, S_l, 256]."""
        tokens = split_levels(seen.maps, [height * width for height, width in seen.sizes])
        return [layer(one) for layer, one in zip(self.levels, tokens, strict=True)]

    def mask_feature(self, fine: Tensor, eighth: Tensor, image_of: Tensor | None) -> Tensor:
        """[N, 64, H/4, W/4] and [B, 256, H/8, W/8] -> [B, 256, H/4, W/4]."""
        found = self.fine_norm(self.fine(fine))
        if image_of is not None:
            found = found[image_of]
        return self.out(found + F.interpolate(eighth, scale_factor=2, mode="bilinear"))


class PromptBlock(nn.Module):
    """Tokens look at each other, at the maps, at the words; post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attention = Attention(UNIT, UNIT, UNIT, HEADS)
        self.to_vision = LevelAttention(UNIT, UNIT, UNIT, HEADS)
        self.to_text = Attention(UNIT, UNIT, UNIT, HEADS)
        self.mlp = FeedForward(UNIT, FFN_RATIO * UNIT)
        self.norm_self, self.norm_vision = layer_norm(UNIT), layer_norm(UNIT)
        self.norm_text, self.norm_mlp = layer_norm(UNIT), layer_norm(UNIT)

    def forward(
        self,
        tokens: Tensor,
        token_positions: Tensor,
        maps: Tensor,
        map_positions: Tensor,
        lengths: list[int],
        words: Tensor,
        word_mask: Tensor,
    ) -> Tensor:
        """Tokens [B, N, 256] with positions [N, 256] -> tokens."""
        placed = tokens + token_positions
        tokens = self.norm_self(tokens + self.self_attention(placed, placed, tokens))
        seen = self.to_vision(tokens + token_positions, maps + map_positions, maps, lengths)
        tokens = self.norm_vision(tokens + seen)
        heard = self.to_text(tokens + token_positions, words, words, word_mask)
        tokens = self.norm_text(tokens + heard)
        return self.norm_mlp(tokens + self.mlp(tokens))


class Prompter(nn.Module):
    """One dense token, which starts as the expression's summary, and a few learned sparse ones.

    Args:
        sparse_tokens: how many.
    """

    def __init__(self, sparse_tokens: int = 4) -> None:
        super().__init__()
        self.sparse = nn.Embedding(sparse_tokens, UNIT)
        self.position = nn.Embedding(sparse_tokens + 1, UNIT)
        self.level_embedding = nn.Parameter(torch.randn(3, UNIT))
        self.blocks = nn.ModuleList(PromptBlock() for _ in range(BLOCKS))

    def forward(
        self,
        levels: list[Tensor],
        maps: Maps,
        words: Tensor,
        word_mask: Tensor,
        summary: Tensor,
        kept: Activations,
    ) -> tuple[Tensor, Tensor]:
        """Ask the maps and the words.

        Args:
            levels: [B, S_l, 256] each.
            maps: their geometry.
            words: [B, T, 256].
            word_mask: [B, T] bool.
            summary: [B] position of the token that stands for the expression.
            kept: takes activations by name.

        Returns:
            The dense token [B, 1, 256], and the sparse ones [B, N, 256].
        """
        rows = torch.arange(len(words), device=words.device)
        dense = words[rows, summary][:, None].detach()
        sparse = self.sparse.weight.to(dense.dtype).expand(len(words), -1, -1)
        tokens = torch.cat([dense, sparse], dim=1)
        positions = level_positions(maps, self.level_embedding)
        together = torch.cat(levels, dim=1)
        for number, block in enumerate(self.blocks):
            tokens = block(
                tokens,
                self.position.weight,
                together,
                positions,
                maps.lengths,
                words,
                word_mask,
            )
            kept.note(f"prompt_block{number}", tokens)
        return tokens[:, :1], tokens[:, 1:]


class PromptHead(nn.Module):
    """Tokens -> a coarse mask, the logits that SAM's mask branch takes, and the sparse prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_embedding = nn.Sequential(nn.Linear(UNIT, UNIT), nn.GELU(), nn.Linear(UNIT, UNIT))
        self.mask_scaling = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.mask_scaling.weight)
        nn.init.zeros_(self.mask_scaling.bias)
        self.sparse_embedding = nn.Sequential(
            nn.Linear(UNIT, UNIT), nn.GELU(), nn.Linear(UNIT, UNIT), layer_norm(UNIT)
        )

    def coarse_mask(self, dense: Tensor, mask_feature: Tensor, kept: Activations) -> Tensor:
        """[B, 1, 256] and [B, 256, h, w] -> logits [B, 1, h, w]."""
        embedded = self.mask_embedding(dense)
        kept.note("dense_token", embedded)
        return torch.einsum("bnc,bchw->bnhw", embedded, mask_feature)


def as_level_maps(levels: list[Tensor], sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """[B, S_l, 256] each -> [B, 256, h, w] each."""
    return [as_map(tokens, size) for tokens, size in zip(levels, sizes, strict=True)]
