"""Predictions of many images, which a thread reads ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
    *,
    batch: int = 1,
    batch_key: Callable[[Prepared], Hashable] | None = None,
    prepare_batch: Callable[[Sequence[Prepared]], None] | None = None,
) -> Iterator[Result]:
    """Yield the results of images in order, each as soon as it is there.

    Args:
        images: any number, taken one by one.
        prepare: reads an image, in another thread.
        predict: computes the result of what was read.
        on_error: is called with an image that cannot be read or predicted, which is then left out;
            by default the error is raised.
        batch: so many images in a row, with equal keys, are given to `prepare_batch` together.
        batch_key: of what was read.
        prepare_batch: computes what `predict` then uses.
    """
    iterator = iter(images)
    in_batch = 0
    with ThreadPoolExecutor(1, "hipie-reader") as pool:
        pending = deque(
            (image, pool.submit(prepare, image))
            for image in islice(iterator, READ_AHEAD + batch - 1)
        )
        try:
            while pending:
                image, prepared = pending.popleft()
                for following in islice(iterator, 1):
                    pending.append((following, pool.submit(prepare, following)))
                try:
                    if in_batch == 0 and prepare_batch is not None and batch_key is not None:
                        key = batch_key(prepared.result())
                        together = [prepared.result(), *_alike(pending, key, batch_key, batch - 1)]
                        in_batch = len(together)
                        if in_batch > 1:
                            prepare_batch(together)
                    in_batch = max(0, in_batch - 1)
                    result = predict(prepared.result())
                except HipieError as error:
                    if on_error is None:
                        raise
                    on_error(image, error)
                else:
                    yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _alike(
    pending: Iterable[tuple[Image, Future[Prepared]]],
    key: Hashable,
    batch_key: Callable[[Prepared], Hashable],
    limit: int,
) -> Iterator[Prepared]:
    """Yield what was read of the next images as long as they have a key, at most `limit`."""
    for _, prepared in islice(pending, limit):
        # What cannot be read is reported in its turn.
        with suppress(HipieError):
            if batch_key(prepared.result()) == key:
                yield prepared.result()
                continue
        return
