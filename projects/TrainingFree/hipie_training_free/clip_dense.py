"""Architectures that label CLIP's patches: MaskCLIP, SCLIP, GEM, and CLIP-DINOiser's teacher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.masked_attention_pooling import project
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.meta_arch import (
    Names,
    Size,
    TrainingFree,
    build_clip,
    rounded_size,
    shared_settings,
)
from hipie_training_free.modeling.affinity_pooling import pool_by_affinity, unsalient_background
from hipie_training_free.modeling.clip_blocks import last_blocks, patch_features, tokens_before
from hipie_training_free.modeling.dino import Dino
from hipie_training_free.modeling.found_background import salient_patches
from hipie_training_free.modeling.gem import gem_tokens, min_max
from hipie_training_free.modeling.maskclip import (
    denoise_prompts,
    maskclip_tokens,
    projected_keys,
    smooth_by_keys,
)
from hipie_training_free.modeling.pixel_refinement import refine_by_pixels, require_pamr
from hipie_training_free.modeling.sclip import sclip_tokens
from hipie_training_free.postprocessing import class_scores, resized
from hipie_training_free.sliding_window import slide


class DenseCLIP(TrainingFree):
    """Cosines of patches and names -> softmax over names -> the best name of every class.

    Args:
        clip: with a ViT that has a class token.
        templates, scale, size, window, stride: see MODEL.TRAINING_FREE.
        pamr_steps, pamr_dilations: see MODEL.TRAINING_FREE.PAMR.
        shared: of `TrainingFree`.
    """

    def __init__(
        self,
        *,
        clip: Clip,
        templates: str = "imagenet",
        scale: float = 100.0,
        size: int = 0,
        window: int = 0,
        stride: int = 112,
        pamr_steps: int = 0,
        pamr_dilations: Sequence[int] = (8, 16),
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        clip.require_mask_pooling()
        self.clip = clip
        self.network = clip.model
        self.names = Names(clip, templates, self.background)
        self.scale, self.size, self.window, self.stride = scale, size, window, stride
        require_pamr(pamr_steps, pamr_dilations)
        self.pamr_steps, self.pamr_dilations = pamr_steps, tuple(pamr_dilations)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE
        return {
            "clip": build_clip(cfg),
            "templates": keys.TEMPLATES,
            "scale": keys.SCALE,
            "size": keys.SIZE,
            "window": keys.WINDOW,
            "stride": keys.STRIDE,
            "pamr_steps": keys.PAMR.STEPS,
            "pamr_dilations": keys.PAMR.DILATIONS,
            **shared_settings(cfg),
        }

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """[1, 1 + patches, C] of pixels [1, 3, H, W], normalised: what the method is about."""

    def cosines(self, pixels: Tensor, text: Tensor) -> Tensor:
        """[N, h, w] of pixels [1, 3, H, W], normalised, and names [N, D] of unit length."""
        found = patch_features(self.clip.visual, self.tokens(pixels), self.grid(pixels))[0]
        return torch.einsum("nd,dhw->nhw", text, found)

    def grid(self, pixels: Tensor) -> Size:
        """Patches down and across."""
        height, width = self.clip.patch_size
        return pixels.shape[-2] // height, pixels.shape[-1] // width

    def prepared(self, image: Tensor) -> Tensor:
        """[1, 3, H, W] normalised, sides multiples of the patch."""
        size = rounded_size(tuple(image.shape[-2:]), self.clip.patch_size[0], self.size)
        return self.clip.prepare(image[None], size, "bicubic")

    def name_maps(self, image: Tensor, text: Tensor, size: Size) -> Tensor:
        """[N, *size] what every name scores at every pixel, before the softmax."""
        pixels = self.prepared(image)
        if self.window:
            window = rounded_size((self.window, self.window), self.clip.patch_size[0])[0]
            maps = slide(pixels, window, self.stride, lambda crop: self.cosines(crop, text))
        else:
            maps = self.cosines(pixels, text)
        return resized(maps, size)

    def refined(self, maps: Tensor, image: Tensor) -> Tensor:
        """Maps [N, H, W] after PAMR, which sees the image [3, h, w] at their size."""
        if not self.pamr_steps:
            return maps
        seen = resized(image, tuple(maps.shape[-2:]))
        return refine_by_pixels(maps, seen, self.pamr_steps, self.pamr_dilations)

    def answer(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """See `TrainingFree.answer`."""
        text, owners = self.names.features(vocabulary)
        maps = self.refined(self.name_maps(image, text, size), image)
        maps = (self.scale * maps).softmax(0)
        return self.results(class_scores(maps, owners, len(vocabulary)), vocabulary)


@META_ARCH_REGISTRY.register()
class MaskCLIP(DenseCLIP):
    """Every patch takes its own value in the last block.

    Args:
        keep_block, prompt_denoising, key_smoothing, along_patches: MODEL.TRAINING_FREE.MASKCLIP.
        dense: of `DenseCLIP`.
    """

    @configurable
    def __init__(
        self,
        *,
        keep_block: bool = True,
        prompt_denoising: float = 0.0,
        key_smoothing: float = 0.0,
        along_patches: bool = True,
        **dense: Any,
    ) -> None:
        super().__init__(**dense)
        self.keep_block = keep_block
        self.prompt_denoising = prompt_denoising
        self.key_smoothing = key_smoothing
        self.along_patches = along_patches

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.MASKCLIP
        return {
            **super().from_config(cfg),
            "keep_block": keys.KEEP_BLOCK,
            "prompt_denoising": keys.PROMPT_DENOISING,
            "key_smoothing": keys.KEY_SMOOTHING,
            "along_patches": keys.KEYS_ALONG_PATCHES,
        }

    def tokens(self, pixels: Tensor) -> Tensor:
        """See `DenseCLIP`."""
        block = last_blocks(self.clip.visual, 1)[0]
        return maskclip_tokens(block, tokens_before(self.clip.visual, pixels, 1), self.keep_block)

    def cosines(self, pixels: Tensor, text: Tensor) -> Tensor:
        """See `DenseCLIP`; with key smoothing, probabilities take the place of cosines."""
        cosines = super().cosines(pixels, text)
        if self.prompt_denoising > 0:
            cosines = denoise_prompts(cosines, self.prompt_denoising)
        if self.key_smoothing <= 0:
            return cosines
        probabilities = (self.scale * cosines).softmax(0).flatten(1)
        visual = self.clip.visual
        keys = projected_keys(last_blocks(visual, 1)[0], tokens_before(visual, pixels, 1))[0]
        smooth = smooth_by_keys(probabilities, keys, self.key_smoothing, self.along_patches)
        return smooth.view_as(cosines)


@META_ARCH_REGISTRY.register()
class SCLIP(DenseCLIP):
    """Patches attend to patches alike in the last block."""

    @configurable
    def __init__(self, **dense: Any) -> None:
        super().__init__(**dense)

    def tokens(self, pixels: Tensor) -> Tensor:
        """See `DenseCLIP`."""
        block = last_blocks(self.clip.visual, 1)[0]
        return sclip_tokens(block, tokens_before(self.clip.visual, pixels, 1))


@META_ARCH_REGISTRY.register()
class GEM(DenseCLIP):
    """Self-self attention along the last blocks.

    Args:
        blocks, iterations, temperature, stretch: MODEL.TRAINING_FREE.GEM.
        dense: of `DenseCLIP`.
    """

    @configurable
    def __init__(
        self,
        *,
        blocks: int = 6,
        iterations: int = 1,
        temperature: float = 0.0,
        stretch: bool = True,
        **dense: Any,
    ) -> None:
        super().__init__(**dense)
        last_blocks(self.clip.visual, blocks)
        self.blocks, self.iterations = blocks, iterations
        self.temperature, self.stretch = temperature, stretch

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.GEM
        return {
            **super().from_config(cfg),
            "blocks": keys.BLOCKS,
            "iterations": keys.ITERATIONS,
            "temperature": keys.TEMPERATURE,
            "stretch": keys.MIN_MAX,
        }

    def tokens(self, pixels: Tensor) -> Tensor:
        """See `DenseCLIP`."""
        return gem_tokens(
            last_blocks(self.clip.visual, self.blocks),
            tokens_before(self.clip.visual, pixels, self.blocks),
            self.iterations,
            self.temperature or None,
        )

    def name_maps(self, image: Tensor, text: Tensor, size: Size) -> Tensor:
        """See `DenseCLIP`; stretched at the size of the results."""
        maps = super().name_maps(image, text, size)
        return min_max(maps) if self.stretch else maps


@META_ARCH_REGISTRY.register()
class CLIPDINOiser(DenseCLIP):
    """MaskCLIP's features pooled by DINO's affinities: the training-free teacher.

    With a background threshold, patches that are not salient and of no class surely are background.
    Salient is what FOUND's first, untrained stage says; the paper adds its trained layer.

    Args:
        dino: whose values are compared.
        pooling_threshold: MODEL.TRAINING_FREE.POOLING_THRESHOLD.
        dense: of `DenseCLIP`, without windows.
    """

    @configurable
    def __init__(self, *, dino: Dino, pooling_threshold: float = 0.2, **dense: Any) -> None:
        super().__init__(**dense)
        self.dino = dino
        self.guide = dino.network
        self.pooling_threshold = pooling_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE
        return {
            **super().from_config(cfg),
            "dino": Dino.from_source(keys.DINO.MODEL, keys.DINO.WEIGHTS),
            "pooling_threshold": keys.POOLING_THRESHOLD,
        }

    def tokens(self, pixels: Tensor) -> Tensor:
        """MaskCLIP's, not pooled yet."""
        block = last_blocks(self.clip.visual, 1)[0]
        return maskclip_tokens(block, tokens_before(self.clip.visual, pixels, 1))

    def answer(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """See `TrainingFree.answer`; the softmax is taken patch by patch, as the authors do."""
        text, owners = self.names.features(vocabulary)
        seen = self.dino.see(image, rounded_size(tuple(image.shape[-2:]), self.dino.patch_size))
        own = resized(self._features(self.prepared(image)), seen.grid).flatten(1).t()
        pooled = pool_by_affinity(own, seen.values, self.pooling_threshold)
        patches = (self.scale * text @ F.normalize(pooled, dim=1).t()).float().softmax(0)
        scores = class_scores(patches, owners, len(vocabulary))
        full = self.refined(resized(scores.unflatten(1, seen.grid), size), image)
        if not self.background:
            return self.results(full, vocabulary)
        salient = salient_patches(seen.keys, seen.attention)
        empty = unsalient_background(scores, salient, self.background)
        unsure = resized(empty.unflatten(0, seen.grid)[None].float(), size)[0] > 0.5
        return self.results(full, vocabulary, nothing=unsure)

    def _features(self, pixels: Tensor) -> Tensor:
        """[D, h, w] MaskCLIP's, not normalised."""
        found = project(self.clip.visual, self.tokens(pixels)[:, 1:]).float()[0]
        return found.t().unflatten(1, self.grid(pixels))
