"""Frames of a video, decoded by OpenCV."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import cv2
from numpy.typing import NDArray

from hipie.batch_inference.inputs import InputVideo
from hipie.data.image_io import ImageError
from hipie.data.io.reading_rules import pixel_limit
from hipie.errors import MissingFileError


def count_frames(video: InputVideo) -> int:
    """Return about how many frames of a video are read, from its header; 0 if it is unknown."""
    capture = cv2.VideoCapture(video.file)
    try:
        frames = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT))) if capture.isOpened() else 0
    finally:
        capture.release()
    return -(-frames // video.every)


def read_frames(
    video: InputVideo,
    is_needed: Callable[[int], bool] = lambda frame: True,
    max_pixels: int | None = None,
) -> Iterator[tuple[int, NDArray[Any] | None]]:
    """Decode every `video.every`th frame of a video.

    Args:
        video: the file.
        is_needed: whether the pixels of a frame are needed; others are not converted.
        max_pixels: of a frame; see `open_image`.

    Yields:
        Position of the frame from 0, and uint8 [H, W, 3], RGB; None if it is not needed.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if it is no video, has no frame that can be decoded, or too large ones.
    """
    _require_file(video.file)
    limit = pixel_limit(max_pixels)
    capture = cv2.VideoCapture(video.file)
    try:
        if not capture.isOpened():
            raise ImageError(f"{video.file}: this is not a video that can be decoded")
        frame = 0
        while capture.grab():
            if frame % video.every == 0:
                yield frame, _pixels(capture, video, limit) if is_needed(frame) else None
            frame += 1
        if frame == 0:
            raise ImageError(f"{video.file}: the video has no frame that can be decoded")
    finally:
        capture.release()


def _pixels(capture: Any, video: InputVideo, max_pixels: int) -> NDArray[Any]:
    decoded, frame = capture.retrieve()
    if not decoded or frame is None:
        raise ImageError(f"{video.file}: a frame of the video cannot be decoded")
    if frame.shape[0] * frame.shape[1] > max_pixels:
        raise ImageError(
            f"{video.file}: frames of {frame.shape[1]}x{frame.shape[0]} are too many pixels: at "
            f"most {max_pixels:,} are read (INPUT.MAX_PIXELS)"
        )
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _require_file(path: str) -> None:
    if not os.path.exists(path):
        raise MissingFileError(f"{path}: there is no such video")
    if not os.path.isfile(path):
        raise ImageError(f"{path}: this is not a regular file")
