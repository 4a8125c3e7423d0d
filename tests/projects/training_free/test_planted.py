"""Planted codes and regions, where the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free import GEM, SCLIP, CLIPDINOiser, MaskCLIP
from hipie_training_free.clip_dinoiser import pool_by_affinity
from hipie_training_free.gem import GEMConfig
from hipie_training_free.meta_arch import ClassificationConfig, InferenceConfig
from hipie_training_free.modeling.dino import DinoFeatures
from hipie_training_free.modeling.dino_class_attention import (
    attention_masks,
    best_mask,
    mean_attention_mask,
)
from hipie_training_free.modeling.kmeans import (
    border_share,
    kmeans_groups,
    match_groups,
    rank_by_attention,
)
from hipie_training_free.modeling.pixel_refinement import PAMRConfig, refine_by_pixels
from hipie_training_free.modeling.tokencut import repeated_cuts, token_cut
from hipie_training_free.sliding_window import SlidingWindowConfig
from hipie_training_free.unsupervised_grouping import ClassAttention, KMeansGrouping, TokenCut
from tests.projects.training_free.conftest import COLOURS
from tests.projects.training_free.ruled import numbers, unit

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


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("method", METHODS)
def test_every_patch_is_labelled_right(planted, flag, method):
    image, truth = flag
    model = METHODS[method](planted).eval()
    with torch.no_grad():
        pixels = planted.prepare(image[None], (64, 96))
        maps = model.cosines(pixels, planted.text_features(COLOURS))
    assert torch.equal(maps.argmax(0), truth[4::8, 4::8])


@pytest.mark.parametrize("method", METHODS)
def test_pixels_follow(planted, flag, method):
    image, truth = flag
    model = METHODS[method](planted).eval()
    words = Vocabulary.from_names(things=COLOURS[:2], stuff=COLOURS[2:])
    found = model([{"image": 255 * image, "height": 128, "width": 192, "vocabulary": words}])[0]
    large = truth.repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
    labels = found["sem_seg"].argmax(0).numpy()
    panoptic, infos = found["panoptic_seg"]
    assert [info["isthing"] for info in infos] == [True, True, False]
    for place in range(3):
        assert iou(labels == place, large == place) > 0.95
        info = next(one for one in infos if one["category_id"] == place)
        assert iou(panoptic.numpy() == info["id"], large == place) > 0.95


def seen_as(features: torch.Tensor, grid: tuple[int, int], attention: torch.Tensor) -> DinoFeatures:
    return DinoFeatures(features, features, features, features, attention, grid)


def test_the_teacher_takes_dinos_word_for_what_belongs_together(planted, dino, flag, monkeypatch):
    image, truth = flag
    spoilt = image.clone()
    spoilt[:, 16:24, 8:16] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]  # one green patch in red
    codes = torch.eye(3)[truth[4::8, 4::8].flatten()]
    seen = seen_as(codes, (8, 12), torch.ones(4, 96) / 96)
    monkeypatch.setattr(dino, "extract_features", lambda *_: seen)
    words = Vocabulary.from_names(things=COLOURS)
    item = {"image": 255 * spoilt, "vocabulary": words}
    labels = CLIPDINOiser(clip=planted, dino=dino).eval()([item])[0]["sem_seg"].argmax(0)
    for place in range(3):
        assert iou((labels == place).numpy(), (truth == place).numpy()) > 0.95
    alone = MaskCLIP(clip=planted).eval()([item])[0]["sem_seg"].argmax(0)
    assert int(alone[20, 12]) == 1 and int(labels[20, 12]) == 0


@pytest.mark.parametrize(("scale", "empty"), [(2.0, True), (100.0, False)])
def test_the_teachers_background_is_what_nobody_looks_at(
    planted, dino, flag, monkeypatch, scale, empty
):
    """The class token looks at red. All else is background, if CLIP is not sure what it is."""
    image, truth = flag
    red = truth[4::8, 4::8].flatten() == 0
    looks = torch.where(red, 0.02, 0.001).expand(4, -1)
    codes, keys = torch.eye(3)[truth[4::8, 4::8].flatten()], torch.eye(2)[red.long()].repeat(1, 4)
    monkeypatch.setattr(
        dino, "extract_features", lambda *_: DinoFeatures(keys, keys, codes, codes, looks, (8, 12))
    )
    words = Vocabulary.from_names(things=COLOURS, stuff=["background"])
    model = CLIPDINOiser(
        clip=planted,
        dino=dino,
        inference=InferenceConfig(0.99),
        classification=ClassificationConfig(scale=scale),
    ).eval()
    found = model([{"image": 255 * image, "vocabulary": words}])[0]
    labels, (panoptic, infos) = found["sem_seg"].argmax(0), found["panoptic_seg"]
    for place in range(3):
        own = place if place == 0 or not empty else 3
        assert (labels[truth == place] == own).float().mean() > 0.95
    assert [info["category_id"] for info in infos] == ([0] if empty else [0, 1, 2])
    assert bool((panoptic == 0).any()) == empty


@pytest.mark.parametrize(("steps", "dilations"), [(5, (1, 2, 4, 8)), (10, (8, 16))])
def test_pixels_draw_the_edges_of_rough_maps(steps, dilations):
    """A disc as patches of 16 pixels show it is brought back to where the colours change."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    truth = (x - 50) ** 2 + (y - 30) ** 2 < 22**2
    colours = torch.tensor([[0.2, 0.6, 0.3], [0.8, 0.2, 0.2]])[truth.long()].permute(2, 0, 1)
    share = avg_pool2d(truth.float()[None, None], 16)
    inside = interpolate(share, (64, 96), mode="bilinear")[0]
    maps = torch.cat([1 - inside, inside])
    image = colours + 0.05 * numbers("grain", 3, 64, 96)
    after = refine_by_pixels(maps, image, steps, dilations)
    assert iou((maps.argmax(0) == 1).numpy(), truth.numpy()) < 0.85
    assert iou((after.argmax(0) == 1).numpy(), truth.numpy()) > 0.98


