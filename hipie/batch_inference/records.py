"""What an image leaves in a run's folder: one line of JSON, from which every format is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from hipie.batch_inference.inputs import InputImage, InputVideo
from hipie.batch_inference.video import read_frames
from hipie.data.image_io import ImageError, read_image, require_size
from hipie.segmentation import Segment, Segmentation


@dataclass(frozen=True)
class ImageRecord:
    """The result of one image, as it is stored.

    Attributes:
        name: path of its outputs in the folder of results, with slashes and without a suffix.
        source: absolute path of the image, or of its video.
        version: size and time of change of that file, by which a changed one is recognised.
        result: `Segmentation.to_dict()` without `settings`; of a video's frame `image` has `frame`.
        image_id: the id in the COCO file that lists the image.
        pixels: [H, W, 3] uint8 RGB; None if they have to be read again.
    """

    name: str
    source: str
    version: tuple[int, int]
    result: Mapping[str, Any]
    image_id: int | None = None
    pixels: NDArray[Any] | None = None

    @property
    def file(self) -> str:
        """The image or video, as the user wrote it."""
        return str(self.result["image"]["file"])

    @property
    def frame(self) -> int | None:
        """Position of the frame in its video."""
        return self.result["image"].get("frame")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.result["image"]["height"], self.result["image"]["width"]

    def to_line(self) -> dict[str, Any]:
        """Convert to what is stored in a line."""
        return {
            "name": self.name,
            "source": self.source,
            "version": list(self.version),
            "image_id": self.image_id,
            "result": dict(self.result),
        }

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> ImageRecord:
        """Convert back from `to_line`.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        size, changed = line["version"]
        name, source = line["name"], line["source"]
        line["result"]["image"]["file"], line["result"]["segments"]
        return cls(name, source, (size, changed), line["result"], line["image_id"])

    def read_pixels(self) -> NDArray[Any]:
        """Return the image, which is read again if necessary.

        Raises:
            HipieError: if it cannot be read any more, or has another size.
        """
        if self.pixels is not None:
            return self.pixels
        if self.frame is None:
            pixels = read_image(self.source)
        else:
            pixels = read_frame(InputImage(self.source, self.frame))
        require_size(self.file, pixels.shape[:2], self.size)
        return pixels

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments with their masks and parts."""
        return tuple(map(_to_segment, self.result["segments"]))

    def walk(self) -> Iterator[Segment]:
        """Iterate over segments and parts, wholes first, in the order of their ids."""
        yield from _walk(self.segments)

    def segmentation(self) -> Segmentation:
        """Return the result with its image; see `read_pixels`."""
        return Segmentation(self.read_pixels(), self.segments, file_name=self.file)


def read_frame(image: InputImage) -> NDArray[Any]:
    """Decode one frame of a video.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: if there is no such frame.
    """
    frames = read_frames(InputVideo(image.file), lambda position: position == image.frame)
    for position, pixels in frames:
        if position == image.frame and pixels is not None:
            return pixels
    raise ImageError(f"{image.file}: the video has no frame {image.frame}")


def to_result(segmentation: Segmentation, image: InputImage) -> dict[str, Any]:
    """Convert a result to the object that JSON files have, without its settings."""
    result = segmentation.to_dict()
    del result["settings"]
    result["image"]["file"] = image.file
    if image.frame is not None:
        result["image"]["frame"] = image.frame
    return result


def decode_mask(rle: Mapping[str, Any]) -> NDArray[Any]:
    """Decode COCO's compressed RLE to a bool mask [H, W]."""
    counts = rle["counts"]
    encoded = {
        "size": rle["size"],
        "counts": counts.encode() if isinstance(counts, str) else counts,
    }
    return np.ascontiguousarray(coco_mask.decode(encoded).astype(bool))


def _walk(segments: Sequence[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield segment
        yield from _walk(segment.parts)


def _to_segment(entry: Mapping[str, Any]) -> Segment:
    parts = tuple(map(_to_segment, entry.get("parts", ())))
    mask = decode_mask(entry["segmentation"])
    return Segment(entry["category"], entry["kind"], mask, entry["score"], parts)
