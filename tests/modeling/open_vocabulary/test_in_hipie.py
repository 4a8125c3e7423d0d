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
    return model([{"image": one, "vocabulary": VOCABULARY} for one in images])


def classes_of(result: dict) -> torch.Tensor:
    """The panoptic map with classes instead of segments, -1 where there is none."""
    ids, segments = result["panoptic_seg"]
    table = torch.full((int(ids.max()) + 1,), -1)
    for one in segments:
        table[one["id"]] = one["category_id"]
    return table[ids.long()]


def with_clip(model, weight: float, **options) -> torch.nn.Module:
    ensemble = ScoreEnsemble((weight, weight), (weight, weight), **options)
    model.clip_ensemble = ClipEnsemble("random:tiny", ensemble=ensemble)
    return model


@pytest.mark.parametrize("least", [0, 133])
def test_a_weight_of_0_leaves_the_maps_as_they_are(model, least):
    """Not the things: even alone, their scores are taken by another formula beside CLIP."""
    model.settings = replace(model.settings, nms_threshold=1.0, min_softmax_classes=least)
    alone = predict(model, random_image(0))[0]
    joined = predict(with_clip(model, 0.0), random_image(0))[0]
    torch.testing.assert_close(joined["sem_seg"], alone["sem_seg"], atol=1e-4, rtol=1e-4)
    assert (classes_of(joined) == classes_of(alone)).float().mean() > 0.99
    assert not torch.allclose(joined["instances"].scores, alone["instances"].scores, atol=1e-3)


def test_the_maps_are_those_of_the_formula(model):
    """All queries of both branches, their masks cut to the image, CLIP asked about each."""
    model.settings = replace(
        model.settings, nms_threshold=1.0, panoptic_from_stuff_decoder_only=True
    )
    pixels = random_image(1)
    inputs = [{"image": pixels, "vocabulary": VOCABULARY}]
    raw = model.predict_raw(inputs).stuff
    spans = model.text_encoder([vocabulary_caption(VOCABULARY)]).token_spans[0]
    logits = torch.stack([raw.token_logits[0][:, list(span)].mean(-1) for span in spans], -1)
    own = panoptic_scores(logits)
    masks = torch.nn.functional.interpolate(
        raw.mask_logits[0][None].float(), scale_factor=4, mode="bilinear"
    )[0, :, :64, :96]
    found = predict(with_clip(model, 0.3), pixels)[0]["sem_seg"]
    clip = model.clip_ensemble.clip
    image = pixels / 255
    shown = torch.nn.functional.interpolate(masks[None], size=(64, 64), mode="bilinear")[0]
    reached = torch.nn.functional.max_pool2d(shown, 8) >= 0
    features = clip.encode(image).mask_features(reached)
    texts = clip.text_features(["red car", "dog", "grass", "open sky"])
    cosines = torch.nn.functional.normalize(features, dim=-1) @ texts.t()
    theirs = (cosines * clip.logit_scale).double().softmax(-1)
    joined = own.double() ** 0.7 * theirs**0.3
    joined = joined / joined.sum(-1, keepdim=True)
    assert (joined - own).abs().max() > 1e-3
    torch.testing.assert_close(
        found, semantic_inference(joined.float(), masks), atol=1e-4, rtol=1e-4
    )


def test_company_changes_nothing(model):
    with_clip(model, 0.5)
    small, large = random_image(2, 64, 80), random_image(3, 96, 96)
    alone, together = predict(model, small)[0], predict(model, small, large)[0]
    assert alone["sem_seg"].shape == together["sem_seg"].shape == (4, 64, 80)
    one = model.clip_ensemble.mask_scores(small, model.pixel_mean, VOCABULARY)
    assert one.size == (64, 80), "CLIP sees the image, not the batch's canvas"


def test_one_name_and_no_surviving_mask(model):
    with_clip(model, 0.5)
    one = Vocabulary.from_names(["dog"])
    found = model([{"image": random_image(4), "vocabulary": one}])[0]
    assert found["sem_seg"].shape == (1, 64, 96)
    assert ((found["instances"].scores >= 0) & (found["instances"].scores <= 1)).all()


def test_clip_is_in_no_checkpoint_and_not_trained(model):
    before = set(model.state_dict())
    with_clip(model, 0.5)
    predict(model, random_image(5))
    assert set(model.state_dict()) == before
    assert not any(p.requires_grad for p in model.clip_ensemble.clip.model.parameters())


def test_from_a_configuration(tiny_cfg):
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
