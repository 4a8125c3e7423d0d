"""Masks that are optimised under a diffusion model's score (Peekaboo).

Burgert, Ranasinghe, Li, Ryoo, "Peekaboo: Text to Image Diffusion Models are Zero-Shot Segmentors",
2022, section 3; the gradient is that of Poole et al., "DreamFusion", ICLR 2023, equation 3, with
classifier-free guidance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.alpha_masks import AlphaMask, check_kind
from hipie_training_free.modeling.stable_diffusion import StableDiffusion, resize_to_square


@dataclass(frozen=True)
class PeekabooConfig:
    """Keys of `MODEL.TRAINING_FREE.PEEKABOO`.

    Attributes:
        mask: kind of soft mask; see `AlphaMask`.
        size: its side.
        smoothing_steps: see `ColourSmoothing`.
        iterations, learning_rate: of stochastic gradient descent.
        guidance: scale s of the guidance.
        area: weight of the sum of the soft mask.
        min_step, max_step: range of the time steps, as shares of the scheduler's.
        threshold: pixels with a higher value are the mask.
    """

    mask: str = "fourier"
    size: int = 256
    smoothing_steps: int = 40
    iterations: int = 300
    learning_rate: float = 1e-5
    guidance: float = 100.0
    area: float = 0.05
    min_step: float = 0.02
    max_step: float = 0.98
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TrainingFreeError: for a value outside its range.
            OpenVocabularyError: for an unknown kind of soft mask.
        """
        check_kind(self.mask)
        for name in ("SIZE", "ITERATIONS"):
            value = getattr(self, name.lower())
            if value < 1:
                raise TrainingFreeError(
                    f"MODEL.TRAINING_FREE.PEEKABOO.{name} is {value}; it has to be 1 or larger"
                )
        if self.smoothing_steps < 0:
            raise TrainingFreeError(
                f"MODEL.TRAINING_FREE.PEEKABOO.SMOOTHING_STEPS is {self.smoothing_steps}; it has "
                "to be 0 or larger"
            )
        if not 0 <= self.min_step <= self.max_step < 1:
            raise TrainingFreeError(
                f"MODEL.TRAINING_FREE.PEEKABOO.MIN_STEP is {self.min_step} and MAX_STEP is "
                f"{self.max_step}; needed is 0 <= MIN_STEP <= MAX_STEP < 1"
            )


@torch.no_grad()
def score_distillation_gradient(
    diffusion: StableDiffusion,
    latent: Tensor,
    noise: Tensor,
    step: int,
    text: Tensor,
    guidance: float,
) -> Tensor:
    """Compute the score-distillation gradient (1 - a) (e - noise) of a latent.

    a is the scheduler's cumulative product of alphas at the step, e = e_u + s (e_c - e_u), with the
    noise e_u that the U-Net predicts for the empty prompt, and e_c for the text.

    Args:
        diffusion: the networks.
        latent: [1, C, h, w].
        noise: of the same shape.
        step: time step.
        text: [2, T, D], of the empty prompt and of the text.
        guidance: scale s.

    Returns:
        [1, C, h, w].
    """
    kept = diffusion.scheduler.alphas_cumprod[step].to(latent)
    noisy = kept.sqrt() * latent + (1 - kept).sqrt() * noise
    unconditional, conditional = diffusion.predict_noise(noisy, step, text).chunk(2)
    predicted = unconditional + guidance * (conditional - unconditional)
    return (1 - kept) * (predicted - noise)


def optimize_mask(
    diffusion: StableDiffusion, image: Tensor, phrase: str, size: int, config: PeekabooConfig
) -> Tensor:
    """Optimise a soft mask so that what it shows of an image is what a phrase says.

    In each iteration the image is shown through the mask on one random colour and encoded; the mask
    follows the score-distillation gradient of one time step, and the gradient of its sum times the
    weight of the area. Random numbers have a fixed seed.

    Args:
        diffusion: the networks; they have to be differentiable with respect to images.
        image: [3, H, W] RGB in 0..1.
        phrase: the prompt.
        size: side of the square that is encoded.
        config: settings.

    Returns:
        [S, S] in 0..1, S being `config.size`.
    """
    device = next(diffusion.parameters()).device
    with torch.inference_mode(False), torch.enable_grad():
        # Weights and image may come from inference mode, whose tensors have no gradients.
        shown = resize_to_square(image.detach().clone().to(device), config.size)
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mask = AlphaMask(config.mask, shown, config.smoothing_steps).to(device)
        optimizer = torch.optim.SGD(mask.parameters(), lr=config.learning_rate)
        text = torch.cat([diffusion.encode_prompt("", device), _text(diffusion, phrase, device)])
        steps = diffusion.scheduler.config.num_train_timesteps
        first, last = int(steps * config.min_step), int(steps * config.max_step)
        for _ in range(config.iterations):
            alpha = mask()
            colour = torch.rand(3, 1, 1, generator=generator).to(shown)
            composite = alpha * shown + (1 - alpha) * colour
            latent = diffusion.encode(resize_to_square(composite, size), generator)
            step = int(torch.randint(first, last + 1, (), generator=generator))
            noise = torch.randn(latent.shape, generator=generator).to(latent)
            gradient = score_distillation_gradient(
                diffusion, latent.detach(), noise, step, text, config.guidance
            )
            loss = (latent * gradient).sum() + config.area * alpha.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return mask().detach()


def binary_mask(alpha: Tensor, size: tuple[int, int], threshold: float) -> tuple[Tensor, float]:
    """Resize a soft mask and binarise it.

    Args:
        alpha: [S, S] in 0..1.
        size: (height, width) of the result.
        threshold: pixels with a higher value are the mask.

    Returns:
        [height, width] bool, and the mean value inside it (0 for an empty mask).
    """
    resized = F.interpolate(alpha[None, None], size=size, mode="bilinear")[0, 0]
    mask = resized > threshold
    return mask, float(resized[mask].mean()) if mask.any() else 0.0


def _text(diffusion: StableDiffusion, phrase: str, device: torch.device) -> Tensor:
    if not diffusion.token_ids(phrase):
        raise TrainingFreeError(f'"{phrase}" has no token for the diffusion model')
    return diffusion.encode_prompt(phrase, device)
