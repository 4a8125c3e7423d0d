"""The API for people who only want masks: what it returns, and what it says of bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie import Segmenter
from hipie.checkpoint import CheckpointError
from hipie.data.image_io import ImageError

TINY = str(Path(__file__).parent / "tiny.yaml")
THINGS, STUFF = ["dog", "car"], ["grass", "sky"]


@pytest.fixture(scope="module")
def segmenter(tiny_weights: Path, tiny_text: Path) -> Segmenter:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", 0.0]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", 64, "MODEL.HIPIE.OVERLAP_THRESHOLD", 0.0]
    return Segmenter.from_config(TINY, tiny_weights, "cpu", opts)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)


def test_segments_cover_the_image_without_overlap(segmenter, picture) -> None:
    found = segmenter.segment(picture, THINGS, STUFF)
    assert found.masks.shape == (len(found), 70, 90)
    assert found.masks.sum(0).max() == 1
    assert set(found.labels) <= {*THINGS, *STUFF}
    assert np.array_equal(found.image, picture)
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_small_vocabularies_are_scored_as_large_ones_unless_told(tiny_weights, tiny_text) -> None:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", 64]
    key = "MODEL.HIPIE.TEST.MIN_SOFTMAX_CLASSES"
    assert (
        Segmenter.from_config(TINY, tiny_weights, "cpu", opts).model.settings.min_softmax_classes
        == 133
    )
    published = Segmenter.from_config(TINY, tiny_weights, "cpu", [*opts, key, 0])
    assert published.model.settings.min_softmax_classes == 0


def test_a_path_an_image_and_an_array_give_the_same(segmenter, picture, tmp_path) -> None:
    path = tmp_path / "page.png"
    Image.fromarray(picture).save(path)
    asked = (THINGS, STUFF)
    expected = segmenter.segment(picture, *asked)
    for image in (path, str(path), Image.fromarray(picture)):
        found = segmenter.segment(image, *asked)
        assert found.labels == expected.labels
        assert np.array_equal(found.masks, expected.masks)


def test_parts_lie_inside_their_whole(segmenter, picture) -> None:
    found = segmenter.segment(picture, ["car"], STUFF, {"dog": ["head", "tail"], "car": ["wheel"]})
    for segment in found:
        for part in segment.parts:
            assert part.label.startswith(segment.label)
            assert not (part.mask & ~segment.mask).any()
    assert set(found.parts) <= {"dog", "car"}


def test_one_answer_an_expression_in_order(segmenter, picture) -> None:
    expressions = ["the red dog", "the largest car"]
    found = segmenter.refer(picture, expressions)
    assert found.labels == expressions
    alone = segmenter.refer(picture, expressions[1])
    assert np.array_equal(found.masks[1], alone.masks[0])


def test_a_group_is_answered_image_by_image(segmenter, picture) -> None:
    smaller = picture[:50]
    found = segmenter.refer_group([picture, smaller], "the dog")
    assert [one.masks.shape[1:] for one in found] == [(70, 90), (50, 90)]
    assert np.array_equal(found[1].masks, segmenter.refer(smaller, "the dog").masks)


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (400, 5)])
def test_images_of_any_shape(segmenter, size) -> None:
    found = segmenter.segment(np.zeros((*size, 3), np.uint8), THINGS, STUFF)
    assert found.masks.shape[1:] == size


def test_an_expression_of_a_thousand_words_is_cut(segmenter, picture) -> None:
    assert len(segmenter.refer(picture, "the dog " * 500)) == 1


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ([], "at least one class"),
        (["dog", "dog"], "dog"),
        (["dog", "?!"], r"\?!"),
    ],
)
def test_a_bad_vocabulary_is_named(segmenter, picture, things, message) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter.segment(picture, things)


@pytest.mark.parametrize("expression", ["", "  ", "...", []])
def test_an_expression_without_words_is_refused(segmenter, picture, expression) -> None:
    with pytest.raises(ValueError, match=r"sentence|word"):
        segmenter.refer(picture, expression)


def test_a_missing_image_is_named(segmenter, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        segmenter.segment(tmp_path / "nowhere.png", THINGS)


def test_what_is_no_image_is_named(segmenter, tmp_path) -> None:
    path = tmp_path / "letter.jpg"
    path.write_text("Dear reader")
    with pytest.raises(ImageError, match=r"letter\.jpg"):
        segmenter.segment(path, THINGS)


def test_an_unknown_configuration_is_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match="hipie_nano_picturebook"):
        Segmenter.from_config("hipie_nano_picturbook")


def test_missing_weights_are_named(tmp_path) -> None:
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"none\.pth"):
        Segmenter.from_config(TINY, tmp_path / "none.pth", "cpu")


def test_a_configuration_without_weights_says_so() -> None:
    with pytest.raises(ValueError, match="no weights"):
        Segmenter.from_config(TINY, device="cpu")


def test_a_task_that_the_model_lacks_is_named(segmenter, picture, monkeypatch) -> None:
    monkeypatch.setattr(type(segmenter.model), "tasks", frozenset({"universal"}))
    with pytest.raises(ValueError, match=r"cannot refer\(\)"):
        segmenter.refer(picture, "the dog")


@pytest.mark.parametrize("images", [[], "page.png"])
def test_a_group_is_a_list_of_images(segmenter, images) -> None:
    with pytest.raises(ValueError, match="needs a list of images, with at least one"):
        segmenter.refer_group(images, "the dog")
