"""Functions of tensors against computations in float64 and against PyTorch's own modules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hipie.modeling.criterion.losses import MatchedLayer
from hipie.modeling.matcher.hungarian import CostWeights
from hipie.modeling.matcher.matching import Matching
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_ensemble import ScoreEnsemble
from hipie.modeling.open_vocabulary.prompt_templates import prompt_templates
from hipie.modeling.postprocessing.instance_inference import ImageFrame
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.modeling.transformer_decoder.layers import TransformerConfig
from hipie.structures import BatchedTargets, LayerOutput
from hipie.vocabularies import Vocabulary
from hipie_proposal_clip.modeling.conv_clip import ConvClip
from hipie_proposal_clip.modeling.criterion import (
    MaskClassificationMatcher,
    class_cross_entropy_loss,
)
from hipie_proposal_clip.modeling.ensemble import geometric_ensemble
from hipie_proposal_clip.modeling.mask2former_decoder import (
    MaskedAttentionLayer,
    blocked_pixels,
    mask_boxes,
)
from hipie_proposal_clip.modeling.mask_crops import masked_crops
from hipie_proposal_clip.modeling.mask_pooling import mask_pooling
from hipie_proposal_clip.modeling.mask_prompts import MaskPrompts, contrastive_loss
from hipie_proposal_clip.modeling.text_classifier import (
    TextClassifier,
    batch_logits,
    classes_as_tokens,
)
from hipie_proposal_clip.postprocessing import mask_results, query_results


def softmax(values: np.ndarray) -> np.ndarray:
    exponent = np.exp(values - values.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def test_mask_pooling_is_the_mean_inside_the_mask():
    features, logits = torch.randn(2, 5, 6, 7), torch.randn(2, 3, 6, 7)
    logits[0, 1] = -1.0
    pooled = mask_pooling(features, logits).double().numpy()
    for image in range(2):
        for query in range(3):
            inside = (logits[image, query] > 0).numpy()
            values = features[image].double().numpy()[:, inside]
            expected = values.mean(1) if inside.any() else np.zeros(5)
            np.testing.assert_allclose(pooled[image, query], expected, atol=1e-6)


def test_mask_pooling_has_no_gradient_through_the_mask():
    features = torch.randn(1, 2, 4, 4, requires_grad=True)
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    mask_pooling(features, logits).sum().backward()
    assert features.grad is not None and logits.grad is None


@pytest.mark.parametrize("normalized", [True, False])
def test_geometric_ensemble(normalized):
    logits = 4 * torch.randn(6, 5)
    clip_probabilities = torch.randn(6, 4).softmax(-1)
    in_training, is_thing = [True, False, True, False], [True] * 4
    ensemble = ScoreEnsemble(alpha=(0.4, 0.4), beta=(0.8, 0.8))
    weights = ensemble.weights(in_training, is_thing)
    scores = geometric_ensemble(
        ensemble, logits, clip_probabilities, weights, normalized=normalized
    ).numpy()
    w = np.array([0.4, 0.8, 0.4, 0.8])
    own, clip = logits.double().numpy(), clip_probabilities.double().numpy()
    void = softmax(own)[:, -1:]
    if normalized:
        combined = softmax(own[:, :-1]) ** (1 - w) * clip**w
        combined = combined / combined.sum(-1, keepdims=True) * (1 - void)
        np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
    else:
        combined = softmax(own)[:, :-1] ** (1 - w) * clip**w
    np.testing.assert_allclose(scores, np.concatenate([combined, void], -1), atol=1e-6)


@pytest.mark.parametrize("model", ["random:tiny-convnext", "random:tiny-resnet"])
def test_mask_of_the_whole_image_has_clips_image_feature(model):
    clip = Clip.from_source(model)
    conv = ConvClip(clip.visual, model)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = conv.features(pixels)
        for name, shape in conv.output_shape().items():
            side = 64 // shape.stride
            assert features[name].shape == (2, shape.channels, side, side)
        whole = conv.mask_features(features["dense"], torch.ones(2, 1, 16, 16))[:, 0]
        expected = clip.model.encode_image(pixels)
    if model.endswith("convnext"):
        torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)
    else:  # published: the mean token is a query only, and no key
        assert F.cosine_similarity(whole, expected).min() > 0.9


def test_attention_pooling_reads_the_pixels_of_the_mask_only():
    clip = Clip.from_source("random:tiny-resnet")
    conv, pool = ConvClip(clip.visual, "tiny"), clip.visual.attnpool
    dense = torch.randn(1, 256, 2, 2)
    masks = torch.full((1, 3, 2, 2), -1.0)
    masks[0, 0, 0, 1], masks[0, 1] = 1.0, 1.0
    result = conv.mask_features(dense, masks)[0]
    tokens = dense.flatten(2)[0].t()
    position = pool.positional_embedding
    value = pool.c_proj(pool.v_proj(tokens[1] + position[2]))
    torch.testing.assert_close(result[0], value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[2], result[1])  # a mask without pixels


def test_logit_of_a_class_is_that_of_its_best_name():
    classifier = TextClassifier(F.normalize(torch.randn(4, 6), dim=-1), (1, 2, 1))
    embeddings, void = torch.randn(3, 6), torch.randn(1, 6)
    logits = classifier.logits(embeddings, torch.tensor(7.0), void).double().numpy()
    texts = np.concatenate([classifier.features.double().numpy(), void.double().numpy()])
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    unit = embeddings.double().numpy()
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    cosines = 7 * unit @ texts.T
    expected = np.stack(
        [cosines[:, 0], cosines[:, 1:3].max(1), cosines[:, 3], cosines[:, 4]], axis=1
    )
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_vocabularies_of_a_batch_are_padded():
    clip = Clip.from_source("random:tiny")
    vocabularies = [
        Vocabulary.from_names(things=["dog", ("cat", "kitten")]),
        Vocabulary.from_names(stuff=["grass"]),
    ]
    classifiers = [TextClassifier.of_vocabulary(clip, v, "one") for v in vocabularies]
    embeddings, void = torch.randn(2, 3, 48), torch.randn(1, 48)
    logits = batch_logits(classifiers, embeddings, torch.tensor(3.0), void)
    assert logits.shape == (2, 3, 3)
    alone = classifiers[1].logits(embeddings[1], torch.tensor(3.0), void)
    torch.testing.assert_close(logits[1].softmax(-1)[:, [0, 2]], alone.softmax(-1))
    assert logits[1].softmax(-1)[:, 1].max() == 0
    text = classes_as_tokens(classifiers, torch.device("cpu"))
    assert text.mask.tolist() == [[True, True, True], [True, False, True]]
    assert text.token_spans == (((0,), (1,)), ((0,),))


def test_templates_of_vild():
    templates = prompt_templates("vild")
    assert len(templates) == len(set(templates)) == 14
    assert {"a photo of a {}.", "There is the {} in the scene", "a photo of a {} in the scene"} <= {
        *templates
    }
    assert sum("medium" in template for template in templates) == 3


def test_prompts_replace_the_patches_outside_the_mask_only():
    clip = Clip.from_source("random:tiny")
    prompts = MaskPrompts(3, 64, 64)
    pixels, masks = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 16:40, 16:40] = True
    other = pixels.clone()
    other[:, :, :16], other[:, :, 40:] = 0.0, 3.0  # whole patches outside the masks
    with torch.no_grad():
        first, second = (prompts(clip.visual, x, masks) for x in (pixels, other))
        torch.testing.assert_close(first, second)
        whole = prompts(clip.visual, pixels, torch.ones_like(masks))
        torch.testing.assert_close(whole, clip.model.encode_image(pixels), atol=1e-5, rtol=1e-4)
    assert (first - whole).abs().max() > 1e-3


def test_crops_are_filled_outside_the_mask():
    image = torch.rand(3, 20, 30)
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[0, 4:12, 5:13] = True
    mask[0, 4, 5] = False
    fill = torch.tensor([0.1, 0.2, 0.3])
    crops, crop_masks = masked_crops(image, mask, (8, 8), fill)
    expected = image[:, 4:12, 5:13].clone()
    expected[:, 0, 0] = fill
    torch.testing.assert_close(crops[0], expected, atol=1e-5, rtol=1e-5)
    assert not crop_masks[0, 0, 0] and crop_masks.sum() == 63


def test_contrastive_loss():
    images, texts = (F.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    loss = contrastive_loss(images, texts, torch.tensor(10.0))
    logits = 10 * images.double().numpy() @ texts.double().numpy().T
    rows, columns = softmax(logits), softmax(logits.T)
    expected = -(np.log(np.diag(rows)).mean() + np.log(np.diag(columns)).mean()) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def matched_layer(num_objects: int) -> MatchedLayer:
    positive = F.one_hot(torch.tensor([1, 0])[:num_objects], 4).bool()
    return MatchedLayer(
        layer=LayerOutput(torch.rand(1, 5, 4), torch.randn(1, 5, 4)),
        matching=Matching(
            torch.zeros(num_objects, dtype=torch.long),
            torch.tensor([3, 1])[:num_objects],
            torch.arange(num_objects),
        ),
        targets=BatchedTargets(
            boxes=torch.rand(num_objects, 4),
            is_thing=torch.ones(num_objects, dtype=torch.bool),
            positive_map=positive,
            masks=torch.zeros(num_objects, 4, 4, dtype=torch.bool),
            starts=(0, num_objects),
        ),
        positive_map=positive,
    )


@pytest.mark.parametrize("num_objects", [2, 0])
def test_class_loss_is_pytorchs_weighted_cross_entropy(num_objects):
    matched = matched_layer(num_objects)
    labels = torch.tensor([3, 3, 3, 3, 3])
    if num_objects:
        labels[3], labels[1] = 1, 0
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    expected = F.cross_entropy(matched.layer.logits[0], labels, weight)
    torch.testing.assert_close(class_cross_entropy_loss(matched) / max(num_objects, 1), expected)


def test_matching_cost_is_minus_the_probability():
    matched = matched_layer(2)
    matcher = MaskClassificationMatcher(CostWeights(2.0, 0.0, 0.0, 0.0, 0.0))
    (cost,) = matcher.costs([matched.layer], matched.targets)
    probability = softmax(matched.layer.logits[0].double().numpy())
    np.testing.assert_allclose(cost.numpy(), -2 * probability[:, [1, 0]], atol=1e-6)


def test_masked_attention_is_pytorchs_attention_inside_the_mask():
    transformer = TransformerConfig(width=8, num_heads=2, dim_feedforward=16)
    layer = MaskedAttentionLayer(transformer)
    layer.self_attention = nn.MultiheadAttention(8, 2, batch_first=True)
    queries, positions = torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    memory, placed = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    blocked = torch.zeros(1, 2, 6, dtype=torch.bool)
    blocked[0, 0, 3:] = True
    result = layer(queries, positions, memory, placed, blocked)
    changed = memory.clone()
    changed[:, 3:] += 5.0
    cross = [
        layer.cross_attention(
            queries + positions, placed, m, attn_mask=blocked.repeat(2, 1, 1), need_weights=False
        )[0]
        for m in (memory, changed)
    ]
    torch.testing.assert_close(cross[0][:, 0], cross[1][:, 0])
    assert (cross[0][:, 1] - cross[1][:, 1]).abs().max() > 1e-3
    q = layer.norm_cross(queries + cross[0])
    own = q + positions
    q = layer.norm_self(q + layer.self_attention(own, own, q, need_weights=False)[0])
    torch.testing.assert_close(result, layer.feed_forward(q))


def test_query_without_mask_attends_everywhere_and_has_the_whole_image_as_its_box():
    masks = torch.full((1, 2, 8, 8), -1.0)
    masks[0, 0, 2:4, 4:8] = 1.0
    blocked = blocked_pixels(masks, (8, 8))
    assert not blocked[0, 1].any() and blocked[0, 0].sum() == 64 - 8
    boxes = mask_boxes(masks)[0]
    torch.testing.assert_close(boxes[0], torch.tensor([0.75, 0.375, 0.5, 0.25]))
    torch.testing.assert_close(boxes[1], torch.tensor([0.5, 0.5, 1.0, 1.0]))


def frame(side: int) -> ImageFrame:
    return ImageFrame((side, side), (side, side))


def test_results_of_queries_follow_the_scores():
    masks = torch.full((3, 4, 4), -9.0)
    masks[0, :, :2], masks[1, :, 2:], masks[2] = 9.0, 9.0, 9.0
    scores = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7]])
    settings = InferenceSettings(object_mask_threshold=0.0, overlap_threshold=0.5)
    results = query_results(scores, masks, [True, False], frame(16), settings)
    panoptic, segments = results["panoptic_seg"]
    assert [segment["category_id"] for segment in segments] == [0, 1]  # the third is no object
    assert panoptic[:, :6].unique().tolist() == [1] and panoptic[:, 10:].unique().tolist() == [2]
    probability = masks.sigmoid()[:, 0, 0]
    expected = (scores[:, 0] * probability).sum()
    assert results["sem_seg"][0, 0, 0].item() == pytest.approx(expected.item(), abs=1e-4)
    best = results["instances"][0]
    assert best.pred_classes.item() == 0 and best.pred_masks[0, :, :6].all()
    assert best.scores.item() == pytest.approx(0.9, abs=0.05)
    assert all(results["instances"].pred_classes == 0)


def test_smaller_masks_lie_above_larger_ones():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0], masks[1, 2:4, 2:4] = True, True
    scores = torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])
    settings = InferenceSettings(object_mask_threshold=0.0)
    results = mask_results(masks, scores, [True, False], (8, 8), settings)
    panoptic, segments = results["panoptic_seg"]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(1, False), (0, True)]
    assert (
        panoptic[3, 3] == 2
        and panoptic[0, 0] == 1
        and math.isclose(results["sem_seg"][0, 3, 3], 0.7, abs_tol=1e-6)
    )
    assert len(results["instances"]) == 1
    none = mask_results(masks[:0], scores[:0], [True, False], (8, 8), settings)
    assert not none["panoptic_seg"][1] and len(none["instances"]) == 0
    assert none["sem_seg"].shape == (2, 8, 8)
