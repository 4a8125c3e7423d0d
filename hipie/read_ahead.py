"""Predictions of many images, which a thread reads ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from hipie.errors import HipieError

# Images that are read before their turn.
READ_AHEAD = 2

Image = TypeVar("Image")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


def predict_in_order(
    images: Iterable[Image],
    prepare: Callable[[Image], Prepared],
    predict: Callable[[Prepared], Result],
    on_error: Callable[[Image, HipieError], None] | None,
) -> Iterator[Result]:
    """Yield the results of images in order, each as soon as it is there.

    Args:
        images: any number, taken one by one.
        prepare: reads an image, in another thread.
        predict: computes the result of what was read.
        on_error: is called with an image that cannot be read or predicted, which is then left out;
            by default the error is raised.
    """
    iterator = iter(images)
    with ThreadPoolExecutor(1, "hipie-reader") as pool:
        pending = deque(
            (image, pool.submit(prepare, image)) for image in islice(iterator, READ_AHEAD)
        )
        try:
            while pending:
                image, prepared = pending.popleft()
                for following in islice(iterator, 1):
                    pending.append((following, pool.submit(prepare, following)))
                try:
                    result = predict(prepared.result())
                except HipieError as error:
                    if on_error is None:
                        raise
                    on_error(image, error)
                else:
                    yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
