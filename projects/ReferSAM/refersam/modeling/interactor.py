"""The vision-language interactor: an image encoder that reads along with the expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refersam.feature_capture import Activations
from refersam.modeling.interaction_block import Interaction, Place, Words, note_interaction
from refersam.modeling.multi_scale_geometry import Maps, pyramid, sine_positions
from refersam.modeling.sam import PATCH, SamVariant, add_positions
from refersam.modeling.spatial_prior import SpatialPrior

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT

EXTRA_PAIRS = 2


@dataclass(frozen=True)
class Seen:
    """What is left of images and expressions after the interactions.

    Attributes:
        fine: [B, 64, H/4, W/4], or one row an image if images are shared.
        maps: [B, S, D] at 1/8, 1/16 and 1/32.
        patches: [B, D, H/16, W/16] of the transformer.
        words: [B, T, C].
        sizes: of the three maps.
    """

    fine: Tensor
    maps: Tensor
    patches: Tensor
    words: Tensor
    sizes: tuple[tuple[int, int], ...]


class Interactor(nn.Module):
    """Spatial prior, positions, context tokens, and an interaction a group of blocks.

    The image encoder itself is passed in with every call.

    Args:
        variant: shape of the image encoder.
        text_width: C, channels of a word.
        context_tokens: learned tokens beside the words.
        recompute: compute blocks again for gradients instead of keeping their activations.
    """

    def __init__(
        self,
        variant: SamVariant,
        text_width: int,
        context_tokens: int = 16,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.groups = variant.groups
        self.spatial_prior = SpatialPrior(variant.width)
        self.level_embedding = nn.Parameter(torch.randn(3, variant.width))
        self.context = nn.Embedding(context_tokens, text_width)
        last = len(self.groups) - 1
        self.interactions = nn.ModuleList(
            Interaction(
                variant.width,
                text_width,
                variant.heads,
                pairs=1 + EXTRA_PAIRS * (number == last),
                recompute=recompute,
            )
            for number in range(len(self.groups))
        )

    def forward(
        self,
        encoder: ImageEncoderViT,
        images: Tensor,
        words: Tensor,
        word_mask: Tensor,
        image_of: Tensor | None = None,
        kept: Activations | None = None,
    ) -> Seen:
        """Look at images with expressions in mind.

        Args:
            encoder: SAM's.
            images: [N, 3, H, W], normalised.
            words: [B, T, C] features of tokens.
            word_mask: [B, T] bool, True for real tokens.
            picture_of: [B] the image of every expression; None: expression b is of image b. What
                comes before words are heard is then computed once an image.
            kept: takes activations by name.
        """
        kept = kept or Activations()
        fine, levels = self.spatial_prior(images)
        for number, level in enumerate([fine, *levels], start=1):
            kept.note(f"spm_c{number}", level)
        patches = encoder.patch_embed(images)
        kept.note("patch_embed", patches)
        place = self._place(*images.shape[-2:], images.device)
        patches = add_positions(encoder, patches).flatten(1, 2)
        maps = torch.cat(levels, dim=1)
        context = self.context.weight.expand(len(words), -1, -1)
        text = Words(words, word_mask, context.to(words.dtype))
        for number, (interaction, group) in enumerate(
            zip(self.interactions, self.groups, strict=True)
        ):
            blocks = [encoder.blocks[i] for i in group]
            injected, patches, maps = interaction.look(blocks, patches, maps, place)
            kept.note(f"injector{number}", injected)
            kept.note(f"extractor{number}", maps)
            if number == 0 and image_of is not None:
                patches, maps = patches[image_of], maps[image_of]
            maps, text = interaction.speak(patches, maps, text, place)
            note_interaction(number, patches, maps, text, place, kept)
        grid = patches.transpose(1, 2).unflatten(2, place.patches.sizes[0])
        return Seen(fine, maps, grid, text.words, place.maps.sizes)

    def _place(self, height: int, width: int, device: torch.device) -> Place:
        maps = pyramid(height, width, device)
        patches = Maps.of(((height // PATCH, width // PATCH),), device)
        return Place(maps, patches, level_positions(maps, self.level_embedding))


def level_positions(maps: Maps, level_embedding: Tensor) -> Tensor:
    """Sine positions plus the learned vector of each level: [1, S, C]."""
    levels = level_embedding.repeat_interleave(
        torch.tensor(maps.lengths, device=level_embedding.device), dim=0
    )
    sines = sine_positions(maps.sizes, level_embedding.shape[1], level_embedding.device)
    return (sines + levels)[None]
