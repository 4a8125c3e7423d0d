"""CLIP ensemble: formulas, class prompts, preprocessing and configuration."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.data import MetadataCatalog

from hipie import model_zoo
from hipie.modeling.open_vocabulary.clip_ensemble import (
    MASK_FEATURES,
    MAX_CACHED_VOCABULARIES,
    ClipEnsemble,
    ScoreEnsemble,
)
from hipie.vocabularies.vocabulary import Vocabulary

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
IN_TRAINING, THING = (True, False, True, False), (True, True, False, False)
VOCABULARY = Vocabulary.from_names(
    things=["accordion", ("fellow", "person"), "dog"], stuff=["sky,clouds", "tar"]
)


def weights_of(config: str) -> tuple:
    cfg = model_zoo.get_config(f"eval/{config}.yaml")
    if not cfg.MODEL.HIPIE.CLIP.ENABLED:
        return ()
    ensemble = ClipEnsemble.from_config(cfg).ensemble
    assert cfg.MODEL.HIPIE.CLIP.MODEL == "ViT-L-14-336" and ensemble.method == "multiply"
    assert ensemble.alpha[0] == ensemble.alpha[1] and ensemble.beta[0] == ensemble.beta[1]
    return (
        ensemble.alpha[0],
        ensemble.beta[0],
        ensemble.thing_temperature,
        cfg.MODEL.HIPIE.TEST.TEMPERATURE,
    )


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ade20k", (0.4, 0.45, 0.06, 0.06)),
        ("odinw", (0.2, 0.45, 0.06, 0.06)),
        ("seginw", (0.2, 0.45, 0.06, 0.06)),
        ("pascal_context_459", (0.35, 0.45, 0.06, 0.06)),
        ("voc", (0.01, 0.4, 0.005, 0.06)),
        ("coco", ()),
        ("refcoco", ()),
        ("parts", ()),
    ],
)
def test_evaluation_configs_have_the_published_weights(task, expected):
    assert weights_of(f"hipie_r50_{task}") == weights_of(f"hipie_vit_h_{task}") == expected


def test_classes_that_share_a_prompt_with_the_training_vocabulary():
    image = torch.zeros(3, 20, 30)
    classes = ClipEnsemble("random:tiny").mask_scores(image, MEAN, VOCABULARY).classes
    assert classes.prompts == (
        ("accordion",),
        ("fellow", "person"),
        ("dog",),
        ("sky", "clouds"),
        ("tar",),
    )
    assert classes.in_training == (False, True, True, True, False)
    assert classes.is_thing == (True, True, True, False, False)


def test_unseen_classes_of_a_data_set_are_not_in_training():
    name = "clip_ensemble_training_data"
    MetadataCatalog.get(name).set(thing_classes=["dog", "tar"], unseen_classes=["tar"])
    ensemble = ClipEnsemble("random:tiny", train_vocabulary=name)
    classes = ensemble.mask_scores(torch.zeros(3, 20, 30), MEAN, VOCABULARY).classes
    assert classes.in_training == (False, False, True, False, False)
    wrong = ClipEnsemble("random:tiny", train_vocabulary="coco_panoptics")
    with pytest.raises(
        ValueError, match=r"CLIP.TRAIN_VOCABULARY\) .*similar names are coco_panoptic"
    ):
        wrong.mask_scores(torch.zeros(3, 20, 30), MEAN, VOCABULARY)


def test_image_is_converted_to_rgb_and_padded_with_the_mean():
    image = torch.arange(3 * 20 * 30).view(3, 20, 30).remainder(255).float()
    plain = ClipEnsemble("random:tiny").mask_scores(image, MEAN, VOCABULARY)
    assert plain.size == (20, 30) and torch.allclose(plain.image, image / 255)
    padded = ClipEnsemble("random:tiny", bgr=True).mask_scores(image, MEAN, VOCABULARY, 32)
    assert padded.size == (32, 32)
    assert torch.allclose(padded.image[:, :20, :30], image.flip(0) / 255, atol=1e-6)
    assert torch.allclose(padded.image[:, 20:], MEAN.flip(0) / 255)


def test_names_are_checked_before_loading():
    with pytest.raises(ValueError, match="similar names are ViT-L-14-336"):
        ClipEnsemble("ViT-L-14-366", "openai")
    resnet = ClipEnsemble("random:RN50")
    with pytest.raises(ValueError, match="no class token"):
        resnet.mask_scores(torch.zeros(3, 20, 30), MEAN, VOCABULARY)
    assert ScoreEnsemble() == resnet.ensemble


def test_prompts_of_vocabularies_are_cached_with_a_bound():
    ensemble, image = ClipEnsemble("random:tiny"), torch.zeros(3, 20, 30)
    classes = ensemble.mask_scores(image, MEAN, VOCABULARY).classes
    assert ensemble.mask_scores(image, MEAN, VOCABULARY).classes is classes
    for number in range(MAX_CACHED_VOCABULARIES):
        ensemble.mask_scores(image, MEAN, Vocabulary.from_names([f"name {number}"]))
    assert len(ensemble._prompts) == MAX_CACHED_VOCABULARIES
    assert ensemble.mask_scores(image, MEAN, VOCABULARY).classes is not classes


@pytest.fixture
def probabilities() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(6, 4, generator=generator).softmax(-1) for _ in range(2))


def test_weights_of_things_and_stuff():
    ensemble = ScoreEnsemble(alpha=(0.1, 0.2), beta=(0.3, 0.4))
    assert ensemble.weights(IN_TRAINING, THING).tolist() == pytest.approx([0.1, 0.3, 0.2, 0.4])


@pytest.mark.parametrize("method", ["multiply", "add"])
def test_combine_equals_the_formula(probabilities, method):
    own, clip = probabilities
    ensemble = ScoreEnsemble((0.1, 0.2), (0.3, 0.4), method)
    combined = ensemble.combine(own, clip, ensemble.weights(IN_TRAINING, THING))
    for q in range(6):
        for k, a in enumerate((0.1, 0.3, 0.2, 0.4)):
            p, c = float(own[q, k]), float(clip[q, k])
            expected = p ** (1 - a) * c**a if method == "multiply" else (1 - a) * p + a * c + 1e-9
            assert float(combined[q, k]) == pytest.approx(math.log(expected), abs=1e-5)


def test_weight_0_is_the_model_and_weight_1_is_clip(probabilities):
    own, clip = probabilities
    for weight, expected in ((0.0, own), (1.0, clip)):
        for method in ("multiply", "add"):
            ensemble = ScoreEnsemble((weight,) * 2, (weight,) * 2, method)
            weights = ensemble.weights(IN_TRAINING, THING)
            torch.testing.assert_close(ensemble.panoptic_scores(own, clip, weights), expected)
    # Also where the other model has probability 0.
    own, clip = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    alone = ScoreEnsemble((1.0, 1.0), (1.0, 1.0))
    assert alone.panoptic_scores(own, clip, torch.ones(2)).tolist() == [[1.0, 0.0]]


def test_instance_scores_equal_the_formula(probabilities):
    clip = probabilities[1]
    generator = torch.Generator().manual_seed(1)
    logits, iou_logits = (
        torch.randn(6, n, generator=generator, dtype=torch.float64) * 3 for n in (4, 1)
    )
    logits[:, 3] = -9999
    ensemble = ScoreEnsemble((0.2, 0.2), (0.45, 0.45), thing_temperature=0.01)
    weights = ensemble.weights(IN_TRAINING, THING)
    scores = ensemble.instance_scores(logits, iou_logits, clip, weights)
    sure = 1 / (1 + (-logits).exp()) / 0.01
    own = (sure - sure.amax(1, keepdim=True)).exp()
    own = own / own.sum(1, keepdim=True)
    for q in range(6):
        for k, a in enumerate((0.2, 0.45, 0.2)):
            x = float(own[q, k]) ** (1 - a) * float(clip[q, k]) ** a
            iou = 1 / (1 + math.exp(-float(iou_logits[q, 0])))
            expected = math.sqrt((x / (1 + x)) ** 0.3 * iou**1.7)
            assert float(scores[q, k]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (scores[:, 3] == 0).all()


def test_single_class_uses_a_sigmoid():
    ensemble = ScoreEnsemble((0.5, 0.5), (0.5, 0.5))
    logits, iou_logits = torch.tensor([[0.4]]), torch.tensor([[2.0]])
    scores = ensemble.instance_scores(
        logits, iou_logits, torch.tensor([[0.3]]), torch.tensor([0.5])
    )
    x = math.sqrt(1 / (1 + math.exp(-0.4)) * 0.3)
    iou = 1 / (1 + math.exp(-2))
    assert float(scores) == pytest.approx(math.sqrt((x / (1 + x)) ** 0.3 * iou**1.7), abs=1e-6)


def test_sum_over_classes_is_kept(probabilities):
    own, clip = probabilities
    ensemble = ScoreEnsemble()
    weights = ensemble.weights(IN_TRAINING, THING)
    scores = ensemble.panoptic_scores(own * 0.25, clip, weights)
    torch.testing.assert_close(scores.sum(-1), torch.full((6,), 0.25))
    torch.testing.assert_close(scores * 4, ensemble.panoptic_scores(own, clip, weights))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "max"}, "none of multiply, add"),
        ({"alpha": (0.2,)}, "two numbers in 0..1"),
        ({"beta": (0.2, 1.2)}, "two numbers in 0..1"),
        ({"thing_temperature": 0.0}, "positive"),
    ],
)
def test_invalid_settings_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScoreEnsemble(**arguments)


def scores_with(mask_features: str, image):
    return ClipEnsemble("random:tiny", mask_features=mask_features).mask_scores(
        255 * image, MEAN, VOCABULARY
    )


def test_pooled_feature_of_one_patch_is_that_of_the_patch(image):
    scores = scores_with("patch_pooling", image)
    patches = scores.encoded_image.patch_features.flatten(0, 1)
    rows, columns = scores.encoded_image.grid
    one_patch_each = torch.eye(rows * columns, dtype=torch.bool).unflatten(1, (rows, columns))
    expected = torch.nn.functional.normalize(patches, dim=-1)
    torch.testing.assert_close(scores.features(one_patch_each), expected)
    two = (one_patch_each[0] | one_patch_each[-1])[None]
    mean = torch.nn.functional.normalize(patches[[0, -1]].mean(0), dim=0)
    torch.testing.assert_close(scores.features(two)[0], mean)
    empty = torch.zeros_like(two)
    whole = torch.nn.functional.normalize(scores.encoded_image.image_feature, dim=0)
    torch.testing.assert_close(scores.features(empty)[0], whole)


def test_crop_of_all_patches_is_the_image(image):
    scores = scores_with("crops", image)
    rows, columns = scores.encoded_image.grid
    masks = torch.zeros(3, rows, columns, dtype=torch.bool)
    masks[0] = True
    masks[1, 0, 0] = True
    features = scores.features(masks)
    torch.testing.assert_close(features[0], scores.clip.image_features(scores.image[None])[0])
    whole = torch.nn.functional.normalize(scores.encoded_image.image_feature, dim=0)
    torch.testing.assert_close(features[2], whole)
    inside = torch.nn.functional.interpolate(masks[1][None, None].float(), size=scores.size)[
        0, 0
    ].bool()
    box = (inside.any(1).sum(), inside.any(0).sum())
    corner = scores.image[:, : box[0], : box[1]]
    torch.testing.assert_close(features[1], scores.clip.image_features(corner[None])[0])


def test_features_of_masks_differ_by_key(image):
    masks = torch.zeros(1, *scores_with("crops", image).encoded_image.grid, dtype=torch.bool)
    masks[0, 0, :] = True
    found = [scores_with(kind, image).features(masks) for kind in MASK_FEATURES]
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(found, found[1:], strict=False))
    with pytest.raises(ValueError, match="MASK_FEATURES is 'boxes'; it has to be class_token or"):
        ClipEnsemble("random:tiny", mask_features="boxes")


def test_powers_of_class_and_iou():
    logits, iou = torch.randn(5, 3), torch.randn(5, 1)
    clip, weights = torch.rand(5, 3), torch.tensor([0.2, 0.3, 0.4])
    by_class = ScoreEnsemble(powers=(2.0, 0.0)).instance_scores(logits, iou, clip, weights)
    by_iou = ScoreEnsemble(powers=(0.0, 2.0)).instance_scores(logits, iou, clip, weights)
    torch.testing.assert_close(by_iou, iou.sigmoid().expand(5, 3))
    both = ScoreEnsemble(powers=(2.0, 2.0)).instance_scores(logits, iou, clip, weights)
    torch.testing.assert_close(both, by_class * by_iou)
    without = ScoreEnsemble(powers=(2.0, 2.0)).instance_scores(logits, None, clip, weights)
    torch.testing.assert_close(without, by_class)
    with pytest.raises(ValueError, match="SCORE_POWERS are two numbers"):
        ScoreEnsemble(powers=(1.0,))
