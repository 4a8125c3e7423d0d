"""Synthetic inputs with known segmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from hipie.modeling.clustering import kmeans_groups
from hipie.modeling.open_vocabulary.sliding_window import SlidingWindowConfig
from hipie.refinement.pamr import PAMRConfig, refine_by_pixels
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free import GEM, SCLIP, CLIPDINOiser, MaskCLIP
from hipie_training_free.clip_dinoiser import pool_by_affinity
from hipie_training_free.gem import GEMConfig
from hipie_training_free.meta_arch import ClassificationConfig, InferenceConfig
from hipie_training_free.modeling.dino import DinoFeatures
from hipie_training_free.modeling.dino_class_attention import (
    attention_masks,
    mean_attention_mask,
)
from hipie_training_free.modeling.maskcut import mask_cuts
from hipie_training_free.modeling.tokencut import repeated_cuts, token_cut
from hipie_training_free.unsupervised_grouping import (
    ClassAttention,
    KMeansGrouping,
    MaskCut,
    TokenCut,
)
from tests.projects.training_free.conftest import COLOURS
from tests.projects.training_free.ruled import normal_tensor, unit_tensor

METHODS = {
    "MaskCLIP": lambda clip: MaskCLIP(clip=clip),
    "MaskCLIP, values": lambda clip: MaskCLIP(clip=clip, keep_block=False),
    "MaskCLIP, denoised": lambda clip: MaskCLIP(clip=clip, prompt_denoising=0.5),
    "MaskCLIP, smoothed": lambda clip: MaskCLIP(clip=clip, key_smoothing=1.0, along_patches=False),
    "SCLIP": lambda clip: SCLIP(clip=clip, classification=ClassificationConfig(scale=40.0)),
    "SCLIP, windows": lambda clip: SCLIP(
        clip=clip,
        classification=ClassificationConfig(scale=40.0),
        sliding_window=SlidingWindowConfig(64, 32),
    ),
    "GEM": lambda clip: GEM(clip=clip, gem=GEMConfig(blocks=2)),
    "GEM, not stretched": lambda clip: GEM(
        clip=clip, gem=GEMConfig(blocks=3, iterations=2, min_max=False)
    ),
}


def iou(output: np.ndarray, target: np.ndarray) -> float:
    return float((output & target).sum() / (output | target).sum())


@pytest.mark.parametrize("method", METHODS)
def test_patches_are_classified_correctly(planted, three_colours, method):
    image, target = three_colours
    model = METHODS[method](planted).eval()
    with torch.no_grad():
        pixels = planted.prepare(image[None], (64, 96))
        maps = model.cosines(pixels, planted.text_features(COLOURS))
    assert torch.equal(maps.argmax(0), target[4::8, 4::8])


@pytest.mark.parametrize("method", METHODS)
def test_pixels_are_classified_correctly(planted, three_colours, method):
    image, target = three_colours
    model = METHODS[method](planted).eval()
    vocabulary = Vocabulary.from_names(things=COLOURS[:2], stuff=COLOURS[2:])
    output = model([{"image": 255 * image, "height": 128, "width": 192, "vocabulary": vocabulary}])[
        0
    ]
    resized_target = target.repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
    labels = output["sem_seg"].argmax(0).numpy()
    panoptic, infos = output["panoptic_seg"]
    assert [info["isthing"] for info in infos] == [True, True, False]
    for index in range(3):
        assert iou(labels == index, resized_target == index) > 0.95
        info = next(segment for segment in infos if segment["category_id"] == index)
        assert iou(panoptic.numpy() == info["id"], resized_target == index) > 0.95


def dino_features(
    features: torch.Tensor, grid: tuple[int, int], attention: torch.Tensor
) -> DinoFeatures:
    return DinoFeatures(features, features, features, features, attention, grid)


def test_clip_dinoiser_pools_by_the_affinities_of_dino(planted, dino, three_colours, monkeypatch):
    image, target = three_colours
    changed = image.clone()
    changed[:, 16:24, 8:16] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]  # one green patch in red
    codes = torch.eye(3)[target[4::8, 4::8].flatten()]
    guide = dino_features(codes, (8, 12), torch.ones(4, 96) / 96)
    monkeypatch.setattr(dino, "extract_features", lambda *_: guide)
    vocabulary = Vocabulary.from_names(things=COLOURS)
    item = {"image": 255 * changed, "vocabulary": vocabulary}
    labels = CLIPDINOiser(clip=planted, dino=dino).eval()([item])[0]["sem_seg"].argmax(0)
    for index in range(3):
        assert iou((labels == index).numpy(), (target == index).numpy()) > 0.95
    unpooled = MaskCLIP(clip=planted).eval()([item])[0]["sem_seg"].argmax(0)
    assert int(unpooled[20, 12]) == 1 and int(labels[20, 12]) == 0


@pytest.mark.parametrize(("scale", "is_background"), [(2.0, True), (100.0, False)])
def test_background_of_clip_dinoiser_is_not_salient_and_uncertain(
    planted, dino, three_colours, monkeypatch, scale, is_background
):
    """The class token attends to red; the rest is background if CLIP is uncertain."""
    image, target = three_colours
    red = target[4::8, 4::8].flatten() == 0
    attention = torch.where(red, 0.02, 0.001).expand(4, -1)
    codes, keys = torch.eye(3)[target[4::8, 4::8].flatten()], torch.eye(2)[red.long()].repeat(1, 4)
    monkeypatch.setattr(
        dino,
        "extract_features",
        lambda *_: DinoFeatures(keys, keys, codes, codes, attention, (8, 12)),
    )
    vocabulary = Vocabulary.from_names(things=COLOURS, stuff=["background"])
    model = CLIPDINOiser(
        clip=planted,
        dino=dino,
        inference=InferenceConfig(0.99),
        classification=ClassificationConfig(scale=scale),
    ).eval()
    output = model([{"image": 255 * image, "vocabulary": vocabulary}])[0]
    labels, (panoptic, infos) = output["sem_seg"].argmax(0), output["panoptic_seg"]
    for index in range(3):
        expected = index if index == 0 or not is_background else 3
        assert (labels[target == index] == expected).float().mean() > 0.95
    assert [info["category_id"] for info in infos] == ([0] if is_background else [0, 1, 2])
    assert bool((panoptic == 0).any()) == is_background


@pytest.mark.parametrize(("steps", "dilations"), [(5, (1, 2, 4, 8)), (10, (8, 16))])
def test_pamr_recovers_edges(steps, dilations):
    """Recover the edges of a disc from maps with patches of 16 pixels."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    target = (x - 50) ** 2 + (y - 30) ** 2 < 22**2
    colours = torch.tensor([[0.2, 0.6, 0.3], [0.8, 0.2, 0.2]])[target.long()].permute(2, 0, 1)
    share = avg_pool2d(target.float()[None, None], 16)
    inside = interpolate(share, (64, 96), mode="bilinear")[0]
    maps = torch.cat([1 - inside, inside])
    image = colours + 0.05 * normal_tensor("grain", 3, 64, 96)
    refined = refine_by_pixels(maps, image, steps, dilations)
    assert iou((maps.argmax(0) == 1).numpy(), target.numpy()) < 0.85
    assert iou((refined.argmax(0) == 1).numpy(), target.numpy()) > 0.98


