"""Peekaboo: the gradient against a formula in float64, smoothing, and a planted denoiser."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hipie_training_free import Peekaboo
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.alpha_masks import AlphaMask, ColourSmoothing
from hipie_training_free.modeling.score_distillation import (
    PeekabooConfig,
    binary_mask,
    optimize_mask,
    score_distillation_gradient,
)
from hipie_training_free.modeling.stable_diffusion import StableDiffusion

SIZE = 64
END = 9


class LinearVAE(nn.Module):
    """Latents [1, C, h, w] that are a channel mixture of the image's pixels."""

    def __init__(self, mixture: torch.Tensor) -> None:
        super().__init__()
        self.mixture = nn.Parameter(mixture)
        self.config = SimpleNamespace(scaling_factor=0.5)

    def encode(self, image):
        latent = torch.einsum("dc,nchw->ndhw", self.mixture, image)
        return SimpleNamespace(
            latent_dist=SimpleNamespace(mean=latent, sample=lambda generator: latent)
        )


class TextEncoder(nn.Module):
    """The token ids themselves."""

    def forward(self, ids):
        return SimpleNamespace(last_hidden_state=ids[..., None].double())


class Denoiser(nn.Module):
    """U-Net whose prediction is a function of the latent, the step and whether there is a text."""

    def __init__(self, predict) -> None:
        super().__init__()
        self.predict = predict

    def forward(self, noisy, steps, text):
        step = int(steps)
        return (
            torch.stack(
                [
                    self.predict(latent, step, bool((words != END).sum() > 1))
                    for latent, words in zip(noisy, text, strict=True)
                ]
            ),
        )


