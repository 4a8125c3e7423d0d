"""Features of a frozen diffusion model as a Detectron2 backbone.

Features of the U-Net's decoder as in ODISE (Xu, Liu, Vahdat, Byeon, Wang, De Mello, CVPR 2023,
section 3.2), and cross-attention to class names as in VPD (Zhao, Rao, Liu, Liu, Zhou, Lu, ICCV
2023, section 3.3). ODISE's implicit captioner is not included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.attention_maps import AttentionRecorder, cross_attention_map
from hipie_training_free.modeling.stable_diffusion import StableDiffusion, load_diffusion

NAMES = {4: "res2", 8: "res3", 16: "res4", 32: "res5", 64: "res6"}


class DiffusionBackbone(Backbone):
    """Outputs of the U-Net's decoder blocks, `res2` to `res6` by their strides 4 to 64.

    The image is encoded by the VAE, noise is added at one step, and the U-Net runs once. All
    weights are frozen. Stable Diffusion has the strides 8 to 64.

    Images are normalised to -1..1: PIXEL_MEAN and PIXEL_STD are 127.5 each.

    Args:
        diffusion: the pipeline.
        step: time step of the noise, which is the same for all images; published 0.
        phrases: class names. Each is one token of the U-Net's text, the end token's feature, and
            its cross-attention is one further channel of every output. Without names the text is
            the empty prompt.

    Raises:
        TrainingFreeError: if no block has one of the strides.
    """

    @configurable
    def __init__(
        self, diffusion: StableDiffusion, step: int = 0, phrases: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.has_pretrained_weights = True
        self.diffusion, self.step, self.phrases = diffusion, step, tuple(phrases)
        self.text: Tensor
        self.register_buffer("text", _encode_text(diffusion, self.phrases), False)
        vae_stride = 2 ** (len(diffusion.vae.config.block_out_channels) - 1)
        self._blocks: dict[str, nn.Module] = {}
        self._shapes: dict[str, ShapeSpec] = {}
        blocks: list[Any] = [*diffusion.unet.up_blocks]
        self._stride = vae_stride * 2 ** sum(block.upsamplers is not None for block in blocks)
        stride = self._stride
        for block in blocks:
            if stride in NAMES:
                layers = getattr(block, "attentions", None) or block.resnets
                channels = block.resnets[-1].out_channels + len(self.phrases)
                self._blocks[NAMES[stride]] = layers[-1]
                self._shapes[NAMES[stride]] = ShapeSpec(channels=channels, stride=stride)
            stride //= 2 if block.upsamplers is not None else 1
        if not self._blocks:
            raise TrainingFreeError(f"the U-Net's strides from {self._stride} on are none of 4..64")

    @classmethod
    def from_config(cls, cfg: CfgNode, _input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE.DIFFUSION`."""
        keys = cfg.MODEL.TRAINING_FREE.DIFFUSION
        return {
            "diffusion": load_diffusion(keys.SOURCE),
            "step": keys.STEP,
            "phrases": tuple(keys.PHRASES),
        }

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the features [B, C, H / stride, W / stride] of images [B, 3, H, W], by name."""
        of_images = [self._features(image) for image in pixels]
        return {name: torch.stack([one[name] for one in of_images]) for name in self._shapes}

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        """Features [C, h, w] of one image [3, H, W] in -1..1, by name."""
        latent = self.diffusion.noisy_latent((image + 1) / 2, self.step)
        outputs: dict[str, Tensor] = {}
        hooks = [
            block.register_forward_hook(_store(outputs, name))
            for name, block in self._blocks.items()
        ]
        step = torch.tensor([self.step], device=latent.device)
        try:
            if not self.phrases:
                self.diffusion.unet(latent, step, self.text)
                return outputs
            with AttentionRecorder(self.diffusion.unet) as recorder:
                self.diffusion.unet(latent, step, self.text)
        finally:
            for hook in hooks:
                hook.remove()
        size = (int(latent.shape[-2]), int(latent.shape[-1]))
        maps = torch.stack(
            [
                cross_attention_map(recorder.cross_attention, [column], size)
                for column in range(len(self.phrases))
            ]
        )
        return {
            name: torch.cat([value, _resized(maps, value).to(value.dtype)])
            for name, value in outputs.items()
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature."""
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        """Divisor of the sides of padded images."""
        return self._stride


@BACKBONE_REGISTRY.register()
def build_diffusion_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DiffusionBackbone:
    """Build the backbone of `MODEL.TRAINING_FREE.DIFFUSION`."""
    return DiffusionBackbone(cfg, input_shape)


@torch.no_grad()
def _encode_text(diffusion: StableDiffusion, phrases: Sequence[str]) -> Tensor:
    """[1, T, C] text of the U-Net: the empty prompt, or one token a phrase."""
    prompts = [diffusion.tokenize(phrase) for phrase in phrases or [""]]
    hidden: Tensor = diffusion.text_encoder(torch.tensor(prompts)).last_hidden_state
    if not phrases:
        return hidden
    ends = torch.tensor([prompt.index(diffusion.end_token) for prompt in prompts])
    return hidden[torch.arange(len(prompts)), ends][None]


def _store(outputs: dict[str, Tensor], name: str) -> Any:
    """Forward hook that stores the output [C, h, w] of a block of one image."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        outputs[name] = value[0] if value.ndim == 4 else value

    return hook


def _resized(maps: Tensor, target: Tensor) -> Tensor:
    """Maps [K, h, w] at the size of a feature [C, h', w']."""
    return F.interpolate(maps[None], size=target.shape[-2:], mode="bilinear")[0]
