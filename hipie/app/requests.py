"""What the tabs ask of the models: checks of the input, and the calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.app.models import ModelPool
from hipie.app.work import Progress
from hipie.errors import InputError
from hipie.segmentation import Segmentation
from hipie.vocabularies import parse_names, parse_parts

# Names the folder of uploads to gradio.
UPLOADS_VARIABLE = "GRADIO_TEMP_DIR"
OUTPUTS = ("panoptic", "instances", "semantic")


@dataclass(frozen=True)
class Limits:
    """Limits of the page.

    Attributes:
        bytes: of an uploaded file.
        pixels: of an image, checked before it is decoded.
        names: class names or expressions of a request.
        images: of a group.
    """

    bytes: int = 20_000_000
    pixels: int = 25_000_000
    names: int = 1000
    images: int = 24


class Requests:
    """Calls of the models for the tabs; every method is work for `Worker.run`.

    Args:
        pool: the models.
        limits: see `Limits`.
    """

    def __init__(self, pool: ModelPool, limits: Limits) -> None:
        self.pool = pool
        self.limits = limits

    def segment(
        self,
        progress: Progress,
        model: str,
        image: str | None,
        names: Mapping[str, Sequence[str]],
        output: str = "panoptic",
        min_score: float = 0.0,
    ) -> tuple[str, Segmentation]:
        """Segment by class names.

        Args:
            progress: of the work.
            model: its name.
            image: the uploaded file.
            names: entries of "things", "stuff" and "parts", each in the command line's form.
            output: see `Segmenter.segment`.
            min_score: likewise.

        Returns:
            A message, and the result.

        Raises:
            HipieError: in one sentence, for whatever fails.
        """
        path = require_image(image)
        things, stuff = (parse_names(join(names.get(kind))) for kind in ("things", "stuff"))
        parts = parse_parts(join(names.get("parts")))
        count = sum(map(len, (*things, *stuff, *parts.values())))
        self._require_few(count, "class names")
        if not count:
            raise InputError("name at least one thing, stuff or part")
        segmenter = self._segmenter(progress, model)
        progress.step("Segmenting")
        result = segmenter.segment(
            path, things, stuff, parts, output=output, min_score=min_score or None
        )
        return counted(len(result), "segment"), result

    def refer(
        self, progress: Progress, model: str, image: str | None, text: str
    ) -> tuple[str, Segmentation]:
        """Segment the objects of expressions, one a line; see `segment`."""
        path = require_image(image)
        expressions = [line.strip() for line in (text or "").splitlines() if line.strip()]
        if not expressions:
            raise InputError("write at least one expression, one a line")
        self._require_few(len(expressions), "expressions")
        segmenter = self._segmenter(progress, model)
        progress.step("Segmenting")
        result = segmenter.refer(path, expressions)
        shown = sum(bool(segment.area) for segment in result)
        return f"{shown} of {counted(len(result), 'expression')} found", result

    def group(
        self, progress: Progress, model: str, images: Sequence[str] | None, expression: str
    ) -> tuple[str, list[Segmentation]]:
        """Segment the object of an expression in several images; see `segment`."""
        paths = self._require_images(images)
        if not (expression or "").strip():
            raise InputError("write the expression")
        segmenter = self._segmenter(progress, model)
        compares = "group" in segmenter.model.tasks
        if compares:
            progress.step(f"Comparing {len(paths)} images")
            results = segmenter.refer_group(paths, expression.strip())
        else:
            results = []
            for number, path in enumerate(paths, 1):
                progress.step(f"Segmenting image {number} of {len(paths)}")
                results.append(segmenter.refer(path, expression.strip()))
        shown = sum(any(segment.area for segment in result) for result in results)
        text = f"Found in {shown} of {counted(len(results), 'image')}"
        if not compares:
            text += f"; {model} segments each image by itself"
        return text, results

    def prompt(
        self, progress: Progress, model: str, image: str | None, prompt: Mapping[str, Any]
    ) -> tuple[str, Segmentation]:
        """Segment the object of clicks; see `segment`."""
        path = require_image(image)
        segmenter = self._segmenter(progress, model)
        progress.step("Segmenting")
        result = segmenter.prompt(path, [prompt])
        score = result.segments[0].score
        return f"Mask of {result.segments[0].area:,} pixels, score {score:.2f}", result

    def like(
        self,
        progress: Progress,
        model: str,
        example: tuple[NDArray[Any], NDArray[Any]] | None,
        label: str,
        images: Sequence[str] | None,
    ) -> tuple[str, list[Segmentation]]:
        """Segment in images what an example's mask shows.

        Args:
            progress: see `segment`.
            model: likewise.
            example: an image [H, W, 3] and its mask [H, W].
            label: name of the object.
            images: uploaded files.
        """
        if example is None:
            raise InputError("choose the example image")
        if not example[1].any():
            raise InputError("paint the object in the example image, or give a box around it")
        paths = self._require_images(images)
        segmenter = self._segmenter(progress, model)
        results = []
        for number, path in enumerate(paths, 1):
            progress.step(f"Segmenting image {number} of {len(paths)}")
            results.append(segmenter.like(path, [(*example, (label or "").strip() or "object")]))
        shown = sum(any(segment.area for segment in result) for result in results)
        return f"Found in {shown} of {counted(len(results), 'image')}", results

    def _segmenter(self, progress: Progress, model: str) -> Any:
        segmenter = self.pool.get(model, progress.step)
        limit = segmenter.cfg.INPUT.MAX_PIXELS
        if limit > self.limits.pixels:
            segmenter.cfg.defrost()
            segmenter.cfg.INPUT.MAX_PIXELS = self.limits.pixels
        return segmenter

    def _require_few(self, count: int, what: str) -> None:
        if count > self.limits.names:
            raise InputError(
                f"there are {count:,} {what}, and at most {self.limits.names:,} are accepted"
            )

    def _require_images(self, images: Sequence[str] | None) -> list[str]:
        paths = [require_image(image) for image in images or ()]
        if not paths:
            raise InputError("choose at least one image")
        if len(paths) > self.limits.images:
            raise InputError(
                f"there are {len(paths)} images, and at most {self.limits.images} are accepted"
            )
        return paths


def require_image(image: str | None) -> str:
    """Return the file of an image.

    Raises:
        InputError: if none was chosen.
    """
    if not image:
        raise InputError("choose an image")
    return image


def join(entries: Iterable[str] | str | None) -> str:
    """Join chips to the form of the command line; a chip may hold several entries."""
    if isinstance(entries, str):
        return entries
    return "; ".join(entries or ())


def counted(count: int, noun: str) -> str:
    """Number and noun, such as "1 segment"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def painted_example(
    value: Mapping[str, Any] | None, box: str = ""
) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """Return the image and the mask of an editor's value.

    Args:
        value: `background` and `layers`, arrays [H, W, 4], of which whatever is painted is the
            object; or `error`, why the image cannot be used.
        box: "left, top, right, bottom" of a box whose pixels are the object, too; "" without one.

    Returns:
        [H, W, 3] uint8 RGB and [H, W] bool, or None without an image.

    Raises:
        InputError: for an image that cannot be used, or a box that is not four numbers, has no
            pixels or is not in the image.
    """
    if value and "error" in value:
        raise InputError(value["error"])
    if not value or value.get("background") is None:
        return None
    import cv2

    image = np.asarray(value["background"])[:, :, :3]
    mask = np.zeros(image.shape[:2], bool)
    for layer in value.get("layers") or ():
        alpha = np.asarray(layer)[:, :, 3]
        if alpha.shape != mask.shape:
            alpha = cv2.resize(alpha, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
        mask |= alpha > 127
    if (box or "").strip():
        left, top, right, bottom = _parse_box(box)
        height, width = mask.shape
        if not (left < right <= width and top < bottom <= height):
            raise InputError(
                f"the box from ({left}, {top}) to ({right}, {bottom}) is not inside of the image "
                f"of {width} x {height} pixels"
            )
        mask[top:bottom, left:right] = True
    return np.ascontiguousarray(image), mask


def _parse_box(text: str) -> tuple[int, int, int, int]:
    sides = re.fullmatch(r"\s*(\d{1,9})[\s,;]+(\d{1,9})[\s,;]+(\d{1,9})[\s,;]+(\d{1,9})\s*", text)
    if sides is None:
        raise InputError(
            f'a box is left, top, right, bottom in pixels, such as "20, 30, 180, 150", not "{text}"'
        )
    left, top, right, bottom = map(int, sides.groups())
    return left, top, right, bottom


def file_names(paths: Iterable[str]) -> list[str]:
    """Names of files without their folders."""
    return [Path(path).name for path in paths]
