"""Time of each stage of HIPIE for an image, without nested stages."""

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
    """Stopwatch of stages, whose time excludes that of nested stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `function` so that its time, without nested stages, is added to a stage."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._open.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[stage] += elapsed - self._open.pop()
                if self._open:
                    self._open[-1] += elapsed

        return run


@contextmanager
def timed_stages(model: HIPIE) -> Iterator[Stopwatch]:
    """Measure the stages of `model` while the context is open."""
    watch = Stopwatch()
    stages = [
        (model.text_encoder, "forward", "text"),
        (model.backbone, "forward", "backbone"),
        (model.things, "project", "fusion"),
        (model.things, "fuse", "fusion"),
        (model.things, "encode", "encoder"),
        (model.things, "forward", "decoder"),
        (model.things.mask_features, "forward", "masks"),
        (model.things.mask_head, "forward", "masks"),
        (model.stuff, "decode", "stuff"),
        (model.stuff, "classify", "stuff"),
        (hipie.modeling.meta_arch.postprocess, "universal_inference", "merge"),
        (hipie.modeling.meta_arch.hipie, "referring_inference", "merge"),
        (model, "inference", "rest"),
    ]
    with ExitStack() as stack:
        for owner, name, stage in stages:
            function = watch.timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        yield watch
