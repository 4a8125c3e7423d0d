"""One interaction: maps into the transformer, its blocks, the transformer into the maps, words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hipie.ops import MSDeformAttn
from refersam.feature_capture import Activations
from refersam.modeling.attention import layer_norm
from refersam.modeling.multi_scale_geometry import Maps
from refersam.modeling.vision_language_fusion import Exchange

LEVELS, POINTS, VALUE_RATIO = 3, 4, 0.5
GAMMA = 1e-6


class Place(NamedTuple):
    """Where things are in the image.

    Attributes:
        maps: the three maps beside the transformer.
        patches: the transformer's own grid.
        positions: [1, S, D] of the maps' tokens.
    """

    maps: Maps
    patches: Maps
    positions: Tensor


class Words(NamedTuple):
    """Words [B, T, C], their mask [B, T] bool, and context tokens [B, N, C]."""

    words: Tensor
    mask: Tensor
    context: Tensor


class Injector(nn.Module):
    """The transformer's patches sample the maps; the maps are not normed.

    Args:
        width: D.
        heads: of the deformable attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.attention = MSDeformAttn(width, LEVELS, heads, POINTS, VALUE_RATIO)
        self.gamma = nn.Parameter(torch.full((width,), GAMMA))

    def forward(self, patches: Tensor, maps: Tensor, place: Place) -> Tensor:
        """Patches [B, h * w, D] and maps [B, S, D] -> patches."""
        sampled = _sample(self.attention, self.norm(patches), maps, place.patches, place.maps)
        return patches + self.gamma * sampled


class Extractor(nn.Module):
    """The maps sample the transformer's patches, with a norm behind the sum and none before.

    Args:
        width: D.
        heads: of the deformable attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.value_norm = layer_norm(width)
        self.attention = MSDeformAttn(width, 1, heads, POINTS, VALUE_RATIO)
        self.norm = layer_norm(width)

    def forward(self, maps: Tensor, patches: Tensor, place: Place) -> Tensor:
        """Maps [B, S, D] and patches [B, h * w, D] -> maps."""
        values = self.value_norm(patches)
        return self.norm(maps + _sample(self.attention, maps, values, place.maps, place.patches))


class Pair(nn.Module):
    """An extractor and the exchange with the words that follows it."""

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.extractor = Extractor(width, heads)
        self.exchange = Exchange(width, text_width, heads)


class Interaction(nn.Module):
    """What happens around one group of the transformer's blocks.

    Args:
        width: D.
        text_width: channels of a word.
        heads: of every attention.
        pairs: extractors with an exchange each; the last interaction has more than one.
        recompute: compute blocks again for gradients.
    """

    def __init__(
        self, width: int, text_width: int, heads: int, pairs: int = 1, recompute: bool = False
    ) -> None:
        super().__init__()
        self.injector = Injector(width, heads)
        self.pairs = nn.ModuleList(Pair(width, text_width, heads) for _ in range(pairs))
        self.recompute = recompute

    def look(
        self, blocks: Iterable[nn.Module], patches: Tensor, maps: Tensor, place: Place
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What needs no words of its own: injector, the group's blocks, the first extractor.

        Args:
            blocks: the transformer's, on [B, h, w, D].
            patches: [B, h * w, D].
            maps: [B, S, D].
            place: of both.

        Returns:
            Injected patches, patches behind the blocks, maps.
        """
        injected = self.injector(patches, maps, place)
        patches = injected.unflatten(1, place.patches.sizes[0])
        for block in blocks:
            patches = self._run(block, patches)
        patches = patches.flatten(1, 2)
        return injected, patches, self.pairs[0].extractor(maps, patches, place)

    def speak(
        self, patches: Tensor, maps: Tensor, text: Words, place: Place
    ) -> tuple[Tensor, Words]:
        """The exchange of the first pair, and all further pairs."""
        for number, pair in enumerate(self.pairs):
            if number:
                maps = pair.extractor(maps, patches, place)
            together = torch.cat([text.words, text.context], dim=1)
            mask = torch.cat([text.mask, text.mask.new_ones(text.context.shape[:2])], dim=1)
            lengths = place.maps.lengths
            maps, together = self._run(
                pair.exchange, maps, place.positions, lengths, together, mask
            )
            split = [text.words.shape[1], text.context.shape[1]]
            words, context = together.split(split, dim=1)
            text = Words(words, text.mask, context)
        return maps, text

    def _run(self, module: nn.Module, *arguments):
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(module, *arguments, use_reentrant=False)
        return module(*arguments)


def note_interaction(
    number: int, patches: Tensor, maps: Tensor, text: Words, place: Place, kept: Activations
) -> None:
    """Name what an interaction gave."""
    kept.note(f"block{number}_vit", patches.unflatten(1, place.patches.sizes[0]))
    kept.note(f"block{number}_adapter", maps)
    kept.note(f"block{number}_lang", text.words)
    kept.note(f"block{number}_context", text.context)


def _sample(
    attention: MSDeformAttn, queries: Tensor, values: Tensor, seekers: Maps, sought: Maps
) -> Tensor:
    """Deformable attention around the queries' own places, in float32 also under autocast."""
    centres = seekers.centres.expand(len(queries), -1, len(sought.sizes), -1)
    with torch.autocast(queries.device.type, enabled=False):
        return attention(queries.float(), centres, values.float(), sought.shapes, sought.starts)
