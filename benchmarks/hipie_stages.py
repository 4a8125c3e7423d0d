"""Where an image's time goes inside HIPIE: seconds a stage, nested stages taken out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import hipie.modeling.meta_arch.hipie
import hipie.modeling.meta_arch.postprocess
from hipie.modeling.meta_arch.hipie import HIPIE

STAGES = ("text", "backbone", "fusion", "encoder", "decoder", "masks", "stuff", "merge", "rest")


class Stopwatch:
    """Time by stage; a stage inside another is counted once, where it happens."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose own time goes to a stage."""

        def run(*given: Any, **named: Any) -> Any:
            self._open.append(0.0)
            start = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                whole = time.perf_counter() - start
                self.seconds[stage] += whole - self._open.pop()
                if self._open:
                    self._open[-1] += whole

        return run


@contextmanager
def watched(model: HIPIE) -> Iterator[Stopwatch]:
    """While this is open, the stopwatch counts what `model` does."""
    watch = Stopwatch()
    places = [
        (model.text_encoder, "forward", "text"),
        (model.backbone, "forward", "backbone"),
        (model.things, "project", "fusion"),
        (model.things, "fuse", "fusion"),
        (model.things, "_encode", "encoder"),
        (model.things, "forward", "decoder"),
        (model.things.mask_features, "forward", "masks"),
        (model.things.mask_head, "forward", "masks"),
        (model.stuff, "forward", "stuff"),
        (hipie.modeling.meta_arch.postprocess, "universal_inference", "merge"),
        (hipie.modeling.meta_arch.hipie, "referring_inference", "merge"),
        (model, "predict", "rest"),
    ]
    with ExitStack() as stack:
        for owner, name, stage in places:
            function = watch.timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        yield watch
