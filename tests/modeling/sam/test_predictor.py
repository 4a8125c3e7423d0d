"""Batches of prompts, compared with `SamPredictor` on the same random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.sam.loading import load_sam
from hipie.modeling.sam.predictor import Sam
from hipie.modeling.sam.types import SAM_TYPES, SamType

POINTS = np.array([[[5, 6], [50, 40]], [[80, 60], [1, 1]], [[44, 33], [89, 69]]], np.float32)
LABELS = np.array([[1, 0], [1, 1], [0, 1]])
BOXES = np.array([[1, 2, 30, 40], [20, 20, 80, 69], [0, 0, 90, 70]], np.float32)


@pytest.fixture
def library(sam, pixels):
    predictor = SamPredictor(sam.model)
    predictor.set_image(pixels)
    return predictor


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kinds", ["points", "boxes", "points boxes", "points boxes masks"])
def test_batched_prompts_equal_sam_predictor(sam, pixels, library, kinds, multimask):
    low = library.predict(POINTS[0], LABELS[0], multimask_output=False)[2]
    arguments = {
        "points": {"points": POINTS, "labels": LABELS},
        "boxes": {"boxes": BOXES},
        "masks": {"masks": torch.from_numpy(low).expand(3, -1, -1, -1)},
    }
    selected = {k: v for kind in kinds.split() for k, v in arguments[kind].items()}
    predicted = sam.encode(pixels).predict(**selected, multimask=multimask)
    for i in range(3):
        masks, scores, logits = library.predict(
            POINTS[i] if "points" in kinds else None,
            LABELS[i] if "points" in kinds else None,
            BOXES[i] if "boxes" in kinds else None,
            low if "masks" in kinds else None,
            multimask,
        )
        assert np.array_equal(predicted.masks[i].numpy(), masks)
        assert np.allclose(predicted.scores[i].numpy(), scores, atol=1e-5)
        assert np.allclose(predicted.low_resolution[i].numpy(), logits, atol=1e-5)


def test_64_prompts_encode_the_image_once(sam, pixels, monkeypatch):
    calls = []
    encoder = sam.model.image_encoder
    monkeypatch.setattr(
        encoder, "forward", lambda x, own=encoder.forward: calls.append(len(x)) or own(x)
    )
    grid = np.stack(np.meshgrid(np.arange(5, 85, 10), np.arange(3, 67, 8)), -1).reshape(-1, 1, 2)
    image = sam.encode(pixels)
    predicted = image.predict(points=grid, labels=np.ones((64, 1)), multimask=True)
    assert predicted.masks.shape == (64, 3, 70, 90)
    image.predict(boxes=BOXES)
    assert calls == [1]


def test_best_of_three_masks(sam, pixels):
    predicted = sam.encode(pixels).predict(boxes=BOXES, multimask=True)
    best = predicted.best()
    for i in range(3):
        j = int(predicted.scores[i].argmax())
        assert torch.equal(best.masks[i, 0], predicted.masks[i, j])
        assert best.scores[i, 0] == predicted.scores[i].max()


def test_mask_prompt_covers_the_mask(sam, pixels):
    image = sam.encode(pixels)
    mask = torch.zeros(1, 70, 90, dtype=torch.bool)
    mask[0, 10:60, 20:50] = True
    prompt = image.mask_prompts(mask)
    assert prompt.shape == (1, 1, 32, 32) and set(prompt.unique().tolist()) == {-10.0, 10.0}
    restored = sam.model.postprocess_masks(prompt, image.input_size, image.size)[0, 0] > 0
    iou = (restored & mask[0]).sum() / (restored | mask[0]).sum()
    assert iou > 0.9
    # Columns of the square beyond the image are padding, never inside.
    assert (image.mask_prompts(torch.ones_like(mask))[0, 0, -6:] == -10).all()


def test_empty_batch_of_prompts(sam, pixels):
    predicted = sam.encode(pixels).predict(boxes=np.zeros((0, 4)))
    assert len(predicted) == 0 and predicted.masks.shape == (0, 1, 70, 90)
    assert predicted.best().scores.shape == (0, 1)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "needs a prompt"),
        ({"points": [[[95, 1]]], "labels": [[1]]}, r"\(95, 1\) is outside the image"),
        ({"points": [[[5, -1]]], "labels": [[1]]}, r"\(5, -1\) is outside the image"),
        ({"points": [[[5, 5], [5, 5]]], "labels": [[1, 0]]}, "both inside and outside"),
        ({"points": [[[5, 5]]], "labels": [[2]]}, "1 .inside. or 0"),
        ({"points": [[[5, 5]]]}, "need labels"),
        ({"points": [[5, 5]], "labels": [1]}, r"\[N, P, 2\]"),
        ({"boxes": [[4, 4, 4, 9]]}, r"box \(4, 4, 4, 9\) is empty"),
        ({"boxes": [[100, 4, 120, 9]]}, "outside the image, which is 90 wide and 70 high"),
        ({"boxes": BOXES, "points": POINTS[:2], "labels": LABELS[:2]}, "equally many"),
    ],
)
def test_invalid_prompts_are_rejected(sam, pixels, prompt, message):
    with pytest.raises(ValueError, match=message):
        sam.encode(pixels).predict(**prompt)


def test_invalid_images_are_rejected(sam, pixels):
    with pytest.raises(ValueError, match="RGB image"):
        sam.encode(pixels[..., 0])
    with pytest.raises(ValueError, match="of bytes"):
        sam.encode(pixels / 255)


def test_masks_of_another_size_are_rejected(sam, pixels):
    with pytest.raises(ValueError, match="needs"):
        sam.encode(pixels).mask_prompts(torch.ones(1, 70, 91, dtype=torch.bool))


def test_unknown_types_and_files_are_reported(tmp_path, sam):
    with pytest.raises(ValueError, match='no SAM model "vit_g"; similar names are'):
        load_sam("vit_g")
    with pytest.raises(ValueError, match="needs the file"):
        load_sam("vit_b")
    with pytest.raises(ValueError, match="no such file"):
        load_sam("vit_b", str(tmp_path / "sam.pth"))
    other = tmp_path / "other.pth"
    torch.save(sam.model.state_dict(), other)
    with pytest.raises(ValueError, match=r"in the file and .* in a SAM vit_b"):
        load_sam("vit_b", str(other))


def test_weights_are_loaded_from_a_file(tmp_path, monkeypatch, sam):
    from hipie.modeling.sam import loading as sam_loading

    monkeypatch.setitem(SAM_TYPES, "vit_b", SamType(sam_loading._build_tiny))
    monkeypatch.setattr(sam_loading, "sam_type_of", lambda state: "vit_b")
    file = tmp_path / "sam.pth"
    torch.save(sam.model.state_dict(), file)
    loaded = Sam.from_source("vit_b", str(file))
    own = sam.model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in loaded.model.state_dict().items())
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated"):
        Sam.from_source("vit_b", str(file))


def test_images_of_a_batch_are_encoded_as_alone(sam, pixels):
    images = [pixels, 255 - pixels, pixels[::-1].copy()]
    encoded = sam.encode_batch(images)
    for image, one in zip(images, encoded, strict=True):
        alone = sam.encode(image).predict(points=POINTS, labels=LABELS, multimask=False)
        together = one.predict(points=POINTS, labels=LABELS, multimask=False)
        assert torch.allclose(together.scores, alone.scores, atol=1e-5)
        assert torch.allclose(together.low_resolution, alone.low_resolution, atol=1e-4)
    with pytest.raises(OpenVocabularyError, match="these have 2 sizes"):
        sam.encode_batch([pixels, pixels[:50]])
