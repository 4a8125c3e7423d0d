"""TSEG: formulas, training without masks, and masks of expressions."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from hipie.data.dataset_mappers.referring import ReferringDatasetMapper
from hipie.errors import InputError
from hipie_unsupervised.modeling.patch_assignment import (
    assign_patches,
    image_text_loss,
    image_text_scores,
    patch_text_similarity,
    positive_pairs,
)
from hipie_unsupervised.tseg import TSEG
from tests.projects.unsupervised.conftest import LetterCounts
from tests.projects.unsupervised.test_clustering import ColourBackbone

COLOURS = {"a": (220, 30, 30), "b": (30, 220, 30), "c": (30, 30, 220), "d": (220, 220, 30)}


def build(features=("res2",), mask_threshold=0.5, embed_dim=16):
    torch.manual_seed(0)
    return TSEG(
        backbone=ColourBackbone(),
        text_encoder=LetterCounts(),
        features=features,
        embed_dim=embed_dim,
        mask_threshold=mask_threshold,
        pixel_mean=[127.5] * 3,
        pixel_std=[127.5] * 3,
    )


def scene(seed, size=(32, 40)):
    """Two rectangles of different colours on grey, named by a letter each."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(list(COLOURS))[:2]
    image = np.full((*size, 3), 120.0)
    masks = np.zeros((2, *size), bool)
    for row, name in enumerate(names):
        top, left = rng.integers(0, 4), rng.integers(0, 2) + 5 * row
        masks[row, 4 * top : 4 * top + 16, 4 * left : 4 * left + 12] = True
        image[masks[row]] = COLOURS[name]
    image = (image + rng.normal(0, 6, image.shape)).clip(0, 255)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    return {"image": pixels, "expressions": list(names)}, masks


def reference_loss(patches, texts, scale, background, positive, counts):
    """The formulas with loops in float64."""
    total = 0.0
    for image, rows in enumerate(patches):
        for column, text in enumerate(texts):
            weighted = weight_sum = 0.0
            for row in rows[: counts[image]]:
                cosine = row @ text / (math.sqrt(row @ row) * math.sqrt(text @ text))
                s = scale * cosine
                m = math.exp(s) / (math.exp(s) + math.exp(background))
                weighted += m * (s - background)
                weight_sum += m
            p = 1 / (1 + math.exp(-weighted / weight_sum))
            total -= math.log(p if positive[image][column] else 1 - p)
    return total / (len(patches) * len(texts))


def test_loss_equals_loops_in_float64():
    rng = np.random.default_rng(0)
    patches, texts = rng.normal(size=(3, 7, 5)), rng.normal(size=(4, 5))
    positive, counts = rng.random((3, 4)) < 0.4, (7, 4, 6)
    expected = reference_loss(patches, texts, 3.0, 0.4, positive, counts)
    is_patch = torch.arange(7) < torch.tensor(counts)[:, None]
    similarity = patch_text_similarity(
        torch.tensor(patches), torch.tensor(texts), torch.tensor(3.0)
    )
    scores = image_text_scores(similarity, torch.tensor(0.4), is_patch)
    loss = image_text_loss(scores, torch.tensor(positive))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_assignments_of_texts_are_independent():
    similarity = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    alone = assign_patches(similarity[..., 1:2], torch.tensor(0.3))
    assert torch.equal(assign_patches(similarity, torch.tensor(0.3))[..., 1:2], alone)
    pair = torch.stack([similarity, torch.full_like(similarity, 0.3)]).softmax(0)[0]
    torch.testing.assert_close(assign_patches(similarity, torch.tensor(0.3)), pair)


def test_equal_texts_of_two_images_are_one_positive_text_of_both():
    texts, positive = positive_pairs([["a", "b"], ["b"], ["c", "c"]])
    assert texts == ["a", "b", "c"]
    assert positive.tolist() == [[True, True, False], [False, True, False], [False, False, True]]


def test_masks_do_not_change_the_loss():
    model = build().train()
    items = [scene(seed)[0] for seed in range(3)]
    plain = model.losses(items)["loss_image_text"]
    for item in items:
        instances = Instances(tuple(item["image"].shape[-2:]))
        instances.gt_masks = BitMasks(torch.rand(2, *item["image"].shape[-2:]) > 0.5)
        instances.gt_classes = torch.arange(2)
        item["instances"] = instances
    assert torch.equal(model.losses(items)["loss_image_text"], plain)


def test_annotations_need_no_masks(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    box = {"bbox": [4, 4, 20, 20], "category_id": 0}
    corners = [4.0, 4.0, 24.0, 4.0, 24.0, 24.0, 4.0, 24.0]
    record = {
        "file_name": str(tmp_path / "1.png"),
        "height": 40,
        "width": 60,
        "image_id": 1,
        "annotations": [{**box, "segmentation": [corners]}],
        "expressions": [{"expression": "a b", "targets": [0]}, {"expression": "c", "targets": [0]}],
    }
    without = copy.deepcopy(record)
    del without["annotations"][0]["segmentation"]
    options = {"training": True, "min_sizes": (32,), "max_size": 64}
    expected = ReferringDatasetMapper(**options)(record, (3,))
    item = ReferringDatasetMapper(**options, with_masks=False)(without, (3,))
    assert "instances" in expected and "instances" not in item
    assert item["expressions"] == expected["expressions"]
    assert torch.equal(item["image"], expected["image"])
    with pytest.raises(KeyError):
        ReferringDatasetMapper(**options)(without, (3,))


def test_regions_are_learned_from_expressions_alone():
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(150):
        loss = model.losses([scene(8 * step + row)[0] for row in range(8)])["loss_image_text"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    scores, shuffled = [], []
    for seed in range(9000, 9012):
        item, masks = scene(seed)
        results = model([item])[0]["referring"]
        predicted = [result.pred_masks[0].numpy() for result in results]
        for row in range(2):
            scores.append(iou(predicted[row], masks[row]))
            shuffled.append(iou(predicted[row], masks[1 - row]))
    assert np.mean(scores) > 0.75
    assert np.mean(shuffled) < 0.1


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_padding_and_other_images_do_not_change_results():
    model = build().eval()
    item, _ = scene(0)
    small = {**item, "image": item["image"][:, :18, :22], "height": 36, "width": 44}
    (alone,) = model([small])
    together = model([item, small])[1]
    for one, other in zip(alone["referring"], together["referring"], strict=True):
        assert one.pred_masks.shape[1:] == (36, 44)
        assert torch.equal(one.pred_masks, other.pred_masks)
    model.train()
    padded = model._encode_images([item, small])
    assert padded[1][1].sum() == 5 * 6 and padded[1][0].all()


def test_bad_values_are_refused():
    with pytest.raises(InputError, match=r"FEATURES is \('res7',\); the backbone has res2"):
        build(features=("res7",))
    with pytest.raises(InputError, match="MASK_THRESHOLD is 1.0"):
        build(mask_threshold=1.0)
    with pytest.raises(InputError, match="EMBED_DIM is 0"):
        build(embed_dim=0)
    with pytest.raises(InputError, match=r"page.png: TSEG needs `expressions`"):
        build().train().losses([{"image": torch.zeros(3, 8, 8), "file_name": "page.png"}])
