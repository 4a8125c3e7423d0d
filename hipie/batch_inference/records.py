"""What an image leaves in a run's folder: one line of JSON, from which every format is made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from hipie.batch_inference.inputs import InputImage, InputVideo
from hipie.batch_inference.video import read_frames
from hipie.data.image_io import ImageError, read_image, require_size
from hipie.data.io.reading_rules import pixel_limit
from hipie.data.io.rle import check_segmentation
from hipie.segmentation import RleSegment, Segment, Segmentation

# How deep parts have parts.
MAX_DEPTH = 20


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
    def answers(self) -> dict[str, Any]:
        """`answers` of the result, where there are any."""
        return {name: self.result[name] for name in ("answers",) if name in self.result}

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
    def from_line(cls, line: Any) -> ImageRecord:
        """Convert back from `to_line`.

        The name of the outputs stays in the folder of results. Segments are checked by
        `check_segments`, before their masks are decoded.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        size, changed = line["version"]
        name, source, result = line["name"], line["source"], line["result"]
        image, image_id = result["image"], line["image_id"]
        frame = image.get("frame")
        if not (_are_texts(name, source, image["file"]) and _are_integers(size, changed)):
            raise TypeError("a name or a version of another type")
        if name.startswith("/") or not name or {"", ".", ".."} & set(name.split("/")):
            raise ValueError("a name that leaves the folder")
        if not _are_integers(image["height"], image["width"]) or not (
            _are_integers(*(number for number in (frame, image_id) if number is not None))
        ):
            raise TypeError("numbers of another type")
        if not isinstance(result["segments"], list):
            raise TypeError("segments of another type")
        return cls(name, source, (size, changed), result, image_id)

    def check_segments(self) -> None:
        """Check the segments of a record that was read from a file, and of their parts.

        Raises:
            KeyError, TypeError, ValueError: for a mask of another size than the image, and for
                values of other types.
        """
        height, width = self.size
        if height < 1 or width < 1 or height * width > pixel_limit():
            raise ValueError("an image of another size")
        open_entries = [(entry, 0) for entry in self.result["segments"]]
        while open_entries:
            entry, depth = open_entries.pop()
            score = entry["score"]
            names_are_valid = is_class_name(entry["category"]) and is_class_name(entry["kind"])
            if not names_are_valid or isinstance(score, bool):
                raise TypeError("a class of another type")
            if not math.isfinite(score) or depth > MAX_DEPTH:
                raise ValueError("a score or parts that are none")
            if not isinstance(entry["segmentation"], dict):
                raise TypeError("a mask of another type")
            check_segmentation(entry["category"], entry["segmentation"], height, width)
            open_entries += [(part, depth + 1) for part in entry.get("parts", ())]

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


def _are_texts(*values: Any) -> bool:
    """Whether all values are texts, of which file systems may have names."""
    return all(isinstance(value, str) and "\0" not in value for value in values)


def is_class_name(value: Any) -> bool:
    """Whether a value is text without lone surrogates, which no file of results can have."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _are_integers(*values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _walk(segments: Sequence[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield segment
        yield from _walk(segment.parts)


def _to_segment(entry: Mapping[str, Any]) -> Segment:
    parts = tuple(map(_to_segment, entry.get("parts", ())))
    return RleSegment(
        entry["category"], entry["kind"], entry["segmentation"], entry["score"], parts
    )
