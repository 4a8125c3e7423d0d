"""Prototype matching on synthetic features with known masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import Clip
from hipie_fewshot import Example, ExampleError
from hipie_fewshot.modeling.clip_features import ClipPatches
from hipie_fewshot.modeling.patch_features import (
    patch_mask_fractions,
    resize_to_square,
    upsample_patch_values,
)
from hipie_fewshot.modeling.prototype import Prototype, compute_prototypes


class ColourEncoder:
    """Replacement of a ViT whose patch features encode the mean colour, with a little noise."""

    device = torch.device("cpu")

    patch_size, image_size = 14, 112

    def __init__(self, noise=0.1):
        self.model = torch.nn.Linear(3, 16, bias=False)
        generator = torch.Generator().manual_seed(0)
        self.codes = torch.linalg.qr(torch.randn(16, 3, generator=generator)).Q
        self.noise, self.generator = noise, generator

    def extract_features(self, images):
        colours = F.avg_pool2d(images, self.patch_size).flatten(2).transpose(1, 2)
        features = colours @ self.codes.T
        noise = torch.randn(features.shape, generator=self.generator)
        return features + self.noise * noise / 4


def scene(corner, size=(112, 112), side=42):
    """Draw a red square on green; the image and the square's mask."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 1] = 200
    mask = np.zeros(size, bool)
    mask[corner[0] : corner[0] + side, corner[1] : corner[1] + side] = True
    image[mask] = (220, 0, 0)
    return image, mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("size", [(112, 112), (224, 168)])
def test_coloured_regions_are_segmented(background, size):
    """Bilinear upsampling rounds the corners, so the IoU at patch 14 stays below 0.95."""
    example = Example(*scene((14, 28)))
    image, mask = scene((56, 42), size, side=84 if size[0] == 224 else 42)
    result = Prototype(ColourEncoder(), background).predict(image, [example])
    assert result.mask.shape == size
    assert iou(result.mask.numpy(), mask) > 0.9
    assert 0.8 < result.score <= 1


def test_prototypes_of_clip_are_those_of_its_patches():
    clip = Clip.from_source("random:tiny")
    side = 2 * clip.image_size[0]
    encoder = ClipPatches(clip, side)
    image, mask = scene((56, 42))
    square = torch.from_numpy(resize_to_square(image, side)).permute(2, 0, 1) / 255
    features = encoder.extract_features(square[None])
    grid = side // clip.patch_size[0]
    assert features.shape == (1, grid * grid, clip.width)
    encoded = clip.encode(square, (side, side))
    torch.testing.assert_close(features[0], encoded.patch_features.flatten(0, 1))
    result = Prototype(encoder).predict(image, [Example(image, mask)])
    assert result.mask.shape == mask.shape and iou(result.mask.numpy(), mask) > 0.3
    with pytest.raises(InputError, match=r"FEWSHOT.SIZE is 33; it has to be a multiple of CLIP's"):
        ClipPatches(clip, 33)


def test_every_patch_is_assigned_to_the_right_prototype():
    image, mask = scene((56, 42))
    dino = ColourEncoder()
    patches = F.normalize(
        dino.extract_features(torch.from_numpy(image).permute(2, 0, 1)[None] / 255), dim=-1
    )
    fractions = patch_mask_fractions(mask, 112, 14).flatten()
    inside, outside = compute_prototypes(patches[0], fractions)
    assert torch.equal(patches[0] @ inside > patches[0] @ outside, fractions > 0.5)
    assert inside.norm() == pytest.approx(1)


def test_prototypes_are_means_over_all_patches():
    patches = F.normalize(torch.randn(12, 5), dim=-1)
    fractions = torch.tensor([0.6, 0.5, 0.4, 1, 0, 0, 0.9, 0, 0, 0, 0, 0])
    inside, outside = compute_prototypes(patches, fractions)
    expected = patches[[0, 3, 6]].double().mean(0)
    torch.testing.assert_close(inside, (expected / expected.norm()).float())
    rest = patches[[1, 2, 4, 5, 7, 8, 9, 10, 11]].double().mean(0)
    torch.testing.assert_close(outside, (rest / rest.norm()).float())


def test_small_mask_uses_the_patches_with_the_largest_fraction():
    patches = F.normalize(torch.randn(4, 5), dim=-1)
    inside, _ = compute_prototypes(patches, torch.tensor([0.1, 0.3, 0.3, 0.0]))
    torch.testing.assert_close(inside, F.normalize(patches[1:3].mean(0), dim=0))


def test_fully_masked_example_has_no_background_prototype():
    image, mask = scene((56, 42))
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 220
    assert compute_prototypes(torch.rand(4, 3), torch.ones(4))[1] is None
    result = Prototype(ColourEncoder()).predict(image, [Example(red, np.ones((112, 112), bool))])
    assert iou(result.mask.numpy(), mask) > 0.9


def test_patch_values_are_upsampled_bilinearly():
    values = torch.arange(9.0)
    expected = F.interpolate(values.reshape(1, 1, 3, 3), (30, 20), mode="bilinear")[0, 0]
    assert torch.equal(upsample_patch_values(values, (30, 20)), expected)


def test_masked_fractions_of_patches():
    mask = np.zeros((200, 100), bool)
    mask[:100, :50] = True
    fractions = patch_mask_fractions(mask, 112, 14)
    assert fractions.shape == (8, 8)
    assert fractions[:4, :4].eq(1).all()
    assert fractions.sum() == 16
    thin = np.zeros((500, 500), bool)
    thin[251, 251] = True
    assert patch_mask_fractions(thin, 112, 14).count_nonzero() == 1
    row, column = patch_mask_fractions(thin, 112, 14).nonzero()[0].tolist()
    assert (row, column) == (4, 4)


def test_images_are_resized_to_a_square_completely():
    image = np.zeros((50, 200, 3), np.uint8)
    image[:, 100:] = 255
    square = resize_to_square(image, 112)
    assert square.shape == (112, 112, 3)
    assert square[:, :50].max() == 0
    assert square[:, 62:].min() == 255


def test_invalid_examples_are_refused():
    image = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ExampleError, match='the mask of an example of "cup" is empty'):
        Example(image, np.zeros((8, 9), bool), "cup")
    with pytest.raises(ExampleError, match="an example's mask is 8x9, and its image is 9x8"):
        Example(image, np.ones((9, 8), bool))
    with pytest.raises(ExampleError, match="there are no examples"):
        Prototype(ColourEncoder()).predict(image, [])
