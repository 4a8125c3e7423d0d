"""Bridges between the stages of CLIP's two encoders (ETRIS, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from hipie_trained_clip.modeling.layers import conv_norm_relu, deconv_norm_relu

FEEDFORWARD_CHANNELS = 128
DROPOUT = 0.1


class GatedAttention(nn.Module):
    """Cross-attention whose result is multiplied with its queries.

    Args:
        channels: C.
        heads: number of attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries [B, P, C] and memory [B, T, C] -> [B, P, C]."""
        return queries * self.attention(queries, memory, memory, need_weights=False)[0]


class InteractionLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each followed by a norm.

    Args:
        channels: C.
        heads: number of attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.self_attention, self.attention = (
            nn.MultiheadAttention(channels, heads, dropout=DROPOUT, batch_first=True)
            for _ in range(2)
        )
        self.linear_in = nn.Linear(channels, FEEDFORWARD_CHANNELS)
        self.linear_out = nn.Linear(FEEDFORWARD_CHANNELS, channels)
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries [B, P, C] and memory [B, T, C] -> [B, P, C]."""
        attended = self.self_attention(queries, queries, queries, need_weights=False)[0]
        x = self.norm_self(queries + self.dropout(attended))
        attended = self.attention(x, memory, memory, need_weights=False)[0]
        x = self.norm_cross(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear_in(x)))
        return self.norm_mlp(x + self.dropout(self.linear_out(hidden)))


class Bridge(nn.Module):
    """Exchange between the features of a stage of the image encoder and of the text encoder.

    Both are projected to a few channels, attend to each other, and are projected back. From the
    second bridge on the projected features are added to those of the bridge before, and normalised.

    Args:
        image_in, image_out: projections of a map to the bridge's channels, and back.
        attentions: of image and text, modules of queries and memory.
        channels: C of the bridge.
        text_channels: of the text encoder.
        first: whether no bridge is before.
    """

    def __init__(
        self,
        image_in: nn.Module,
        image_out: nn.Module,
        attentions: tuple[nn.Module, nn.Module],
        channels: int,
        text_channels: int,
        first: bool,
    ) -> None:
        super().__init__()
        self.image_in, self.image_out = image_in, image_out
        self.text_in = nn.Linear(text_channels, channels)
        self.text_out = nn.Linear(channels, text_channels)
        self.image_attention, self.text_attention = attentions
        self.image_norm = nn.Identity() if first else nn.LayerNorm(channels)
        self.text_norm = nn.Identity() if first else nn.LayerNorm(channels)

    def forward(
        self, image: Tensor, text: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Compute what is added to both.

        Args:
            image: [B, C_v, h, w].
            text: [B, T, C_t].
            before: features of the bridge before, None for the first.

        Returns:
            [B, C_v, h, w], [B, T, C_t], and features [B, P, C] and [B, T, C] for the next bridge.
        """
        projected = self.image_in(image)
        size = projected.shape[-2:]
        pixels, words = projected.flatten(2).transpose(1, 2), self.text_in(text)
        if before is not None:
            pixels = self.image_norm(pixels + before[0])
            words = self.text_norm(words + before[1])
        fused = self.image_attention(pixels, words)
        fused = self.image_out(fused.transpose(1, 2).unflatten(2, size))
        return fused, self.text_out(self.text_attention(words, pixels)), (pixels, words)


def vit_bridges(
    image_channels: int, text_channels: int, channels: int, heads: int, stages: int = 3
) -> nn.ModuleList:
    """Build the bridges of a ViT, whose stages have one resolution."""
    bridges = []
    for stage in range(stages):
        is_last = stage == stages - 1
        # The released weights of the last stage are those of transposed convolutions.
        image_in = (
            deconv_norm_relu(image_channels, channels, 1)
            if is_last
            else conv_norm_relu(image_channels, channels)
        )
        image_out = (
            conv_norm_relu(channels, image_channels)
            if is_last
            else deconv_norm_relu(channels, image_channels, 1)
        )
        attentions = (GatedAttention(channels, heads), GatedAttention(channels, heads))
        bridges.append(Bridge(image_in, image_out, attentions, channels, text_channels, stage == 0))
    return _initialised(bridges)


def resnet_bridges(
    image_channels: Sequence[int], text_channels: int, channels: int, heads: int
) -> nn.ModuleList:
    """Build the bridges of a ResNet, whose stages 2 to 4 are brought to the stride of 16."""
    bridges = []
    for stage, (width, kernel) in enumerate(zip(image_channels, (2, 1, 2), strict=True)):
        down, up = (nn.Conv2d, nn.ConvTranspose2d)
        if stage == len(image_channels) - 1:
            down, up = up, down
        attentions = (InteractionLayer(channels, heads), InteractionLayer(channels, heads))
        bridges.append(
            Bridge(
                down(width, channels, kernel, kernel, bias=False),
                up(channels, width, kernel, kernel, bias=False),
                attentions,
                channels,
                text_channels,
                stage == 0,
            )
        )
    return _initialised(bridges)


def stage_ends(blocks: int, stages: int) -> tuple[int, ...]:
    """Numbers of blocks after which the stages of an encoder end, such as 4, 8 and 12 of 12."""
    return tuple(-(-blocks * (stage + 1) // stages) for stage in range(stages))


def _initialised(bridges: list[Bridge]) -> nn.ModuleList:
    """Initialise weights as the released program does: normal linear, He convolutions."""
    modules = nn.ModuleList(bridges)
    for module in modules.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return modules
