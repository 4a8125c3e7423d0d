"""`Segmenter.segment_batch` and `stream`, and one `Segmenter` in several threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from hipie import Segmenter
from hipie.errors import InputError
from hipie.read_ahead import READ_AHEAD
from hipie.vocabularies.vocabulary import VocabularyError

TINY = str(Path(__file__).parent / "tiny.yaml")


@pytest.fixture(scope="module")
def segmenter(tiny_weights: Path, tiny_text: Path) -> Segmenter:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", 0.0]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", 64, "MODEL.HIPIE.OVERLAP_THRESHOLD", 0.0]
    return Segmenter.from_config(TINY, tiny_weights, "cpu", opts)


def image_of(number: int) -> np.ndarray:
    shape = (40 + 3 * (number % 4), 50, 3)
    return np.random.default_rng(number).integers(0, 255, shape, dtype=np.uint8)


def test_batches_and_streams_are_the_single_results_in_order(segmenter) -> None:
    images = [image_of(number) for number in range(5)]
    single = [segmenter.segment(image, ["dog"], ["sky"], min_area=3) for image in images]
    assert segmenter.segment_batch(images, ["dog"], ["sky"], min_area=3) == single
    assert list(segmenter.stream(iter(images), "dog", "sky", min_area=3)) == single
    assert any(len(result) for result in single)
    referred = [segmenter.refer(image, "the dog") for image in images]
    assert list(segmenter.stream(images, expressions="the dog")) == referred
    empty = list(segmenter.stream(images, expressions="the dog", threshold=1.0))
    assert empty == [segmenter.refer(image, "the dog", threshold=1.0) for image in images]
    assert empty != referred
    with pytest.raises(InputError, match="threshold is for expressions"):
        segmenter.stream(images, ["dog"], threshold=0.5)
    assert segmenter.segment_batch([], ["dog"]) == []


@pytest.fixture
def encoded(segmenter, monkeypatch):
    """Sizes of the batches of which the model computes features."""
    sizes: list[int] = []
    encode = segmenter.model.encode_images

    def record(inputs):
        sizes.append(len(inputs))
        return encode(inputs)

    monkeypatch.setattr(segmenter.model, "encode_images", record)
    return sizes


def assert_equal_up_to_rounding(results, expected) -> None:
    for result, single in zip(results, expected, strict=True):
        assert [one.label for one in result] == [one.label for one in single]
        for one, other in zip(result, single, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert (one.mask != other.mask).mean() < 1e-3


def test_images_of_one_size_are_encoded_together(segmenter, encoded) -> None:
    def image(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)

    images = [image(number) for number in range(5)] + [image(9)[:30], image(6), image(7)]
    single = [segmenter.segment(one, ["dog"], ["sky"], min_area=3) for one in images]
    assert any(len(result) for result in single) and encoded == []
    batched = segmenter.segment_batch(images, ["dog"], ["sky"], min_area=3, batch=4)
    # Four of the first five; the fifth and the smaller one alone, without features of their own.
    assert encoded == [4, 2]
    assert_equal_up_to_rounding(batched, single)
    # The other images of a batch change nothing.
    others = [images[0], *(255 - one for one in images[1:4])]
    (first, *_) = segmenter.segment_batch(others, ["dog"], ["sky"], min_area=3, batch=4)
    assert first == batched[0]


def test_batches_end_at_images_that_cannot_be_read(segmenter, encoded, tmp_path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    images = [image_of(0), image_of(4), bad, image_of(8), image_of(12), image_of(16)]
    errors = []
    stream = segmenter.stream(
        images, ["dog"], batch=3, on_error=lambda *failed: errors.append(failed[0])
    )
    assert len(list(stream)) == 5 and errors == [bad]
    assert encoded == [2, 3]
    with pytest.raises(InputError, match="batch has to be a number of images from 1, not 0"):
        segmenter.stream(images, ["dog"], batch=0)


def test_streams_take_images_when_their_turn_is_near(segmenter) -> None:
    taken = []

    def endless():
        for number in count():
            taken.append(number)
            yield image_of(number)

    stream = segmenter.stream(endless(), ["dog"])
    assert taken == []
    for position, _ in enumerate(islice(stream, 4), 1):
        assert len(taken) <= position + READ_AHEAD
    stream.close()


def test_images_that_cannot_be_segmented_are_raised_or_reported(segmenter, tmp_path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    images = [image_of(0), bad, None, image_of(1)]
    errors = []
    results = list(
        segmenter.stream(images, ["dog"], on_error=lambda *failed: errors.append(failed))
    )
    assert [result.image.shape for result in results] == [(40, 50, 3), (43, 50, 3)]
    assert [image for image, _ in errors] == [bad, None]
    assert str(bad) in str(errors[0][1])
    stream = segmenter.stream(images, ["dog"])
    assert next(stream).image.shape == (40, 50, 3)
    with pytest.raises(InputError, match="bad.png"):
        next(stream)


def test_requests_that_cannot_be_met_are_refused_at_once(segmenter) -> None:
    with pytest.raises(VocabularyError):
        segmenter.stream([image_of(0)], ["dog", "dog"])
    with pytest.raises(InputError, match="expression"):
        segmenter.stream([image_of(0)], expressions=["the dog", 3])
    with pytest.raises(InputError, match="not both"):
        segmenter.stream([image_of(0)], ["dog"], expressions="the dog")
    for single in ("image.jpg", Path("image.jpg"), b"bytes", 7):
        with pytest.raises(InputError, match="stream needs several images"):
            segmenter.stream(single, ["dog"])


def test_threads_share_one_segmenter(segmenter) -> None:
    """Every call has the result that it has alone, whatever vocabularies the others use."""
    requests = [
        (image_of(number), [f"thing {chr(97 + number % 7)}", "dog"], ["sky", "grass"][: number % 3])
        for number in range(24)
    ]
    alone = [segmenter.segment(*request) for request in requests]
    referred = [segmenter.refer(image, names) for image, names, _ in requests]

    def call(position: int):
        image, things, stuff = requests[position]
        if position % 2:
            return segmenter.segment(image, things, stuff)
        return segmenter.refer(image, things)

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(call, range(24)))
    for position, result in enumerate(together):
        assert result == (alone if position % 2 else referred)[position]


def test_calls_of_threads_do_not_overlap_in_the_model(segmenter, monkeypatch) -> None:
    active, most = 0, 0
    forward = segmenter.model.forward

    def watched(*args, **kwargs):
        nonlocal active, most
        active += 1
        most = max(most, active)
        try:
            return forward(*args, **kwargs)
        finally:
            active -= 1

    monkeypatch.setattr(segmenter.model, "forward", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: segmenter.segment(image_of(number), ["dog"]), range(8)))
    assert most == 1


def test_segmenters_are_copied(segmenter) -> None:
    result = segmenter.segment(image_of(0), ["dog"], ["sky"])
    for copied in (copy.deepcopy(segmenter), pickle.loads(pickle.dumps(segmenter))):
        assert copied.segment(image_of(0), ["dog"], ["sky"]) == result


def test_images_are_segmented_in_tiles(segmenter, tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    plain = segmenter.segment(image, ["dog"], ["sky"], min_area=3, max_segments=2)
    options = {"min_area": 3, "max_segments": 2}
    assert segmenter.segment_tiled(image, ["dog"], ["sky"], tile=90, **options) == plain
    tiled = segmenter.segment_tiled(image, ["dog"], ["sky"], tile=40, **options)
    assert tiled.image.shape == image.shape and 0 < len(tiled) <= 2
    assert all(segment.area >= 3 for segment in tiled)
    assert tiled.masks.sum(0).max() == 1
    everything = segmenter.segment_tiled(image, ["dog"], ["sky"], tile=40, overlap=0.5)
    seams = [segment for segment in everything if segment.box[2] - segment.box[0] > 40]
    assert seams and len(everything.labels) >= len(tiled.labels)
    with pytest.raises(InputError, match="overlap has to be a share"):
        segmenter.segment_tiled(image, ["dog"], tile=40, overlap=1)
