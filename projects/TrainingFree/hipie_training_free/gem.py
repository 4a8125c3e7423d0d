"""GEM: a parallel path of self-self attention along CLIP's last blocks.

Bousselham, Petersen, Ferrari, Kuehne, "Grounding Everything: Emerging Localization Properties in
Vision-Language Transformers", CVPR 2024, section 3. In every changed block, with u = LN(x) of the
original path and for each s of queries, keys and values by head:

    repeated: s <- softmax(t s' s'^T) s',  s' = s / |s|;    then o_s = softmax(t s' s'^T) v

The mean of the three, after the output projection, is added to the parallel path, which has no MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_blocks import (
    last_blocks,
    merge_heads,
    queries_keys_values,
    tokens_before,
)
from hipie.modeling.postprocessing.class_maps import min_max_normalize
from hipie_training_free.clip_dense import DenseCLIP
from hipie_training_free.meta_arch import Size

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock


@dataclass(frozen=True)
class GEMConfig:
    """Self-self attention; see `MODEL.TRAINING_FREE.GEM`.

    Attributes:
        blocks: number of last blocks with a parallel path.
        iterations: number of iterations of self-self attention.
        temperature: inverse temperature; 0 derives it from the norm of each image's tokens.
        min_max: scale every name's map to 0..1.
    """

    blocks: int = 6
    iterations: int = 1
    temperature: float = 0.0
    min_max: bool = True


@META_ARCH_REGISTRY.register()
class GEM(DenseCLIP):
    """CLIP with self-self attention along the last blocks.

    Args:
        clip: with a ViT that has a class token.
        gem: self-self attention.
        configs: configurations of `DenseCLIP`.
    """

    @configurable
    def __init__(self, *, clip: Clip, gem: GEMConfig | None = None, **configs: Any) -> None:
        super().__init__(clip=clip, **configs)
        self.gem = gem or GEMConfig()
        last_blocks(self.clip.visual, self.gem.blocks)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.GEM
        gem = GEMConfig(keys.BLOCKS, keys.ITERATIONS, keys.TEMPERATURE, keys.MIN_MAX)
        return {**super().from_config(cfg), "gem": gem}

    def tokens(self, pixels: Tensor) -> Tensor:
        """Compute the tokens; see `DenseCLIP.tokens`."""
        return gem_tokens(
            last_blocks(self.clip.visual, self.gem.blocks),
            tokens_before(self.clip.visual, pixels, self.gem.blocks),
            self.gem.iterations,
            self.gem.temperature or None,
        )

    def name_maps(self, image: Tensor, text: Tensor, size: Size) -> Tensor:
        """Compute the maps, scaled to 0..1 at the output size; see `DenseCLIP.name_maps`."""
        maps = super().name_maps(image, text, size)
        return min_max_normalize(maps) if self.gem.min_max else maps


def gem_tokens(
    blocks: Sequence[ResidualAttentionBlock],
    x: Tensor,
    iterations: int = 1,
    temperature: float | None = None,
) -> Tensor:
    """Compute the tokens of the parallel path after the last block.

    Args:
        blocks: the changed blocks, in order; the last six of a ViT in the released default.
        x: [B, n, C] input of the first of them, where the parallel path starts.
        iterations: iterations of self-self attention before it is applied to the values.
        temperature: t; by default, for each image, the mean norm of u over the tokens divided by
            the square root of a head's width.

    Returns:
        [B, n, C].
    """
    parallel = x
    for block in blocks:
        projections = queries_keys_values(block, x)
        if temperature is None:
            norms = block.ln_1(x).float().norm(dim=-1).mean(-1)
            scale = norms.view(-1, 1, 1, 1) * projections[0].shape[-1] ** -0.5
        else:
            scale = torch.tensor(temperature, device=x.device)
        attended = (
            sum(self_self_attention(p, projections[2], scale, iterations) for p in projections) / 3
        )
        parallel = parallel + block.ls_1(merge_heads(block, attended))
        x = block(x)
    return parallel


def self_self_attention(x: Tensor, values: Tensor, scale: Tensor, iterations: int = 1) -> Tensor:
    """Attention of x [..., n, d] to itself, iterated, and then to `values` [..., n, d]."""
    for _ in range(iterations):
        unit = F.normalize(x, dim=-1)
        x = _self_similarity(unit, scale).to(unit.dtype) @ unit
    return _self_similarity(F.normalize(x, dim=-1), scale).to(values.dtype) @ values


def _self_similarity(unit: Tensor, scale: Tensor) -> Tensor:
    return (scale * (unit @ unit.transpose(-1, -2))).softmax(-1)
