"""A segmenter without a network, whose results depend on the image and the request alone."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import torch

from hipie.data.image_io import to_rgb_array
from hipie.errors import InputError
from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import PreparedImage

MAX_PIXELS = 1_000_000


class StubSegmenter:
    """Returns one segment a name: the pixels that have the colour of the first pixel.

    Args:
        seconds: of a call.

    Attributes:
        calls: number of calls.
        batches: sizes of the batches whose features were computed.
        running: set once a call has begun.
        gate: calls end when it is set, as it is at first.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls = 0
        self.batches: list[int] = []
        self.running = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.device = torch.device("cpu")
        self.model = SimpleNamespace(
            tasks=frozenset({"universal", "referring", "interactive"}),
            supports_image_features=True,
            encode_images=self._encode,
            inference_size=None,
        )

    def _encode(self, inputs):
        self.batches.append(len(inputs))
        return SimpleNamespace(select=lambda index: index)

    def task_predictor(self, task: str, method: str) -> SimpleNamespace:
        assert (task, method) == ("interactive", "prompt")
        return SimpleNamespace(encode_together=self._encode)

    def prepare(self, image) -> PreparedImage:
        if isinstance(image, PreparedImage):
            return image
        pixels = to_rgb_array(image, MAX_PIXELS)
        inputs = {"image": torch.zeros(3, *pixels.shape[:2])}
        return PreparedImage(self.model, pixels, inputs)

    def _result(self, image: PreparedImage, names) -> Segmentation:
        self.calls += 1
        self.running.set()
        time.sleep(self.seconds)
        assert self.gate.wait(120)
        mask = (image.pixels == image.pixels[0, 0]).all(2)
        score = float(image.pixels[0, 0, 0]) / 255
        return Segmentation(image.pixels, [Segment(name, "thing", mask, score) for name in names])

    def segment(self, image, things=(), stuff=(), parts=None, *, min_score=None) -> Segmentation:
        names = [name for name in str(things).split("; ") if name]
        if not names:
            raise InputError("name at least one class")
        if names == ["bug"]:
            raise ZeroDivisionError("division by zero")
        return self._result(image, names)

    def refer(self, image, expressions=(), *, threshold=None) -> Segmentation:
        return self._result(image, expressions)

    def refer_group(self, images, expression) -> list[Segmentation]:
        return [self._result(image, [expression]) for image in images]

    def prompt(self, image, prompts=()) -> Segmentation:
        return self._result(image, [str(prompt) for prompt in prompts])


def png(value: int = 200, height: int = 24, width: int = 32) -> bytes:
    """A PNG whose upper half has the grey `value`, and the lower one 0."""
    import io

    from PIL import Image

    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
