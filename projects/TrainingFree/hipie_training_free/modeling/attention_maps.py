"""What a diffusion model's U-Net looks at: cross-attention to words, completed by self-attention.

Wang et al., "Diffusion Model is Secretly a Training-free Open Vocabulary Semantic Segmenter"
(DiffSegmenter), IEEE TIP 2025; the word maps are those of DAAM (Tang et al., ACL 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie_training_free.error import TrainingFreeError


class AttentionRecorder:
    """Keeps what every attention of a U-Net of diffusers gives to what; a context manager.

    Attention modules are told by their `get_attention_scores`. Fused processors, which never make
    the scores, are replaced by plain ones meanwhile.

    Attributes:
        cross: a [heads, pixels, words] a cross-attention, in the order they ran.
        own: a [heads, pixels, pixels] a self-attention.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.cross: list[Tensor] = []
        self.own: list[Tensor] = []
        self._modules = [
            one for one in network.modules() if hasattr(type(one), "get_attention_scores")
        ]
        if not self._modules:
            raise TrainingFreeError(
                f"a {type(network).__name__} has no attention that could be looked at"
            )

    def __enter__(self) -> AttentionRecorder:
        self._before: dict[str, Any] = {}
        if hasattr(self.network, "attn_processors"):
            self._before = dict(self.network.attn_processors)
            self.network.set_default_attn_processor()
        for module in self._modules:
            module.get_attention_scores = self._recording(module)
        return self

    def __exit__(self, *problem: object) -> None:
        for module in self._modules:
            del module.get_attention_scores
        if self._before:
            self.network.set_attn_processor(self._before)

    def clear(self) -> None:
        """Forget what was seen."""
        self.cross.clear()
        self.own.clear()

    def _recording(self, module: nn.Module) -> Callable[..., Tensor]:
        plain = module.get_attention_scores
        kept = self.cross if module.is_cross_attention else self.own

        def scores(*given: Any, **named: Any) -> Tensor:
            found = plain(*given, **named)
            kept.append(found.detach().float())
            return found

        return scores


def word_map(
    maps: Sequence[Tensor],
    columns: Sequence[int],
    latent: tuple[int, int],
    shrinks: Sequence[int] = (2, 4),
) -> Tensor:
    """Where a word is: the mean over its pieces, heads and layers.

    Args:
        maps: [heads, h w, T] cross-attentions of one prompt.
        columns: places of the word's pieces among the T.
        latent: (h, w) of what enters the U-Net.
        shrinks: layers count whose map is so many times smaller than that.

    Returns:
        [*latent].

    Raises:
        TrainingFreeError: if no layer is of such a size, or the word has no piece.
    """
    if not columns:
        raise TrainingFreeError("the word has no place in the prompt")
    sizes = {h * w: (h, w) for h, w in (grid_at(latent, shrink) for shrink in shrinks)}
    found = [
        F.interpolate(
            one[:, :, list(columns)].mean((0, 2)).unflatten(0, sizes[one.shape[1]])[None, None],
            size=latent,
            mode="bilinear",
        )
        for one in maps
        if one.shape[1] in sizes
    ]
    if not found:
        raise TrainingFreeError(
            f"no cross-attention of the U-Net works at 1/{' or 1/'.join(map(str, shrinks))} of "
            f"{latent[0]} x {latent[1]}"
        )
    return torch.cat(found).mean((0, 1))


def completed(found: Tensor, own: Sequence[Tensor], times: int = 1) -> Tensor:
    """A word's map spread to what belongs together: m <- S m, with the rows of S of sum 1.

    Args:
        found: [h, w].
        own: [heads, h' w', h' w'] self-attentions; S is the mean of those of the finest size.
        times: how often; 0 leaves the map as it is.

    Returns:
        [h, w].
    """
    if not times or not own:
        return found
    finest = max(one.shape[1] for one in own)
    together = torch.stack([one.mean(0) for one in own if one.shape[1] == finest]).mean(0)
    together = together / together.sum(1, keepdim=True)
    height, width = found.shape
    shrink = round((height * width / finest) ** 0.5)
    size = grid_at((height, width), shrink)
    small = F.interpolate(found[None, None], size=size, mode="bilinear").flatten()
    for _ in range(times):
        small = together @ small
    back = small.view(1, 1, *size)
    return F.interpolate(back, size=(height, width), mode="bilinear")[0, 0]


def grid_at(latent: tuple[int, int], shrink: int) -> tuple[int, int]:
    """Size of a layer's map; strided convolutions round up."""
    return -(-latent[0] // shrink), -(-latent[1] // shrink)


def word_columns(prompt: Sequence[int], word: Sequence[int]) -> list[int]:
    """Where the pieces of a word stand in a prompt, first time; empty if they do not."""
    for start in range(len(prompt) - len(word) + 1):
        if list(prompt[start : start + len(word)]) == list(word):
            return list(range(start, start + len(word)))
    return []
