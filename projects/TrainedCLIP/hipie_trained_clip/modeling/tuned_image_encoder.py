"""CLIP's frozen ViT with trained prompts, adapters or low-rank updates (ZegCLIP, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip_blocks import (
    add_residual_and_mlp,
    merge_heads,
    queries_keys_values,
)
from hipie.modeling.open_vocabulary.error import unknown_name
from hipie.modeling.open_vocabulary.masked_attention_pooling import embed, project

KEYS = "MODEL.TRAINED_CLIP.ZEGCLIP"
TUNINGS = ("prompts", "adapter", "lora", "none")
LAST_BLOCKS = ("attention", "values")
PROMPT_DROPOUT = 0.1
PROMPT_NORM_EPS = 1e-6


@dataclass(frozen=True)
class TuningConfig:
    """What is trained in the image encoder; see the keys of `MODEL.TRAINED_CLIP.ZEGCLIP`.

    Attributes:
        kind: "prompts", "adapter", "lora" or "none".
        num_prompts, prompt_blocks: prompts of a block, blocks after the first with their own.
        adapter_channels, adapter_scale: of adapters.
        lora_rank, lora_scale: of low-rank updates.
        drop_path: stochastic depth of the last block.
        last_block: "attention" or "values".
        double_class_embedding: add the class embedding twice.
    """

    kind: str = "prompts"
    num_prompts: int = 10
    prompt_blocks: int = 11
    adapter_channels: int = 64
    adapter_scale: float = 0.1
    lora_rank: int = 8
    lora_scale: float = 1.0
    drop_path: float = 0.1
    last_block: str = "attention"
    double_class_embedding: bool = True

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            OpenVocabularyError: for an unknown one, with the known ones.
        """
        if self.kind not in TUNINGS:
            raise unknown_name(f"{KEYS}.TUNING", self.kind, TUNINGS)
        if self.last_block not in LAST_BLOCKS:
            raise unknown_name(f"{KEYS}.LAST_BLOCK", self.last_block, LAST_BLOCKS)


class VisualPrompts(nn.Module):
    """Learned tokens between the class token and the patches (Jia et al., ECCV 2022, deep).

    Args:
        count: number of prompts of a block.
        blocks: number of blocks after the first whose prompts are replaced.
        width: C.
        patch_size: side of a patch, which sets the range of the initial values.
    """

    def __init__(self, count: int, blocks: int, width: int, patch_size: int) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (3 * patch_size**2 + width))
        self.first = nn.Parameter(torch.empty(1, count, width).uniform_(-bound, bound))
        self.deep: nn.Parameter | None = None
        if blocks:
            self.deep = nn.Parameter(torch.empty(blocks, count, width).uniform_(-bound, bound))
        self.projection = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.projection.weight, a=0, mode="fan_out")
        self.norm = nn.LayerNorm(width, eps=PROMPT_NORM_EPS)
        self.dropout = nn.Dropout(PROMPT_DROPOUT)

    def insert(self, x: Tensor, num_patches: int, block: int) -> Tensor:
        """Put the prompts of a block between the class token and the last `num_patches` tokens.

        Behind the last block with prompts of its own, prompts are left out.
        """
        class_token, patches = x[:, :1], x[:, -num_patches:]
        if block and self.deep is None:
            return x
        if self.deep is not None and block > len(self.deep):
            return torch.cat([class_token, patches], dim=1)
        prompts = self.first if block == 0 or self.deep is None else self.deep[block - 1][None]
        prompts = self.dropout(self.projection(prompts).expand(len(x), -1, -1))
        return torch.cat([class_token, prompts, patches], dim=1)


