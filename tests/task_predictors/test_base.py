"""Prepared images and the registry of task predictors, with a stand-in for the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from hipie import Segmenter
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import (
    TASK_PREDICTOR_REGISTRY,
    PreparedImage,
    TaskPredictor,
    register_task_predictor,
)

PIXELS = np.full((6, 8, 3), 7, np.uint8)


class BrightnessModel(SegmentationModel):
    """Thresholds the mean of the channels, which is its text-free feature."""

    tasks = frozenset({"brightness"})
    supports_image_features = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.encoded = 0

    def encode_images(self, batched_inputs):
        self.encoded += 1
        return batched_inputs[0]["image"].float().mean(0)

    def inference(self, batched_inputs, image_features=None):
        features = self.encode_images(batched_inputs) if image_features is None else image_features
        return [{"mask": features > item["threshold"]} for item in batched_inputs]


@pytest.fixture
def model() -> BrightnessModel:
    return BrightnessModel().eval()


def prepared(model: BrightnessModel, pixels: np.ndarray = PIXELS) -> PreparedImage:
    inputs = {"image": torch.from_numpy(pixels).permute(2, 0, 1), "height": 6, "width": 8}
    return PreparedImage(model, pixels, inputs)


def test_encoded_images_are_run_on_kept_features(model) -> None:
    image = prepared(model)
    image.encode()
    image.encode()
    outputs = [image.run(threshold=threshold)["mask"] for threshold in (5, 9)]
    assert [bool(mask.all()) for mask in outputs] == [True, False]
    assert model.encoded == 1
    assert image.size == (6, 8) and "threshold" not in image.inputs


def test_images_are_encoded_on_request_only(model) -> None:
    image = prepared(model)
    for threshold in (5, 9):
        image.run(threshold=threshold)
    assert model.encoded == 2


def test_models_without_features_are_run_anew(model, monkeypatch) -> None:
    monkeypatch.setattr(BrightnessModel, "supports_image_features", False)
    image = prepared(model)
    image.encode()
    assert model.encoded == 0
    assert image.run(threshold=5)["mask"].all()


def test_cached_values_are_computed_once_a_key(model) -> None:
    image, calls = prepared(model), []
    for _ in range(2):
        assert image.cached("key", lambda: calls.append(1) or "value") == "value"
    image.cached("another key", lambda: calls.append(1))
    assert len(calls) == 2


@pytest.fixture
def brightness_task():
    """A task of another package, registered for one test."""

    @register_task_predictor("brightness")
    class BrightnessPredictor(TaskPredictor):
        model_task = "brightness"

        def predict(self, images, *, threshold):
            return [
                Segmentation(
                    image.pixels,
                    [Segment("bright", "stuff", image.run(threshold=threshold)["mask"].numpy(), 1)],
                )
                for image in images
            ]

    yield "brightness"
    del TASK_PREDICTOR_REGISTRY._obj_map["brightness"]


def test_segmenter_encodes_for_predictors_of_other_packages(model, brightness_task) -> None:
    cfg = CfgNode()
    sizes = {"MIN_SIZE_TEST": 6, "MAX_SIZE_TEST": 8, "SQUARE_SIZE": 0, "MAX_PIXELS": 1000}
    cfg.INPUT = CfgNode({**sizes, "FORMAT": "RGB"})
    segmenter = Segmenter(model, cfg).set_image(PIXELS)
    predictor = segmenter.task_predictor(brightness_task)
    image = segmenter.prepare()
    (dark,), (bright,) = (predictor.predict([image], threshold=t) for t in (9, 5))
    assert not dark.masks.any() and bright.masks.all()
    assert model.encoded == 1
    with pytest.raises(ValueError, match=r"BrightnessModel cannot refer\(\)"):
        segmenter.refer(PIXELS, "the dog")


def test_task_names_are_unique(brightness_task) -> None:
    with pytest.raises(AssertionError, match="brightness"):
        register_task_predictor(brightness_task)(TaskPredictor)