@pytest.mark.parametrize("build", [MaskCLIP, SCLIP, GEM])
def test_pamr_is_a_setting_of_all_that_label_patches(planted, flag, build):
    image, truth = flag
    words = Vocabulary.from_names(things=COLOURS)
    item = {"image": 255 * image, "height": 128, "width": 192, "vocabulary": words}
    large = truth.repeat_interleave(2, 0).repeat_interleave(2, 1)
    more = {"gem": GEMConfig(blocks=2)} if build is GEM else {}
    right = []
    for steps in (0, 4):
        model = build(clip=planted, pamr=PAMRConfig(steps, (1, 2, 4)), **more).eval()
        right.append(float((model([item])[0]["sem_seg"].argmax(0) == large).float().mean()))
    assert right[1] > right[0] > 0.95 and right[1] > 0.995


def test_kmeans_finds_the_regions(regions):
    features, truth = regions
    count = truth.max() + 1
    groups = kmeans_groups(features, count, 5).numpy().reshape(truth.shape)
    table = np.array(
        [[((groups == g) & (truth == t)).sum() for t in range(count)] for g in range(count)]
    )
    match, mean = match_groups(table)
    assert mean > 0.95
    for group, region in match.items():
        assert iou(groups == group, truth == region) > 0.95
    sizes = np.bincount(groups.ravel())
    assert (np.diff(sizes) <= 0).all(), "the largest group comes first"
    assert border_share(torch.from_numpy(groups)).argmax() == 0


def test_groups_are_ranked_by_where_the_class_token_looks(regions):
    features, truth = regions
    groups = kmeans_groups(features, truth.max() + 1, 5)
    looks = torch.from_numpy((truth.ravel() == 1).astype(np.float32)) + 0.01
    first = rank_by_attention(groups, looks)[0]
    assert iou((groups == first).numpy().reshape(truth.shape), truth == 1) > 0.95


def test_tokencut_finds_the_regions(regions):
    features, truth = regions
    cuts = repeated_cuts(features, truth.shape, truth.max(), threshold=0.5)
    assert len(cuts) == truth.max()
    for region in range(1, truth.max() + 1):
        assert max(iou(cut.mask, truth == region) for cut in cuts) > 0.95


def test_an_image_of_one_kind_is_one_object():
    cut = token_cut(torch.ones(20, 3), (4, 5))
    assert cut.mask.all() and cut.box(8) == (0, 0, 40, 32)


def test_class_attention_finds_the_region(regions):
    _, truth = regions
    inside = torch.from_numpy(truth.ravel() == 1)
    heads = torch.stack([torch.where(inside, w, 1.0) for w in (30.0, 20.0, 1.0)])
    heads = heads / heads.sum(1, keepdim=True)
    share = float(heads.mean(0)[inside].sum())
    assert iou(mean_attention_mask(heads, share - 1e-4).numpy(), inside.numpy()) > 0.95
    masks = attention_masks(heads, 0.6)
    head, found = best_mask(masks, inside)
    assert head == 0 or found >= best_mask(masks[:1], inside)[1]
    assert masks.sum(1).argmax() == 2, "a head that looks everywhere has the largest mask"


def test_pooling_keeps_regions_apart():
    codes, dense = torch.eye(2).repeat_interleave(3, 0), unit("patches", 6, 5)
    found = pool_by_affinity(dense, codes)
    torch.testing.assert_close(found[:3], dense[:3].mean(0).expand(3, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[3:], dense[3:].mean(0).expand(3, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "build",
    [
        lambda **parts: KMeansGrouping(clusters=2, **parts),
        lambda **parts: TokenCut(threshold=0.5, **parts),
        lambda **parts: ClassAttention(mass=0.9, **parts),
    ],
    ids=["k-means", "TokenCut", "class attention"],
)
def test_groups_get_names(planted, dino, monkeypatch, build):
    truth = torch.zeros(64, 96, dtype=torch.long)
    truth[16:48, 24:64] = 1
    image = torch.eye(3)[truth].permute(2, 0, 1)
    small = truth[4::8, 4::8].flatten()
    looks = torch.where(small == 1, 0.9 / (small == 1).sum(), 0.1 / (small == 0).sum())
    seen = seen_as(torch.eye(3)[small], (8, 12), looks.expand(4, -1))
    monkeypatch.setattr(dino, "extract_features", lambda *_: seen)
    truths = {"red": truth == 0, "green": truth == 1}

    def features(image, masks):
        names = [
            next(n for n, t in truths.items() if bool((m & t).sum() * 2 > m.sum())) for m in masks
        ]
        return planted.text_features(names)

    monkeypatch.setattr(planted, "mask_features", features)
    item = {"image": 255 * image, "vocabulary": Vocabulary.from_names(things=COLOURS)}
    found = build(dino=dino, clip=planted).eval()([item])[0]
    panoptic, infos = found["panoptic_seg"]
    assert len(infos) == 2
    for info in infos:
        assert iou((panoptic == info["id"]).numpy(), (truth == info["category_id"]).numpy()) > 0.95
