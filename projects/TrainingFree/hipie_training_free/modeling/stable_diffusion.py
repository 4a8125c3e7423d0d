"""Stable Diffusion through `diffusers`, as far as its attention is wanted: one noisy look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.attention_maps import (
    AttentionRecorder,
    completed,
    word_columns,
    word_map,
)

TINY = "random:tiny"
NEEDS = "diffusion attention needs the package diffusers: pip install 'hipie[diffusion]'"
PROMPT = "a photograph of a {}"


class StableDiffusion(nn.Module):
    """The parts of a pipeline that are needed.

    Args:
        unet, vae, text_encoder, scheduler: of diffusers and transformers.
        tokenize: an expression -> ids, padded.
        end: the id that ends an expression.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        text_encoder: nn.Module,
        scheduler: Any,
        tokenize: Callable[[str], list[int]],
        end: int,
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.scheduler, self.tokenize, self.end = scheduler, tokenize, end
        self.eval().requires_grad_(False)

    def noisy_latent(self, image: Tensor, step: int) -> Tensor:
        """[1, C, h, w] of an image [3, H, W] in 0..1, with the noise of a step, always the same.

        Raises:
            TrainingFreeError: for a step that the scheduler does not have.
        """
        steps = self.scheduler.config.num_train_timesteps
        if not 0 <= step < steps:
            raise TrainingFreeError(f"step {step} of the diffusion is outside 0..{steps - 1}")
        clean = self.vae.encode(2 * image[None] - 1).latent_dist.mean
        clean = clean * self.vae.config.scaling_factor
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return self.scheduler.add_noise(clean, noise, torch.tensor([step]))

    def pieces(self, word: str) -> list[int]:
        """Ids of a word, without the marks around an expression."""
        ids = self.tokenize(word)
        return ids[1 : ids.index(self.end)]

    @torch.no_grad()
    def word_maps(
        self, image: Tensor, words: list[str], step: int, spread: int, template: str = PROMPT
    ) -> Tensor:
        """Where each word is, one look of the U-Net a word.

        Args:
            image: [3, H, W] RGB in 0..1, sides that divide by 64 (Stable Diffusion's).
            words: K.
            step: of the noise; about 100 of 1000.
            spread: how often a map goes through the self-attention.
            template: with {} for the word.

        Returns:
            [K, h, w] at the latent's size, each 0..1.
        """
        device = next(self.unet.parameters()).device
        latent = self.noisy_latent(image.to(device), step)
        found = []
        with AttentionRecorder(self.unet) as seen:
            for word in words:
                ids = self.tokenize(template.replace("{}", word))
                columns = word_columns(ids, self.pieces(word))
                if not columns:
                    raise TrainingFreeError(f'"{word}" is too long for a prompt of diffusion')
                hidden = self.text_encoder(torch.tensor([ids], device=device)).last_hidden_state
                seen.clear()
                self.unet(latent, torch.tensor([step], device=device), hidden)
                size = tuple(latent.shape[-2:])
                found.append(completed(word_map(seen.cross, columns, size), seen.own, spread))
        return torch.stack(found)


def load_diffusion(source: str) -> StableDiffusion:
    """A pipeline of diffusers.

    Args:
        source: a folder, a name on the Hugging Face hub, or "random:tiny", a small network with
            random weights.

    Raises:
        TrainingFreeError: if diffusers is not installed, or there is no such pipeline.
    """
    try:
        import diffusers
    except ImportError as error:
        raise TrainingFreeError(NEEDS) from error
    if source == TINY:
        return _tiny()
    if not source:
        raise TrainingFreeError("MODEL.TRAINING_FREE.DIFFUSION.SOURCE names no pipeline")
    try:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            source, safety_checker=None, feature_extractor=None, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[:1]
        raise TrainingFreeError(
            f"{source}: no Stable Diffusion could be loaded ({''.join(first)})"
        ) from error
    own = pipeline.tokenizer

    def tokenize(expression: str) -> list[int]:
        longest = own.model_max_length
        return own(expression, padding="max_length", max_length=longest, truncation=True).input_ids

    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.scheduler)
    return StableDiffusion(*parts, tokenize, own.eos_token_id)


def _tiny() -> StableDiffusion:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = SimpleTokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            latent_channels=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=tokenizer.vocab_size,
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.context_length,
            )
        )
    return StableDiffusion(
        unet,
        vae,
        text,
        DDPMScheduler(),
        lambda expression: tokenizer([expression])[0].tolist(),
        tokenizer.eot_token_id,
    )


def stretched(image: Tensor, size: int) -> Tensor:
    """[3, size, size] of an image [3, H, W]."""
    return F.interpolate(image[None], size=(size, size), mode="bilinear")[0]