def pipeline(predict, mixture=None, kind="epsilon") -> StableDiffusion:
    kept = torch.linspace(0.999, 0.01, 100, dtype=torch.float64)
    scheduler = SimpleNamespace(
        alphas_cumprod=kept,
        config=SimpleNamespace(num_train_timesteps=100, prediction_type=kind),
    )
    mixture = torch.eye(3) if mixture is None else mixture
    return StableDiffusion(
        Denoiser(predict),
        LinearVAE(mixture),
        TextEncoder(),
        scheduler,
        lambda prompt: [0, *(1 + len(word) for word in prompt.split()), *[END] * 4][:4],
        END,
    )


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_gradient_equals_the_formula_in_float64():
    rng = np.random.default_rng(0)
    unconditional, conditional, latent, noise = rng.normal(size=(4, 2, 5, 5))
    diffusion = pipeline(
        lambda noisy, step, has_text: torch.from_numpy(
            (conditional if has_text else unconditional) + 0.1 * step * noisy.numpy() ** 2
        )
    )
    text = torch.cat([diffusion.encode_prompt(prompt, torch.device("cpu")) for prompt in ("", "a")])
    as_batch = [torch.from_numpy(values)[None] for values in (latent, noise)]
    gradient = score_distillation_gradient(diffusion, *as_batch, 40, text, 7.5)
    kept = float(diffusion.scheduler.alphas_cumprod[40])
    noisy = np.sqrt(kept) * latent + np.sqrt(1 - kept) * noise
    predicted = 7.5 * conditional - 6.5 * unconditional + 4 * noisy**2
    expected = (1 - kept) * (predicted - noise)
    np.testing.assert_allclose(gradient[0].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_velocity_is_converted_to_noise():
    """A network that predicts the true velocity of a latent predicts its true noise."""
    latent, noise = random(1, 3, 4, 4).double(), torch.randn(1, 3, 4, 4).double()
    kept = pipeline(None).scheduler.alphas_cumprod[40]
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latent
    diffusion = pipeline(lambda *_: velocity[0], kind="v_prediction")
    noisy = kept.sqrt() * latent + (1 - kept).sqrt() * noise
    text = diffusion.encode_prompt("a", torch.device("cpu"))
    torch.testing.assert_close(diffusion.predict_noise(noisy, 40, text), noise)
    with pytest.raises(TrainingFreeError, match='prediction type "sample" is not supported'):
        pipeline(lambda *_: velocity[0], kind="sample").predict_noise(noisy, 40, text)


def test_one_step_moves_the_logits_by_the_chain_rule():
    """Logits of a raster after one step, against the chain rule written out in numpy."""
    mixture = torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    image = random(3, 8, 8)
    config = PeekabooConfig(
        mask="raster", size=8, smoothing_steps=0, iterations=1, learning_rate=0.7, guidance=1.0
    )
    noise_free = pipeline(lambda noisy, step, has_text: 0.3 * noisy, mixture)
    moved = optimize_mask(noise_free, image, "a", 8, config)
    start = optimize_mask(
        noise_free, image, "a", 8, PeekabooConfig(**{**vars(config), "learning_rate": 0.0})
    )
    generator = torch.Generator().manual_seed(0)
    colour = torch.rand(3, 1, 1, generator=generator).numpy().astype(float)
    step = int(torch.randint(2, 99, (), generator=generator))
    noise = torch.randn(1, 2, 8, 8, generator=generator)[0].numpy().astype(float)
    kept = float(noise_free.scheduler.alphas_cumprod[step])
    pixels, alpha = image.numpy().astype(float), start.numpy().astype(float)
    composite = alpha * pixels + (1 - alpha) * colour
    matrix = 0.5 * mixture.numpy().astype(float)
    latent = np.einsum("dc,chw->dhw", matrix, 2 * composite - 1)
    noisy = np.sqrt(kept) * latent + np.sqrt(1 - kept) * noise
    of_latent = (1 - kept) * (0.3 * noisy - noise)
    of_composite = 2 * np.einsum("dc,dhw->chw", matrix, of_latent)
    of_alpha = (of_composite * (pixels - colour)).sum(0) + 0.05
    logits = np.log(alpha / (1 - alpha)) - 0.7 * of_alpha * alpha * (1 - alpha)
    np.testing.assert_allclose(moved.numpy(), 1 / (1 + np.exp(-logits)), atol=2e-6)


def test_smoothing_is_a_weighted_mean_of_similar_neighbours():
    image, values = random(3, 6, 6), torch.randn(6, 6)
    smoothed = ColourSmoothing(image, 1)(values)
    for row, column in ((0, 0), (2, 3), (5, 2)):
        total = weight_sum = 0.0
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                y, x = row + down, column + right
                if not (0 <= y < 6 and 0 <= x < 6):
                    continue
                colours = float((image[:, y, x] - image[:, row, column]).norm())
                weight = np.exp(-(down**2 + right**2) / 50) * np.exp(-0.5 * (colours / 0.08) ** 2)
                total, weight_sum = total + weight * float(values[y, x]), weight_sum + weight
        assert float(smoothed[row, column]) == pytest.approx(total / weight_sum, rel=1e-4)
    constant = torch.full((6, 6), 2.0)
    torch.testing.assert_close(ColourSmoothing(image, 5)(constant), constant)
    assert torch.equal(ColourSmoothing(image, 0)(values), values)


def planted_denoiser(image, region):
    """Denoiser that knows an image's region: the region of the image on one colour.

    The colour is estimated by the mean of the latent's other pixels.
    """

    def predict(noisy, step, _has_text):
        kept = torch.linspace(0.999, 0.01, 100)[step]
        colour = noisy[:, ~region].mean(1)[:, None, None] / kept.sqrt()
        clean = torch.where(region, 0.5 * (2 * image - 1), colour)
        return (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()

    return predict


@pytest.mark.parametrize(("mask", "rate", "smoothing"), [("raster", 3.0, 4), ("fourier", 0.05, 0)])
def test_mask_recovers_the_region_that_a_planted_denoiser_knows(mask, rate, smoothing):
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[6:22, 10:27] = True
    image = 0.3 * random(3, 32, 32) + torch.where(region, 0.6, 0.1)
    config = PeekabooConfig(
        mask=mask,
        size=32,
        smoothing_steps=smoothing,
        iterations=100 if mask == "raster" else 40,
        learning_rate=rate,
        guidance=1.0,
        area=0.02,
        max_step=0.6,
    )
    alpha = optimize_mask(pipeline(planted_denoiser(image, region)), image, "a", 32, config)
    recovered, score = binary_mask(alpha, (32, 32), 0.5)
    iou = (recovered & region).sum() / (recovered | region).sum()
    assert iou > 0.9 and score > 0.8, (iou, score)


def test_area_makes_masks_smaller():
    areas = [
        float(
            optimize_mask(
                pipeline(lambda noisy, *_: noisy),
                random(3, 8, 8),
                "a",
                8,
                PeekabooConfig("raster", 8, 0, 20, 0.1, area=area),
            ).mean()
        )
        for area in (0.0, 1.0, 5.0)
    ]
    assert areas[0] > areas[1] > areas[2]


def test_results_are_the_same_each_time_and_leave_the_random_state():
    image, config = random(3, 8, 8), PeekabooConfig("fourier", 8, 1, 2, 0.1)
    diffusion = pipeline(lambda noisy, *_: noisy)
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        first = optimize_mask(diffusion, image.clone(), "a", 8, config)
    second = optimize_mask(diffusion, image, "a", 8, config)
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_model_returns_one_mask_for_every_expression():
    model = Peekaboo(
        diffusion=pipeline(lambda noisy, *_: noisy),
        size=64,
        peekaboo=PeekabooConfig("raster", 16, 1, 2),
    ).eval()
    item = {"image": 255 * random(3, 20, 30), "expressions": ["a", "bb"], "height": 40, "width": 60}
    (output,) = model([item])
    assert [len(instances) for instances in output["referring"]] == [1, 1]
    instances = output["referring"][0]
    assert instances.pred_masks.shape == (1, 40, 60) and 0.5 < float(instances.scores) <= 1
    empty = Peekaboo(
        diffusion=model.diffusion, size=64, peekaboo=PeekabooConfig("raster", 16, 1, 2, threshold=1)
    ).eval()
    assert [len(instances) for instances in empty([item])[0]["referring"]] == [0, 0]
    with pytest.raises(TrainingFreeError, match="page.png: Peekaboo needs `expressions`"):
        model([{"image": item["image"], "file_name": "page.png"}])
    with pytest.raises(TrainingFreeError, match='" " has no token'):
        model([{**item, "expressions": [" "]}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "PEEKABOO.SIZE is 0"),
        ({"iterations": 0}, "PEEKABOO.ITERATIONS is 0"),
        ({"smoothing_steps": -1}, "SMOOTHING_STEPS is -1"),
        ({"min_step": 0.7, "max_step": 0.6}, "MIN_STEP is 0.7 and MAX_STEP is 0.6"),
        ({"max_step": 1.0}, "MAX_STEP is 1.0"),
        ({"mask": "rooster"}, 'kind of soft mask "rooster"; similar names are raster'),
    ],
)
def test_invalid_settings_raise_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        PeekabooConfig(**options)


def test_a_size_that_the_networks_cannot_downsample_raises_an_error():
    with pytest.raises(TrainingFreeError, match="SIZE is 100; it has to be a multiple of 64"):
        Peekaboo(diffusion=pipeline(None), size=100)


def test_gradient_reaches_the_mask_through_a_pipeline_of_diffusers():
    pytest.importorskip("diffusers", reason="the optional package diffusers is not installed")
    from hipie_training_free.modeling.stable_diffusion import load_diffusion

    diffusion = load_diffusion("random:tiny")
    image = random(3, 32, 32)
    masks = [
        optimize_mask(diffusion, image, phrase, 64, PeekabooConfig("raster", 32, 1, 2, 5.0))
        for phrase in ("a dog", "a red car")
    ]
    assert all(mask.shape == (32, 32) and mask.isfinite().all() for mask in masks)
    assert not torch.allclose(masks[0], masks[1]), "the phrase changes the mask"
    torch.manual_seed(0)
    start = AlphaMask("raster", image, 1)()
    assert not torch.allclose(masks[0], start.detach(), atol=1e-3)
