"""Types of arguments of `Segmenter`, and what all of its calls have in common."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam
    from hipie.predictor import Segmenter

Method = TypeVar("Method", bound=Callable[..., Any])


class SegmentOptions(TypedDict, total=False):
    """Options of `Segmenter.segment` for `segment_batch` and `stream`."""

    output: str
    min_score: float | None
    min_area: int
    max_segments: int | None
    consistent: bool
    sam: Sam | None


class SetImage(Enum):
    """Stands for the image of `Segmenter.set_image` where a method takes an image."""

    SET_IMAGE = "the image that was set"


SET_IMAGE = SetImage.SET_IMAGE


def one_at_a_time(method: Method) -> Method:
    """Let the calls of several threads wait for each other: features and texts are cached."""

    @wraps(method)
    def call(self: Segmenter, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, call)
