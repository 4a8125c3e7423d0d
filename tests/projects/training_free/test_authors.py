"""Methods against stored outputs of the authors' programs on the same weights, to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.modeling.open_vocabulary.clip_blocks import last_blocks, patch_features, tokens_before
from hipie.modeling.open_vocabulary.sliding_window import SlidingWindowConfig
from hipie.modeling.postprocessing.class_maps import min_max_normalize
from hipie.refinement.pamr import refine_by_pixels
from hipie_training_free import SCLIP, MaskCLIP
from hipie_training_free.clip_dinoiser import pool_by_affinity
from hipie_training_free.gem import gem_tokens
from hipie_training_free.modeling.found_background import salient_patches
from hipie_training_free.modeling.global_local_clip import global_features
from hipie_training_free.modeling.tokencut import token_cut
from hipie_training_free.sclip import sclip_tokens
from tests.projects.training_free.ruled import normal_tensor, unit_tensor

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize(
    ("name", "denoising", "smoothing"),
    [("maskclip", 0.0, 0.0), ("maskclip_refined", 0.5, 1.0), ("maskclip_half", 0.9, 0.95)],
)
def test_maskclip_equals_the_authors(clip, text, pixels, authors, name, denoising, smoothing):
    model = MaskCLIP(clip=clip, prompt_denoising=denoising, key_smoothing=smoothing).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.cosines(pixels, text), authors[name], **TOLERANCE)


def test_maskclip_on_another_grid_equals_the_authors(clip, text, authors):
    wide_pixels = normal_tensor("pixels_wide", 1, 3, 64, 96)
    with torch.no_grad():
        output = MaskCLIP(clip=clip).eval().cosines(wide_pixels, text)
    torch.testing.assert_close(output, authors["maskclip_wide"], **TOLERANCE)


def test_sclip_equals_the_authors(clip, text, pixels, authors):
    with torch.no_grad():
        tokens = sclip_tokens(last_blocks(clip.visual, 1)[0], tokens_before(clip.visual, pixels, 1))
        output = patch_features(clip.visual, tokens, (8, 8))[0]
    torch.testing.assert_close(
        torch.einsum("nd,dhw->nhw", text, output), authors["sclip"], **TOLERANCE
    )


def test_sclip_with_sliding_windows_equals_the_authors(clip, text, authors, monkeypatch):
    model = SCLIP(clip=clip, sliding_window=SlidingWindowConfig(64, 32)).eval()
    monkeypatch.setattr(
        model, "preprocess", lambda image: normal_tensor("pixels_large", 1, 3, 96, 136)
    )
    with torch.no_grad():
        output = model.name_maps(torch.zeros(3, 96, 136), text, (48, 68))
    torch.testing.assert_close(output, authors["sclip_slide"], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "count", "settings"),
    [
        ("gem", 2, {}),
        ("gem_iter", 2, {"iterations": 2}),
        ("gem_temp", 3, {"temperature": 2.0}),
    ],
)
def test_gem_equals_the_authors(clip, text, pixels, authors, name, count, settings):
    with torch.no_grad():
        tokens_in = tokens_before(clip.visual, pixels, count)
        tokens = gem_tokens(last_blocks(clip.visual, count), tokens_in, **settings)
    output = patch_features(clip.visual, tokens, (8, 8))[0]
    torch.testing.assert_close(output, authors[name], **TOLERANCE)
    if not settings:
        maps = torch.einsum("nd,dhw->nhw", text, output)
        full = torch.nn.functional.interpolate(maps[None], size=(64, 64), mode="bilinear")[0]
        torch.testing.assert_close(
            min_max_normalize(full), authors["gem_maps"], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["", "_noise"])
def test_tokencut_equals_the_authors(authors, name):
    if name:
        features = normal_tensor("graph", 120, 6)
    else:
        features = torch.zeros(12, 10, 32) + unit_tensor("ground", 32)
        features[2:6, 1:5], features[7:11, 6:9] = unit_tensor("one", 32), unit_tensor("two", 32)
        features = (features + 0.1 * normal_tensor("noise", 12, 10, 32)).flatten(0, 1)
    cut = token_cut(features, (12, 10))
    np.testing.assert_allclose(cut.vector, authors[f"tokencut_vector{name}"], atol=1e-5)
    assert np.array_equal(cut.mask, authors[f"tokencut_mask{name}"].bool())
    # Patches of one region have equal values, up to rounding.
    reference = cut.vector.ravel()[int(authors[f"tokencut_seed{name}"])]
    assert abs(cut.vector[cut.seed] - reference) < 1e-9
    assert list(cut.box(16)) == authors[f"tokencut_box{name}"].tolist()


def test_affinity_pooling_equals_the_authors(authors):
    guide = (
        0.4 * normal_tensor("guide", 1, 24, 64)[0] + 0.4 * normal_tensor("guide_mean", 24)[:, None]
    )
    features = normal_tensor("dense", 1, 48, 8, 8)[0].flatten(1).t()
    output = pool_by_affinity(features, guide.t(), 0.2)
    torch.testing.assert_close(output, authors["pooled"], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "steps", "dilations"), [("near", 4, (1, 3)), ("far", 10, (8, 16))]
)
def test_pamr_equals_the_authors(authors, name, steps, dilations):
    image, maps = (
        normal_tensor("pamr_image", 1, 3, 20, 26)[0],
        normal_tensor("pamr_maps", 1, 4, 20, 26)[0],
    )
    output = refine_by_pixels(maps, image, steps, dilations)
    torch.testing.assert_close(output, authors[f"pamr_{name}"], **TOLERANCE)


@pytest.mark.parametrize("case", range(3))
def test_salient_patches_equal_the_authors(authors, case):
    attention = (1.5 * normal_tensor(f"found_looks_{case}", 1, 4, 1, 97)).softmax(-1)[0, :, 0, 1:]
    mean = 0.65 * normal_tensor(f"found_mean_{case}", 1, 1, 32)
    keys = (normal_tensor(f"found_keys_{case}", 1, 97, 32) + mean)[0, 1:]
    background = authors[f"found_background_{case}"].flatten()
    assert 0.02 < background.float().mean() < 0.98
    assert torch.equal(salient_patches(keys, attention), ~background)


def test_global_features_equal_the_authors(clip, pixels, authors):
    masks = torch.zeros(3, 64, 64)
    masks[0], masks[1, :30, :40], masks[2, 33:60, 20:50] = 1, 1, 1
    shares = torch.nn.functional.interpolate(
        masks[None], size=(8, 8), mode="bilinear", antialias=True
    )[0]
    with torch.no_grad():
        output = global_features(clip.visual, pixels, shares, 2)
    torch.testing.assert_close(output, authors["global"], **TOLERANCE)
