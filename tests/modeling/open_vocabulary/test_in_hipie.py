"""CLIP inside HIPIE's inference, on the smallest model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from detectron2.modeling import build_model

from hipie.memory_check import ImageTooLargeError, check_memory
from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble, ScoreEnsemble
from hipie.modeling.postprocessing.score_calibration import panoptic_scores
from hipie.modeling.postprocessing.semantic_inference import semantic_inference
from hipie.modeling.text_encoder.caption import vocabulary_caption
from hipie.vocabularies.vocabulary import Vocabulary

VOCABULARY = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "open sky"])


def random_image(seed: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return 255 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    built = build_model(tiny_cfg).eval()
    built.settings = replace(built.settings, object_mask_threshold=0.0, overlap_threshold=0.0)
    return built


def predict(model, *images: torch.Tensor) -> list[dict]:
    return model([{"image": image, "vocabulary": VOCABULARY} for image in images])


def classes_of(result: dict) -> torch.Tensor:
    """Class of every pixel of the panoptic map, -1 without a segment."""
    ids, segments = result["panoptic_seg"]
    table = torch.full((int(ids.max()) + 1,), -1)
    for segment in segments:
        table[segment["id"]] = segment["category_id"]
    return table[ids.long()]


def with_clip(model, weight: float, **options) -> torch.nn.Module:
    ensemble = ScoreEnsemble((weight, weight), (weight, weight), **options)
    model.clip_ensemble = ClipEnsemble("random:tiny", ensemble=ensemble)
    return model


@pytest.mark.parametrize("min_classes", [0, 133])
def test_weight_0_keeps_the_maps(model, min_classes):
    """Instance scores change, since the ensemble has another formula for them."""
    model.settings = replace(model.settings, nms_threshold=1.0, min_softmax_classes=min_classes)
    alone = predict(model, random_image(0))[0]
    combined = predict(with_clip(model, 0.0), random_image(0))[0]
    torch.testing.assert_close(combined["sem_seg"], alone["sem_seg"], atol=1e-4, rtol=1e-4)
    assert (classes_of(combined) == classes_of(alone)).float().mean() > 0.99
    assert not torch.allclose(combined["instances"].scores, alone["instances"].scores, atol=1e-3)


def test_maps_equal_the_formula(model):
    """Stuff queries with masks cropped to the image, each classified by CLIP."""
    model.settings = replace(
        model.settings, nms_threshold=1.0, panoptic_from_stuff_decoder_only=True
    )
    pixels = random_image(1)
    inputs = [{"image": pixels, "vocabulary": VOCABULARY}]
    raw = model.predict_raw(inputs).stuff
    spans = model.text_encoder([vocabulary_caption(VOCABULARY)]).token_spans[0]
    logits = torch.stack([raw.token_logits[0][:, list(span)].mean(-1) for span in spans], -1)
    scores_of_model = panoptic_scores(logits)
    masks = torch.nn.functional.interpolate(
        raw.mask_logits[0][None].float(), scale_factor=4, mode="bilinear"
    )[0, :, :64, :96]
    output = predict(with_clip(model, 0.3), pixels)[0]["sem_seg"]
    clip = model.clip_ensemble.clip
    image = pixels / 255
    resized = torch.nn.functional.interpolate(masks[None], size=(64, 64), mode="bilinear")[0]
    patch_masks = torch.nn.functional.max_pool2d(resized, 8) >= 0
    features = clip.encode(image).mask_features(patch_masks)
    texts = clip.text_features(["red car", "dog", "grass", "open sky"])
    cosines = torch.nn.functional.normalize(features, dim=-1) @ texts.t()
    clip_probabilities = (cosines * clip.logit_scale).double().softmax(-1)
    combined = scores_of_model.double() ** 0.7 * clip_probabilities**0.3
    combined = combined / combined.sum(-1, keepdim=True)
    assert (combined - scores_of_model).abs().max() > 1e-3
    torch.testing.assert_close(
        output, semantic_inference(combined.float(), masks), atol=1e-4, rtol=1e-4
    )


def test_batch_equals_single_images(model):
    with_clip(model, 0.5)
    small, large = random_image(2, 64, 80), random_image(3, 96, 96)
    alone, batched = predict(model, small)[0], predict(model, small, large)[0]
    assert alone["sem_seg"].shape == batched["sem_seg"].shape == (4, 64, 80)
    scores = model.clip_ensemble.mask_scores(small, model.pixel_mean, VOCABULARY)
    assert scores.size == (64, 80), "CLIP encodes the image, not the canvas of the batch"


def test_single_class(model):
    with_clip(model, 0.5)
    vocabulary = Vocabulary.from_names(["dog"])
    output = model([{"image": random_image(4), "vocabulary": vocabulary}])[0]
    assert output["sem_seg"].shape == (1, 64, 96)
    assert ((output["instances"].scores >= 0) & (output["instances"].scores <= 1)).all()


def test_clip_is_not_in_checkpoints_and_not_trained(model):
    before = set(model.state_dict())
    with_clip(model, 0.5)
    predict(model, random_image(5))
    assert set(model.state_dict()) == before
    assert not any(p.requires_grad for p in model.clip_ensemble.clip.model.parameters())


def test_ensemble_is_built_from_the_configuration(tiny_cfg):
    tiny_cfg.MODEL.HIPIE.CLIP.ENABLED = True
    tiny_cfg.MODEL.HIPIE.CLIP.MODEL = "random:tiny"
    tiny_cfg.MODEL.HIPIE.CLIP.ALPHA = (0.1, 0.2)
    model = build_model(tiny_cfg).eval()
    assert model.clip_ensemble.ensemble.alpha == (0.1, 0.2)
    assert len(predict(model, random_image(6))[0]["sem_seg"]) == 4
    tiny_cfg.MODEL.HIPIE.CLIP.MODEL = "ViT-B-61"
    with pytest.raises(ValueError, match="no CLIP model"):
        build_model(tiny_cfg)


def test_large_vocabulary_is_rejected_before_it_is_encoded(model, monkeypatch):
    names = Vocabulary.from_names([f"thing {i}" for i in range(100_000)])
    monkeypatch.setattr(model, "text_encoder", None)
    monkeypatch.setattr("hipie.memory_check.free_bytes", lambda _: 8 * 2**30)
    image = random_image(7, 512, 512)
    with pytest.raises(ImageTooLargeError, match="100000 classes would need about .* GB"):
        check_memory(model, [{"image": image, "vocabulary": names, "height": 512, "width": 512}])


def test_encoded_image_is_shared_between_ensembles(model):
    with_clip(model, 0.2)
    item = {"image": random_image(8), "vocabulary": VOCABULARY}
    output, clip_scores = model.decode([item]), model.clip_scores(item)
    ensemble = ScoreEnsemble((0.6, 0.6), (0.9, 0.9))
    other_scores = clip_scores.with_ensemble(ensemble)
    assert other_scores.encoded_image is clip_scores.encoded_image
    with torch.no_grad():
        other = model.postprocess([item], output, [other_scores])[0]
    model.clip_ensemble.ensemble = ensemble
    torch.testing.assert_close(other["sem_seg"], model([item])[0]["sem_seg"])
