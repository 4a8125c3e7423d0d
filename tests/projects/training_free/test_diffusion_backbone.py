"""Backbone of a diffusion model's features, with a tiny random pipeline."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from hipie import model_zoo

pytest.importorskip("diffusers", reason="the optional package diffusers is not installed")


@pytest.fixture(scope="module")
def cfg(configs):
    options = (
        *("MODEL.BACKBONE.NAME", "build_diffusion_backbone", "MODEL.TRAINING_FREE.DIFFUSION.STEP"),
        *(0, "MODEL.PIXEL_MEAN", [127.5] * 3, "MODEL.PIXEL_STD", [127.5] * 3),
    )
    return model_zoo.get_config(str(configs / "diffusion_random.yaml"), options)


@pytest.fixture(scope="module")
def backbone(cfg):
    return build_backbone(cfg).eval()


def with_phrases(cfg, phrases):
    cfg = cfg.clone()
    cfg.MODEL.TRAINING_FREE.DIFFUSION.PHRASES = phrases
    return build_backbone(cfg).eval()


def test_outputs_have_their_shapes(backbone):
    assert backbone.size_divisibility == 32
    outputs = backbone(torch.rand(2, 3, 64, 96) * 2 - 1)
    assert set(outputs) == {"res3", "res4", "res5"}
    for name, shape in backbone.output_shape().items():
        size = (64 // shape.stride, 96 // shape.stride)
        assert outputs[name].shape == (2, shape.channels, *size)
        assert outputs[name].isfinite().all()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_the_finest_output_is_what_the_unet_decodes(backbone):
    """The last block's output, normalised and convolved, is the U-Net's."""
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    unet = backbone.diffusion.unet
    latent = backbone.diffusion.noisy_latent((image[0] + 1) / 2, 0)
    with torch.no_grad():
        expected = unet(latent, torch.tensor([0]), backbone.text).sample
        decoded = unet.conv_out(unet.conv_act(unet.conv_norm_out(backbone(image)["res3"])))
    torch.testing.assert_close(decoded, expected)


def test_images_of_a_batch_do_not_influence_each_other(backbone):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    together = backbone(images)["res4"]
    torch.testing.assert_close(together[1:], backbone(images[1:])["res4"])


def test_names_add_their_cross_attention(cfg, backbone):
    """PHRASES: one channel a name, whose values of all names sum to 1 in every pixel."""
    named = with_phrases(cfg, ("dog", "red car"))
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    plain, outputs = backbone(image), named(image)
    for name, shape in named.output_shape().items():
        assert shape.channels == backbone.output_shape()[name].channels + 2
        maps = outputs[name][0, -2:]
        torch.testing.assert_close(maps.sum(0), torch.ones_like(maps[0]))
        assert outputs[name].shape[-2:] == plain[name].shape[-2:]
    swapped = with_phrases(cfg, ("red car", "dog"))(image)["res4"]
    torch.testing.assert_close(swapped[0, -1], outputs["res4"][0, -2])


def test_hipie_learns_on_the_features(cfg, tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_diffusion_backbone"
    tiny_cfg.MODEL.TRAINING_FREE.DIFFUSION.SOURCE = "random:tiny"
    model = build_model(tiny_cfg).train()
    from hipie.data.build import build_train_loader

    losses = model(next(iter(build_train_loader(tiny_cfg))))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
