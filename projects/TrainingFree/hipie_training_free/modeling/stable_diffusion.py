"""Attention maps of Stable Diffusion, through `diffusers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import cause_of, printable
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.attention_maps import (
    AttentionRecorder,
    cross_attention_map,
    propagate_by_self_attention,
    token_columns,
)

TINY = "random:tiny"
PIPELINE_LIBRARIES = ("diffusers", "transformers")
MISSING_PACKAGE = "diffusion attention needs the package diffusers: pip install 'hipie[diffusion]'"
PROMPT = "a photograph of a {}"


class StableDiffusion(nn.Module):
    """Networks of a Stable Diffusion pipeline.

    Args:
        unet, vae, text_encoder, scheduler: of diffusers and transformers.
        tokenize: a prompt -> token ids, padded.
        end_token: id of the end token.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        text_encoder: nn.Module,
        scheduler: Any,
        tokenize: Callable[[str], list[int]],
        end_token: int,
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.scheduler, self.tokenize, self.end_token = scheduler, tokenize, end_token
        self.eval().requires_grad_(False)

    def noisy_latent(self, image: Tensor, step: int) -> Tensor:
        """Encode an image [3, H, W] in 0..1 and add deterministic noise: [1, C, h, w].

        Raises:
            TrainingFreeError: for a step outside the scheduler's range.
        """
        steps = self.scheduler.config.num_train_timesteps
        if not 0 <= step < steps:
            raise TrainingFreeError(f"step {step} of the diffusion is outside 0..{steps - 1}")
        clean = self.encode(image)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return self.scheduler.add_noise(clean, noise, torch.tensor([step]))

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode an image [3, H, W] in 0..1 as a scaled latent [1, C, h, w].

        Args:
            image: the image.
            generator: draws a sample of the latent's distribution; None: its mean.
        """
        distribution = self.vae.encode(2 * image[None] - 1).latent_dist
        latent = distribution.mean if generator is None else distribution.sample(generator)
        return torch.as_tensor(latent * self.vae.config.scaling_factor)

    @torch.no_grad()
    def encode_prompt(self, prompt: str, device: torch.device) -> Tensor:
        """Encode a prompt as the U-Net's text [1, T, D]."""
        ids = torch.tensor([self.tokenize(prompt)], device=device)
        return torch.as_tensor(self.text_encoder(ids).last_hidden_state)

    def predict_noise(self, noisy: Tensor, step: int, text: Tensor) -> Tensor:
        """Predict the noise of a latent for several prompts.

        Args:
            noisy: [1, C, h, w].
            step: time step.
            text: [N, T, D].

        Returns:
            [N, C, h, w]; of a network that predicts the velocity, the noise that follows from it.

        Raises:
            TrainingFreeError: for a network that predicts something else.
        """
        steps = torch.tensor([step], device=noisy.device)
        predicted = torch.as_tensor(self.unet(noisy.expand(len(text), -1, -1, -1), steps, text)[0])
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return predicted
        if kind != "v_prediction":
            raise TrainingFreeError(f'a U-Net with the prediction type "{kind}" is not supported')
        kept = self.scheduler.alphas_cumprod[step].to(noisy)
        return kept.sqrt() * predicted + (1 - kept).sqrt() * noisy

    def token_ids(self, phrase: str) -> list[int]:
        """Token ids of a phrase without start and end token."""
        ids = self.tokenize(phrase)
        return ids[1 : ids.index(self.end_token)]

    @torch.no_grad()
    def phrase_maps(
        self,
        image: Tensor,
        phrases: list[str],
        step: int,
        self_attention_steps: int,
        template: str = PROMPT,
    ) -> Tensor:
        """Compute the attention map of each phrase, with one forward pass of the U-Net each.

        Args:
            image: [3, H, W] RGB in 0..1, sides that are multiples of 64 (for Stable Diffusion).
            phrases: K class names.
            step: time step of the noise; about 100 of 1000.
            self_attention_steps: multiplications of a map with the self-attention.
            template: prompt with {} for the phrase.

        Returns:
            [K, h, w] at the latent's size, each 0..1.
        """
        device = next(self.unet.parameters()).device
        latent = self.noisy_latent(image.to(device), step)
        size = tuple(latent.shape[-2:])
        maps = []
        with AttentionRecorder(self.unet) as recorder:
            for phrase in phrases:
                ids = self.tokenize(template.replace("{}", phrase))
                columns = token_columns(ids, self.token_ids(phrase))
                if not columns:
                    raise TrainingFreeError(f'"{phrase}" is too long for a diffusion prompt')
                hidden = self.text_encoder(torch.tensor([ids], device=device)).last_hidden_state
                recorder.clear()
                self.unet(latent, torch.tensor([step], device=device), hidden)
                attention_map = cross_attention_map(recorder.cross_attention, columns, size)
                maps.append(
                    propagate_by_self_attention(
                        attention_map, recorder.self_attention, self_attention_steps
                    )
                )
        return torch.stack(maps)


def load_diffusion(source: str) -> StableDiffusion:
    """Load a pipeline of diffusers.

    Args:
        source: a folder, a name on the Hugging Face hub, or "random:tiny", a small network with
            random weights.

    Raises:
        TrainingFreeError: if diffusers is not installed, or there is no such pipeline.
    """
    try:
        import diffusers
    except ImportError as error:
        raise TrainingFreeError(MISSING_PACKAGE) from error
    if source == TINY:
        return _tiny_pipeline()
    if not source:
        raise TrainingFreeError("MODEL.TRAINING_FREE.DIFFUSION.SOURCE must name a pipeline")
    try:
        _require_known_parts(source, diffusers.StableDiffusionPipeline.load_config(source))
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            source,
            safety_checker=None,
            feature_extractor=None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        raise TrainingFreeError(
            f"{source}: Stable Diffusion could not be loaded ({cause_of(error)})"
        ) from error
    tokenizer = pipeline.tokenizer

    def tokenize(prompt: str) -> list[int]:
        length = tokenizer.model_max_length
        return tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids

    networks = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.scheduler)
    return StableDiffusion(*networks, tokenize, tokenizer.eos_token_id)


def _require_known_parts(source: str, index: Any) -> None:
    """Check that the parts of a pipeline are classes of diffusers and transformers.

    diffusers imports whatever module its `model_index.json` names.

    Raises:
        TrainingFreeError: naming another part.
    """
    parts = dict(index) if isinstance(index, dict) else {}
    for name, part in parts.items():
        library = part[0] if isinstance(part, list | tuple) and part else None
        if library is None or library in PIPELINE_LIBRARIES:
            continue
        raise TrainingFreeError(
            f"{source}: its model_index.json takes {printable(str(name))} from "
            f"{printable(str(library))}, which may run code and is refused"
        )


def _tiny_pipeline() -> StableDiffusion:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from open_clip.tokenizer import SimpleTokenizer
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
        lambda prompt: tokenizer([prompt])[0].tolist(),
        tokenizer.eot_token_id,
    )


def resize_to_square(image: Tensor, size: int) -> Tensor:
    """Resize an image [3, H, W] to [3, size, size]."""
    return F.interpolate(image[None], size=(size, size), mode="bilinear")[0]