@pytest.mark.parametrize("build", [MaskCLIP, SCLIP, GEM])
def test_dense_methods_support_pamr(planted, three_colours, build):
    image, target = three_colours
    vocabulary = Vocabulary.from_names(things=COLOURS)
    item = {"image": 255 * image, "height": 128, "width": 192, "vocabulary": vocabulary}
    resized_target = target.repeat_interleave(2, 0).repeat_interleave(2, 1)
    arguments = {"gem": GEMConfig(blocks=2)} if build is GEM else {}
    accuracies = []
    for steps in (0, 4):
        model = build(clip=planted, pamr=PAMRConfig(steps, (1, 2, 4)), **arguments).eval()
        accuracies.append(
            float((model([item])[0]["sem_seg"].argmax(0) == resized_target).float().mean())
        )
    assert accuracies[1] > accuracies[0] > 0.95 and accuracies[1] > 0.995


def test_kmeans_recovers_regions(regions):
    features, target = regions
    count = target.max() + 1
    groups = kmeans_groups(features, count, 5).numpy().reshape(target.shape)
    for region in range(count):
        assert max(iou(groups == group, target == region) for group in range(count)) > 0.95
    sizes = np.bincount(groups.ravel())
    assert (np.diff(sizes) <= 0).all(), "groups are sorted by size"


