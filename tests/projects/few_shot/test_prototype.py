"""Prototypes on planted features, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie_fewshot import Example, ExampleError
from hipie_fewshot.modeling.patch_grid import shown, squashed
from hipie_fewshot.modeling.prototype import Prototype, enlarged, prototypes


class Planted:
    """Stands for a ViT: a patch's feature is a code of its colour, with a little noise."""

    device = torch.device("cpu")

    patch, size = 14, 112

    def __init__(self, noise=0.1):
        self.model = torch.nn.Linear(3, 16, bias=False)
        generator = torch.Generator().manual_seed(0)
        self.codes = torch.linalg.qr(torch.randn(16, 3, generator=generator)).Q
        self.noise, self.generator = noise, generator

    def patches(self, images):
        colours = F.avg_pool2d(images, self.patch).flatten(2).transpose(1, 2)
        found = colours @ self.codes.T
        return found + self.noise * torch.randn(found.shape, generator=self.generator) / 4


def scene(corner, size=(112, 112), side=42):
    """Red on green, and the mask of what is red."""
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
def test_planted_regions_are_found(background, size):
    """In the corners of a region bilinear edges are round, hence not above 0.95 at patch 14."""
    example = Example(*scene((14, 28)))
    image, mask = scene((56, 42), size, side=84 if size[0] == 224 else 42)
    found = Prototype(Planted(), background).find(image, [example])
    assert found.mask.shape == size
    assert iou(found.mask, mask) > 0.9
    assert 0.8 < found.score <= 1


def test_every_patch_is_labelled_right():
    image, mask = scene((56, 42))
    dino = Planted()
    patches = F.normalize(
        dino.patches(torch.from_numpy(image).permute(2, 0, 1)[None] / 255), dim=-1
    )
    shares = shown(mask, 112, 14).flatten()
    inside, outside = prototypes(patches[0], shares)
    assert torch.equal(patches[0] @ inside > patches[0] @ outside, shares > 0.5)
    assert inside.norm() == pytest.approx(1)


def test_examples_are_averaged_over_all_their_patches():
    patches = F.normalize(torch.randn(12, 5), dim=-1)
    shares = torch.tensor([0.6, 0.5, 0.4, 1, 0, 0, 0.9, 0, 0, 0, 0, 0])
    inside, outside = prototypes(patches, shares)
    expected = patches[[0, 3, 6]].double().mean(0)
    torch.testing.assert_close(inside, (expected / expected.norm()).float())
    rest = patches[[1, 2, 4, 5, 7, 8, 9, 10, 11]].double().mean(0)
    torch.testing.assert_close(outside, (rest / rest.norm()).float())


def test_a_small_mask_takes_the_patches_that_have_most_of_it():
    patches = F.normalize(torch.randn(4, 5), dim=-1)
    inside, _ = prototypes(patches, torch.tensor([0.1, 0.3, 0.3, 0.0]))
    torch.testing.assert_close(inside, F.normalize(patches[1:3].mean(0), dim=0))


def test_an_example_that_is_all_object_leaves_the_middle():
    image, mask = scene((56, 42))
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 220
    assert prototypes(torch.rand(4, 3), torch.ones(4))[1] is None
    found = Prototype(Planted()).find(image, [Example(red, np.ones((112, 112), bool))])
    assert iou(found.mask, mask) > 0.9


def test_patches_are_enlarged_as_the_field_does():
    values = torch.arange(9.0)
    expected = F.interpolate(values.reshape(1, 1, 3, 3), (30, 20), mode="bilinear")[0, 0]
    assert torch.equal(enlarged(values, (30, 20)), expected)


def test_masks_on_the_grid():
    mask = np.zeros((200, 100), bool)
    mask[:100, :50] = True
    shares = shown(mask, 112, 14)
    assert shares.shape == (8, 8)
    assert shares[:4, :4].eq(1).all()
    assert shares.sum() == 16
    thin = np.zeros((500, 500), bool)
    thin[251, 251] = True
    assert shown(thin, 112, 14).count_nonzero() == 1
    row, column = shown(thin, 112, 14).nonzero()[0].tolist()
    assert (row, column) == (4, 4)


def test_images_are_squashed_whole():
    image = np.zeros((50, 200, 3), np.uint8)
    image[:, 100:] = 255
    square = squashed(image, 112)
    assert square.shape == (112, 112, 3)
    assert square[:, :50].max() == 0
    assert square[:, 62:].min() == 255


def test_bad_examples_are_one_expression():
    image = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ExampleError, match='the mask of an example of "cup" is empty'):
        Example(image, np.zeros((8, 9), bool), "cup")
    with pytest.raises(ExampleError, match="an example's mask is 8x9, and its image is 9x8"):
        Example(image, np.ones((9, 8), bool))
    with pytest.raises(ExampleError, match="there is no example"):
        Prototype(Planted()).find(image, [])
