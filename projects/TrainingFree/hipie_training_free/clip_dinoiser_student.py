"""CLIP-DINOiser: two convolutions on CLIP that learn DINO's affinities and FOUND's saliency.

Wysoczanska, Simeoni, Ramamonjisoa, Bursuc, Trzcinski, Perez, "CLIP-DINOiser: Teaching CLIP a few
DINO tricks for open-vocabulary semantic segmentation", ECCV 2024, section 3.3. At test CLIP runs
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import CheckpointConverter, Rename, rename_by_table
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_blocks import (
    last_blocks,
    merge_heads,
    queries_keys_values,
    tokens_before,
)
from hipie.modeling.open_vocabulary.masked_attention_pooling import project
from hipie_training_free.clip_dinoiser import (
    PooledDenseCLIP,
    PoolingGuide,
    build_teacher,
    salient_patches_of,
)
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.maskclip import maskclip_tokens

OFFICIAL_CLIP_DINOISER = CheckpointConverter(
    "official CLIP-DINOiser",
    lambda names: "obj_proj.weight" in names,
    rename_by_table(
        [Rename(r"obj_proj\.(.+)", r"affinity.\1"), Rename(r"bkg_decoder\.(.+)", r"saliency.\1")]
    ),
)


@META_ARCH_REGISTRY.register()
class CLIPDINOiserStudent(PooledDenseCLIP):
    """MaskCLIP's features pooled by affinities that a convolution of CLIP's features predicts.

    Training reads the `image` of every dict only. DINO and FOUND are loaded with the first batch,
    and are not part of checkpoints, nor is CLIP.

    Args:
        clip: with a ViT that has a class token.
        teacher: builds `dino` and `saliency`, see `hipie_training_free.clip_dinoiser`.
        channels: of the features whose cosines are the affinities.
        block: counted from the end, the block of CLIP whose features are read.
        saliency_rate: multiple of the base learning rate for the saliency.
        configs: configurations of `PooledDenseCLIP`.

    Raises:
        TrainingFreeError: for a block that CLIP does not have before its last.
    """

    @configurable
    def __init__(
        self,
        *,
        clip: Clip,
        teacher: Callable[[], dict[str, Any]] | None = None,
        channels: int = 256,
        block: int = 3,
        saliency_rate: float = 200.0,
        **configs: Any,
    ) -> None:
        super().__init__(clip=clip, **configs)
        blocks = len(clip.visual.transformer.resblocks)
        if not 2 <= block <= blocks:
            raise TrainingFreeError(
                f"MODEL.TRAINING_FREE.STUDENT.BLOCK is {block}; it has to be in 2..{blocks}"
            )
        width = clip.visual.conv1.out_channels
        self.affinity = nn.Conv2d(width, channels, 3, padding=1, padding_mode="replicate")
        self.saliency = nn.Conv2d(width, 1, 1)
        self.block, self.saliency_rate = block, saliency_rate
        self._build_teacher, self._teacher = teacher, None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.STUDENT
        return {
            **super().from_config(cfg),
            "teacher": partial(build_teacher, cfg),
            "channels": keys.CHANNELS,
            "block": keys.BLOCK,
            "saliency_rate": keys.SALIENCY_MULTIPLIER,
        }

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return True: the convolutions are trained."""
        return True

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        """Converter of the authors' checkpoints."""
        return (OFFICIAL_CLIP_DINOISER,)

    def external_weight_prefixes(self) -> tuple[str, ...]:
        """Prefix of CLIP, which is loaded by its name."""
        return ("network.",)

    def learning_rate_multipliers(self) -> list[tuple[str, float]]:
        """Rate of the saliency."""
        return [("saliency", self.saliency_rate)]

    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features that are read and those that are pooled.

        Args:
            pixels: [1, 3, H, W] normalised.

        Returns:
            [1, C, h, w] after the second norm of the chosen block, and MaskCLIP's [h w, D], not
            normalised.
        """
        visual = self.clip.visual
        with torch.no_grad():
            first, *middle, last = last_blocks(visual, self.block)
            x = tokens_before(visual, pixels, self.block)
            q, k, v = queries_keys_values(first, x)
            x = x + first.ls_1(merge_heads(first, F.scaled_dot_product_attention(q, k, v)))
            read = first.ln_2(x)
            x = x + first.ls_2(first.mlp(read))
            for block in middle:
                x = block(x)
            features = project(visual, maskclip_tokens(last, x)[:, 1:]).float()[0]
            read = read[:, 1:].float().transpose(1, 2).unflatten(2, self.patch_grid(pixels))
        return read, features

    def predict(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the values whose cosines are affinities, and saliency logits.

        Args:
            read: [1, C, h, w], see `encode_patches`.

        Returns:
            [h w, channels] and [h w].
        """
        values = self.affinity(read)[0].flatten(1).t()
        return values, self.saliency(F.normalize(read, dim=1))[0, 0].flatten()

    def guide_pooling(self, image: Tensor) -> PoolingGuide:
        """Pool by predicted affinities; see `PooledDenseCLIP.guide_pooling`."""
        pixels = self.preprocess(image)
        read, features = self.encode_patches(pixels)
        values, saliency = self.predict(read)
        return PoolingGuide(features, values, self.patch_grid(pixels), lambda: saliency > 0)

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the cross entropies of affinities and saliency with those of the teachers.

        As in the released program, cosines below 0 count as 0 and are used as logits; the targets
        are the teacher's cosines of at least the pooling threshold.
        """
        affinity, saliency = [], []
        for item in batched_inputs:
            image = self.rgb_image(item)
            pixels = self.preprocess(image)
            grid = self.patch_grid(pixels)
            similar, salient = self.teach(image, grid)
            values, logits = self.predict(self.encode_patches(pixels)[0])
            unit = F.normalize(values, dim=1)
            cosines = (unit @ unit.t()).clamp(min=0)
            affinity.append(F.binary_cross_entropy_with_logits(cosines, similar))
            saliency.append(F.binary_cross_entropy_with_logits(logits, salient))
        return {
            "loss_affinity": torch.stack(affinity).mean(),
            "loss_saliency": torch.stack(saliency).mean(),
        }

    @torch.no_grad()
    def teach(self, image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute the targets of an image [3, H, W] for h w patches: [h w, h w] and [h w] of 0, 1.

        Raises:
            TrainingFreeError: without a teacher.
        """
        if self._teacher is None:
            if self._build_teacher is None:
                raise TrainingFreeError("CLIPDINOiserStudent has no teacher to be trained by")
            self._teacher = self._build_teacher()
            self._teacher["dino"].network.to(self.device)
            if self._teacher["saliency"] is not None:
                self._teacher["saliency"].dino.network.to(self.device)
        dino, saliency = self._teacher["dino"], self._teacher["saliency"]
        guide = dino.extract_features(image, (grid[0] * dino.patch_size, grid[1] * dino.patch_size))
        unit = F.normalize(guide.values.float(), dim=1)
        similar = unit @ unit.t() >= self.pooling_threshold
        return similar.float(), salient_patches_of(image, guide, saliency).float()