class Adapter(nn.Module):
    """Bottleneck after a block: x + scale * W2 relu(W1 norm(x)) (Houlsby et al., ICML 2019).

    Args:
        width: C.
        channels: of the bottleneck.
        scale: factor of its output.
    """

    def __init__(self, width: int, channels: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, channels), nn.Linear(channels, width)
        nn.init.normal_(self.up.weight, std=0.02)
        nn.init.zeros_(self.up.bias)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, n, C]."""
        return x + self.scale * self.up(F.relu(self.down(self.norm(x))))


class LowRankUpdate(nn.Module):
    """Weight W + scale * B A with trained A [r, in] and B [out, r] (Hu et al., ICLR 2022).

    B is 0 at first.

    Args:
        shape: (out, in) of the weight.
        rank: r.
        scale: factor of the update.
    """

    def __init__(self, shape: tuple[int, int], rank: int, scale: float) -> None:
        super().__init__()
        self.lora_a = nn.Parameter(torch.empty(rank, shape[1]))
        self.lora_b = nn.Parameter(torch.zeros(shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """Updated weight."""
        return weight + self.scale * self.lora_b @ self.lora_a


class TunedImageEncoder(nn.Module):
    """Features of an image and of its patches in CLIP's joint space.

    Args:
        visual: a ViT of open_clip, whose parameters are frozen, in place.
        config: what is trained.
    """

    def __init__(self, visual: nn.Module, config: TuningConfig) -> None:
        super().__init__()
        self.config = config
        self._visual = (visual.requires_grad_(False),)
        network: Any = visual
        blocks = network.transformer.resblocks
        width, patch = network.conv1.out_channels, network.patch_size[0]
        self.prompts: VisualPrompts | None = None
        self.adapters: nn.ModuleList | None = None
        if config.kind == "prompts":
            if config.num_prompts < 1 or not 0 <= config.prompt_blocks < len(blocks):
                raise InputError(
                    f"{KEYS}.PROMPT_BLOCKS has to be in 0..{len(blocks) - 1} for this CLIP and "
                    f"{KEYS}.NUM_PROMPTS at least 1, and they are {config.prompt_blocks} and "
                    f"{config.num_prompts}"
                )
            self.prompts = VisualPrompts(config.num_prompts, config.prompt_blocks, width, patch)
        elif config.kind == "adapter":
            self.adapters = nn.ModuleList(
                Adapter(width, config.adapter_channels, config.adapter_scale) for _ in blocks
            )
        elif config.kind == "lora":
            for block in blocks:
                update = LowRankUpdate((3 * width, width), config.lora_rank, config.lora_scale)
                parametrize.register_parametrization(block.attn, "in_proj_weight", update)
        rates = torch.linspace(0, config.drop_path, len(blocks)).tolist()
        self.drop_paths = nn.ModuleList(DropPath(rate) for rate in rates)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            pixels: [B, 3, H, W] normalised, sides that are multiples of the patch size.

        Returns:
            Unit features [B, D] of the images and [B, h w, D] of their patches.
        """
        (visual,) = self._visual
        network: Any = visual
        class_weight = 2.0 if self.config.double_class_embedding else 1.0
        mode = "bilinear" if self.config.kind == "prompts" else "bicubic"
        x = embed(network, pixels, resize_mode=mode, class_weight=class_weight)
        num_patches = x.shape[1] - 1
        blocks = network.transformer.resblocks
        for index, (block, drop_path) in enumerate(zip(blocks, self.drop_paths, strict=True)):
            if self.prompts is not None:
                x = self.prompts.insert(x, num_patches, index)
            is_last = index == len(blocks) - 1
            x = self._run_block(block, x, drop_path, values=is_last and self._uses_values)
            if self.adapters is not None:
                x = self.adapters[index](x)
        if self.prompts is not None and self.prompts.deep is not None:
            x = self.prompts.norm(x)
        features = F.normalize(project(network, x).float(), dim=-1)
        return features[:, 0], features[:, -num_patches:]

    @property
    def _uses_values(self) -> bool:
        return self.config.last_block == "values"

    def _run_block(self, block: Any, x: Tensor, drop_path: nn.Module, *, values: bool) -> Tensor:
        """Run a block of CLIP; with `values` all but the class token keep their own values."""
        queries, keys, own = queries_keys_values(block, x)
        attended = merge_heads(block, F.scaled_dot_product_attention(queries, keys, own))
        if values:
            attended = torch.cat([attended[:, :1], merge_heads(block, own)[:, 1:]], dim=1)
        if self.training and getattr(drop_path, "drop_prob", 0.0):
            x = x + drop_path(attended)
            return x + drop_path(block.mlp(block.ln_2(x)))
        return add_residual_and_mlp(block, x, attended)
