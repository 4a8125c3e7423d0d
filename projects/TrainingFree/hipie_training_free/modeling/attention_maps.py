"""Attention maps of a diffusion model's U-Net: cross-attention refined by self-attention.

Wang et al., "Diffusion Model is Secretly a Training-free Open Vocabulary Semantic Segmenter"
(DiffSegmenter), IEEE TIP 2025; the maps of tokens are those of DAAM (Tang et al., ACL 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie_training_free.error import TrainingFreeError


class AttentionRecorder:
    """Context manager that records the attention probabilities of a U-Net of diffusers.

    Attention modules are those with `get_attention_scores`. Fused attention processors, which do
    not compute the probabilities, are replaced by plain ones inside the context.

    Attributes:
        cross_attention: [heads, pixels, tokens] of each cross-attention, in the order of execution.
        self_attention: [heads, pixels, pixels] of each self-attention.

    Raises:
        TrainingFreeError: for a network without attention modules.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.cross_attention: list[Tensor] = []
        self.self_attention: list[Tensor] = []
        self._modules = [
            module for module in network.modules() if hasattr(type(module), "get_attention_scores")
        ]
        if not self._modules:
            raise TrainingFreeError(
                f"a {type(network).__name__} has no attention modules that can be recorded"
            )

    def __enter__(self) -> AttentionRecorder:
        self._processors: dict[str, Any] = {}
        if hasattr(self.network, "attn_processors"):
            self._processors = dict(self.network.attn_processors)
            self.network.set_default_attn_processor()
        for module in self._modules:
            module.get_attention_scores = self._recording(module)
        return self

    def __exit__(self, *exception: object) -> None:
        for module in self._modules:
            del module.get_attention_scores
        if self._processors:
            self.network.set_attn_processor(self._processors)

    def clear(self) -> None:
        """Remove the recorded probabilities."""
        self.cross_attention.clear()
        self.self_attention.clear()

    def _recording(self, module: nn.Module) -> Callable[..., Tensor]:
        original = module.get_attention_scores
        recorded = self.cross_attention if module.is_cross_attention else self.self_attention

        def get_attention_scores(*arguments: Any, **keywords: Any) -> Tensor:
            probabilities = original(*arguments, **keywords)
            recorded.append(probabilities.detach().float())
            return probabilities

        return get_attention_scores


def cross_attention_map(
    attentions: Sequence[Tensor],
    columns: Sequence[int],
    latent_size: tuple[int, int],
    strides: Sequence[int] = (2, 4),
) -> Tensor:
    """Average the cross-attention of a phrase over its tokens, heads and layers.

    Args:
        attentions: [heads, h w, T] cross-attentions of one prompt.
        columns: indices of the phrase's tokens among the T.
        latent_size: (h, w) of the U-Net's input.
        strides: strides of the layers that are averaged, relative to the input.

    Returns:
        [*latent_size].

    Raises:
        TrainingFreeError: if no layer has such a stride, or if the phrase has no token.
    """
    if not columns:
        raise TrainingFreeError("the class name has no token in the prompt")
    sizes = {h * w: (h, w) for h, w in (downsampled_size(latent_size, s) for s in strides)}
    maps = [
        F.interpolate(
            attention[:, :, list(columns)]
            .mean((0, 2))
            .unflatten(0, sizes[attention.shape[1]])[None, None],
            size=latent_size,
            mode="bilinear",
        )
        for attention in attentions
        if attention.shape[1] in sizes
    ]
    if not maps:
        raise TrainingFreeError(
            f"no cross-attention of the U-Net has a resolution of 1/"
            f"{' or 1/'.join(map(str, strides))} of {latent_size[0]} x {latent_size[1]}"
        )
    return torch.cat(maps).mean((0, 1))


def propagate_by_self_attention(
    attention_map: Tensor, self_attentions: Sequence[Tensor], steps: int = 1
) -> Tensor:
    """Multiply a map by the self-attention: m <- S m, with rows of S that sum to 1.

    Args:
        attention_map: [h, w].
        self_attentions: [heads, h' w', h' w'] each; S is the mean of those of the finest size.
        steps: number of multiplications; 0 returns the map unchanged.

    Returns:
        [h, w].
    """
    if not steps or not self_attentions:
        return attention_map
    finest = max(attention.shape[1] for attention in self_attentions)
    mean = torch.stack(
        [attention.mean(0) for attention in self_attentions if attention.shape[1] == finest]
    ).mean(0)
    mean = mean / mean.sum(1, keepdim=True)
    height, width = attention_map.shape
    stride = round((height * width / finest) ** 0.5)
    size = downsampled_size((height, width), stride)
    small = F.interpolate(attention_map[None, None], size=size, mode="bilinear").flatten()
    for _ in range(steps):
        small = mean @ small
    resized = F.interpolate(small.view(1, 1, *size), size=(height, width), mode="bilinear")
    return resized[0, 0]


def downsampled_size(latent_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Size of a layer's map; strided convolutions round up."""
    return -(-latent_size[0] // stride), -(-latent_size[1] // stride)


def token_columns(prompt: Sequence[int], phrase: Sequence[int]) -> list[int]:
    """Indices of a phrase's token ids in a prompt, first occurrence; empty if there is none."""
    for start in range(len(prompt) - len(phrase) + 1):
        if list(prompt[start : start + len(phrase)]) == list(phrase):
            return list(range(start, start + len(phrase)))
    return []