def test_tokencut_recovers_regions(regions):
    features, target = regions
    cuts = repeated_cuts(features, target.shape, target.max(), threshold=0.5)
    assert len(cuts) == target.max()
    for region in range(1, target.max() + 1):
        assert max(iou(cut.mask, target == region) for cut in cuts) > 0.95


def test_maskcut_recovers_regions(regions):
    features, target = regions
    cuts = mask_cuts(features, target.shape, target.max(), threshold=0.5)
    for region in range(1, target.max() + 1):
        assert max(iou(cut.mask, target == region) for cut in cuts) > 0.95
    assert sum(cut.mask.astype(int) for cut in cuts).max() == 1, "objects do not overlap"


def test_uniform_image_is_one_object():
    cut = token_cut(torch.ones(20, 3), (4, 5))
    assert cut.mask.all() and cut.box(8) == (0, 0, 40, 32)


def test_class_attention_recovers_the_region(regions):
    _, target = regions
    inside = torch.from_numpy(target.ravel() == 1)
    heads = torch.stack([torch.where(inside, w, 1.0) for w in (30.0, 20.0, 1.0)])
    heads = heads / heads.sum(1, keepdim=True)
    share = float(heads.mean(0)[inside].sum())
    assert iou(mean_attention_mask(heads, share - 1e-4).numpy(), inside.numpy()) > 0.95
    masks = attention_masks(heads, 0.6)
    assert masks.sum(1).argmax() == 2, "a head with uniform attention has the largest mask"


def test_affinity_pooling_separates_regions():
    codes, dense = torch.eye(2).repeat_interleave(3, 0), unit_tensor("patches", 6, 5)
    output = pool_by_affinity(dense, codes)
    torch.testing.assert_close(output[:3], dense[:3].mean(0).expand(3, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(output[3:], dense[3:].mean(0).expand(3, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "build",
    [
        lambda **parts: KMeansGrouping(clusters=2, **parts),
        lambda **parts: TokenCut(threshold=0.5, **parts),
        lambda **parts: MaskCut(threshold=0.5, objects=1, **parts),
        lambda **parts: ClassAttention(mass=0.9, **parts),
    ],
    ids=["k-means", "TokenCut", "MaskCut", "class attention"],
)
def test_groups_are_classified(planted, dino, monkeypatch, build):
    target = torch.zeros(64, 96, dtype=torch.long)
    target[16:48, 24:64] = 1
    image = torch.eye(3)[target].permute(2, 0, 1)
    patch_target = target[4::8, 4::8].flatten()
    attention = torch.where(
        patch_target == 1, 0.9 / (patch_target == 1).sum(), 0.1 / (patch_target == 0).sum()
    )
    guide = dino_features(torch.eye(3)[patch_target], (8, 12), attention.expand(4, -1))
    monkeypatch.setattr(dino, "extract_features", lambda *_: guide)
    masks_of = {"red": target == 0, "green": target == 1}

    def features(image, masks):
        names = [
            next(n for n, t in masks_of.items() if bool((m & t).sum() * 2 > m.sum())) for m in masks
        ]
        return planted.text_features(names)

    monkeypatch.setattr(planted, "mask_features", features)
    item = {"image": 255 * image, "vocabulary": Vocabulary.from_names(things=COLOURS)}
    output = build(dino=dino, clip=planted).eval()([item])[0]
    panoptic, infos = output["panoptic_seg"]
    assert len(infos) == 2
    for info in infos:
        assert iou((panoptic == info["id"]).numpy(), (target == info["category_id"]).numpy()) > 0.95
