"""TAS: scores, phrases, directions and filters against formulas and by example."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hipie_training_free import TAS
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.captioning import load_captioner
from hipie_training_free.modeling.text_augmented_scores import (
    crop_features,
    directions,
    in_direction,
    largest_masks,
    negative_phrases,
    noun_phrases,
    square_box,
    text_augmented_scores,
)
from hipie_training_free.text_augmented_referring import TASConfig


def boxes(*corners: tuple[int, int, int, int]) -> torch.Tensor:
    """Masks [N, 40, 60] of boxes (top, left, bottom, right)."""
    masks = torch.zeros(len(corners), 40, 60, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_scores_equal_the_formula():
    torch.manual_seed(0)
    visual, text, captions, negative = (
        F.normalize(torch.randn(n, 6).double(), dim=1) for n in (4, 2, 4, 3)
    )
    scores = text_augmented_scores(visual, text, captions, [negative, negative[:0]], (0.1, 0.7))
    for k in range(2):
        for n in range(4):
            expected = float(visual[n] @ text[k] + 0.1 * captions[n] @ text[k])
            if k == 0:
                expected -= 0.7 * sum(float(visual[n] @ phrase) for phrase in negative) / 3
            assert float(scores[k, n]) == pytest.approx(expected)
    plain = text_augmented_scores(visual, text, None, [negative[:0]] * 2)
    torch.testing.assert_close(plain, text @ visual.t())


def test_crops_are_black_outside_the_mask_and_square(clip):
    image, masks = torch.rand(3, 40, 60), boxes((5, 10, 15, 40), (0, 0, 40, 60))
    assert square_box(image, masks[0]).shape == (3, 30, 30)
    changed = torch.where(masks[0], image, torch.rand(3, 40, 60))
    features = crop_features(clip, image, masks)
    torch.testing.assert_close(crop_features(clip, changed, masks[:1])[0], features[0])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


def test_noun_phrases_of_a_caption():
    caption = "a man riding a brown horse in a field, and two dogs"
    assert noun_phrases(caption) == ["a man", "a brown horse", "a field", "two dogs"]
    assert negative_phrases(caption, "the horse on the left") == ["a man", "a field", "two dogs"]
    assert negative_phrases(caption, "dog") == ["a man", "a brown horse", "a field"]
    assert noun_phrases("") == noun_phrases("and the") == []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("man on the left", {"left"}),
        ("left man", {"left"}),
        ("top right corner", {"top", "right"}),
        ("the dog on the right side of the image", {"right"}),
        ("man left of the tree", set()),
        ("the cup to the right of the plate", set()),
        ("the cat under the table", set()),
        ("guy in the bottom left of picture", {"bottom", "left"}),
        ("the man between the left and the right one", set()),
        ("a bright dog", set()),
    ],
)
def test_directions_of_expressions(expression, expected):
    assert directions(expression) == expected


def test_masks_in_a_direction_are_beyond_the_median():
    masks = boxes((0, 0, 10, 10), (0, 50, 10, 60), (30, 0, 40, 10), (30, 50, 40, 60))
    for wanted, expected in (
        ({"left"}, [1, 0, 1, 0]),
        ({"bottom"}, [0, 0, 1, 1]),
        ({"top", "right"}, [0, 1, 0, 0]),
        (set(), [1, 1, 1, 1]),
    ):
        assert in_direction(masks, frozenset(wanted)).int().tolist() == expected
    # Of equal centres none is before the median.
    assert in_direction(masks[:1], frozenset({"left"})).tolist() == [True]


def test_small_and_overlapping_masks_are_left_out():
    masks = boxes((0, 0, 2, 2), (0, 0, 20, 20), (0, 10, 30, 40), (25, 45, 40, 60))
    assert largest_masks(masks, 100, 0.4).tolist() == [2, 3]
    assert largest_masks(masks, 100, 0.6).tolist() == [1, 2, 3]
    assert largest_masks(masks, 5000, 0.4).tolist() == [0, 1, 2, 3]
    assert largest_masks(masks[[1, 1]], 100, 0.4).tolist() == [0]


def test_the_expression_selects_by_direction_and_captions(clip):
    """Captions decide among equal crops, and a direction among all."""
    masks = boxes((0, 0, 20, 20), (0, 40, 20, 60))
    image = torch.full((3, 40, 60), 0.5)
    texts = ["a cup", "a red car"]
    model = TAS(
        clip=clip,
        proposals=lambda _: masks,
        blocks=1,
        tas=TASConfig(min_area=1),
        captioner=lambda images: [*texts, "a photo of a cup and a car"][: len(images)],
    ).eval()
    item = {
        "image": 255 * image,
        "expressions": ["a red car", "a cup", "left thing", "right thing"],
    }
    results = model([item])[0]["referring"]
    chosen = [int(result.pred_masks[0, 0, 50]) for result in results]
    assert chosen == [1, 0, 0, 1]
    assert all(0 <= float(result.scores) <= 1 for result in results)


def test_captions_of_a_small_blip(tmp_path, tiny_text):
    from transformers import (
        AutoTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_text))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "intermediate_size": 16, "image_size": 32, "patch_size": 16}
    text = {
        **small,
        "intermediate_size": 16,
        "encoder_hidden_size": 16,
        "vocab_size": len(tokenizer),
        "bos_token_id": 101,
        "eos_token_id": 102,
        "sep_token_id": 102,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    model.save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(tmp_path)
    captions = load_captioner(str(tmp_path))([torch.rand(3, 20, 30), torch.rand(3, 40, 30)])
    assert len(captions) == 2 and all(isinstance(caption, str) for caption in captions)
    with pytest.raises(TrainingFreeError, match="TAS.CAPTIONER: .*nowhere could not be loaded"):
        load_captioner(str(tmp_path / "nowhere"))


def test_negative_weights_are_refused():
    with pytest.raises(TrainingFreeError, match="TAS.CAPTION is -1"):
        TASConfig(caption=-1)
