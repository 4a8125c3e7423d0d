"""ETRIS: bridges between CLIP's frozen encoders for referring segmentation.

Xu, Chen, Zhang, Song, Wan, Li, "Bridging Vision and Language Encoders: Parameter-Efficient Tuning
for Referring Image Segmentation", ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import CheckpointConverter
from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import pool_text
from hipie.modeling.open_vocabulary.masked_attention_pooling import embed, project
from hipie_trained_clip.checkpoint_converters import OFFICIAL_ETRIS
from hipie_trained_clip.modeling.bridges import resnet_bridges, stage_ends, vit_bridges
from hipie_trained_clip.modeling.clip_encoders import (
    DensePooling,
    is_resnet,
    require_encoders,
    resize_position_table,
    resnet_stages,
    resnet_stem,
    stage_channels,
)
from hipie_trained_clip.modeling.hierarchical_neck import HierarchicalNeck
from hipie_trained_clip.referring import KEYS, DecoderConfig, ReferringCLIP, rows_of

NUM_STAGES = 3
RESNET_STRIDE = 32
POSITIONS = "positional_embedding"


@META_ARCH_REGISTRY.register()
class ETRIS(ReferringCLIP):
    """CLIP's encoders with a bridge after every stage, a hierarchical neck, and CRIS's decoder.

    Of CLIP only position embeddings are trained; its batch norms keep their statistics.

    Args:
        decoder: sizes.
        bridge_channels: of the bridges.
        bridge_heads: their attention heads.
        image_size: side of square images in pixels, to which the position embeddings of a ViT are
            resized when it is built; 0 keeps them.
        options: of `ReferringCLIP`.
    """

    @configurable
    def __init__(
        self,
        *,
        decoder: DecoderConfig | None = None,
        bridge_channels: int = 64,
        bridge_heads: int = 8,
        image_size: int = 0,
        **options: Any,
    ) -> None:
        decoder = decoder or DecoderConfig()
        clip: Any = options["clip"]
        require_encoders(clip, type(self).__name__, vit=True)
        visual = clip.visual
        self.is_resnet = is_resnet(visual)
        divisor = RESNET_STRIDE if self.is_resnet else visual.patch_size[0]
        if image_size and not self.is_resnet and image_size % divisor == 0:
            resize_position_table(visual, image_size)
        super().__init__(decoder=decoder, divisor=divisor, **options)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name.endswith(POSITIONS))
        text_channels, joint = self.backbone.ln_final.normalized_shape[0], self.joint_channels
        self.pooling: nn.Module | None = None
        if self.is_resnet:
            channels = stage_channels(visual)
            self.pooling = DensePooling(channels[-1], joint)
            self.bridges = resnet_bridges(channels, text_channels, bridge_channels, bridge_heads)
            levels, strides = (*channels[:-1], joint), (2, 1, 2)
        else:
            width = visual.conv1.out_channels
            self.bridges = vit_bridges(width, text_channels, bridge_channels, bridge_heads)
            levels, strides = (width, width, joint), (1, 1, 1)
        self.neck = HierarchicalNeck(levels, strides, joint, decoder.channels, decoder.heads)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINED_CLIP`.

        Raises:
            InputError: for channels of the bridges that their heads do not divide.
        """
        keys = cfg.MODEL.TRAINED_CLIP.ETRIS
        if keys.BRIDGE_CHANNELS % keys.BRIDGE_HEADS:
            raise InputError(
                f"{KEYS}.ETRIS.BRIDGE_CHANNELS is {keys.BRIDGE_CHANNELS}; it has to be a multiple "
                f"of {KEYS}.ETRIS.BRIDGE_HEADS, {keys.BRIDGE_HEADS}"
            )
        return {
            **super().from_config(cfg),
            "bridge_channels": keys.BRIDGE_CHANNELS,
            "bridge_heads": keys.BRIDGE_HEADS,
            "image_size": cfg.INPUT.SQUARE_SIZE,
        }

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converter of the authors' checkpoints."""
        return (OFFICIAL_ETRIS,)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, without CLIP, whose norms are frozen."""
        super().train(mode)
        self.backbone.eval()
        return self

    def mask_logits(self, images: Tensor, ids: Tensor, image_of: Tensor | None = None) -> Tensor:
        """Compute mask logits; see `ReferringCLIP.mask_logits`."""
        levels, words, text = self.encode(images, ids, image_of)
        return self.projector(self.decoder(self.neck(levels, text), words, ids == 0), text)

    def encode(
        self, images: Tensor, ids: Tensor, image_of: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Run both encoders with their bridges.

        Args:
            images: [N, 3, H, W] normalised.
            ids: [B, T] token ids.
            image_of: [B] index of the image of every expression; see `mask_logits`.

        Returns:
            Three feature levels [B, C_i, h_i, w_i], words [B, T, C] after the last norm, and the
            features [B, D] of the expressions.
        """
        if self.is_resnet:
            image = rows_of(resnet_stem(self.backbone.visual, images), image_of)
            stages = [_as_function(stage) for stage in resnet_stages(self.backbone.visual)]
        else:
            image = rows_of(embed(self.backbone.visual, images), image_of)
            stages = list(self._vit_stages())
        grid = (images.shape[-2] // self.divisor, images.shape[-1] // self.divisor)
        text = (
            self.backbone.token_embedding(ids) + self.backbone.positional_embedding[: ids.shape[1]]
        )
        levels, before = [], None
        for run_image, run_text, bridge in zip(
            stages, self._text_stages(ids.shape[1]), self.bridges, strict=True
        ):
            image, text = run_image(image), run_text(text)
            feature_map = image if self.is_resnet else _to_map(image, grid)
            added_image, added_text, before = bridge(feature_map, text, before)
            text = text + added_text
            if self.is_resnet:
                image = image + added_image
                levels.append(image)
            else:
                patches = image[:, 1:] + added_image.flatten(2).transpose(1, 2)
                image = torch.cat([image[:, :1], patches], dim=1)
                levels.append(_to_map(image, grid))
        if self.pooling is not None:
            levels[-1] = self.pooling(self.backbone.visual.attnpool, image)
        else:
            levels[-1] = _to_map(project(self.backbone.visual, image), grid)
        words = self.backbone.ln_final(text)
        return levels, words, pool_text(self.backbone, words, ids)

    def _vit_stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        blocks = self.backbone.visual.transformer.resblocks
        start = 0
        for end in stage_ends(len(blocks), NUM_STAGES):
            yield _run_blocks(blocks[start:end], None)
            start = end

    def _text_stages(self, length: int) -> Iterator[Callable[[Tensor], Tensor]]:
        blocks = self.backbone.transformer.resblocks
        mask = self.backbone.attn_mask[:length, :length]
        start = 0
        for end in stage_ends(len(blocks), NUM_STAGES):
            yield _run_blocks(blocks[start:end], mask)
            start = end


def _run_blocks(blocks: Any, mask: Tensor | None) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x, attn_mask=mask)
        return x

    return run


def _as_function(stage: nn.Module) -> Callable[[Tensor], Tensor]:
    return stage


def _to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [B, 1 + h w, C] -> patches [B, C, h, w]."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
