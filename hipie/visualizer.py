"""Draw masks over an image, with a legend of colours, names and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MAX_LEGEND_WIDTH = 230
LEGEND_ROW_HEIGHT = 20
# Images with a shorter side than this are enlarged by a whole factor.
MIN_CANVAS_SIDE = 420
MARGIN = 8
GROUP_IMAGE_HEIGHT = 360
# The cross over an image that does not show the referred object.
REJECTED_COLOUR, REJECTED_LINE_WIDTH = (170, 30, 40), 3
MAX_SHEET_WIDTH = 1400
STUFF_OPACITY, THING_OPACITY, PART_OPACITY = 0.3, 0.5, 0.55

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Twenty distinct hues, ordered so that neighbours differ.
_PALETTE = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 220, 220),
    (240, 50, 230),
    (170, 200, 30),
    (0, 128, 128),
    (170, 110, 40),
    (128, 0, 0),
    (90, 90, 220),
    (128, 128, 0),
    (0, 0, 128),
    (250, 160, 160),
    (20, 90, 50),
    (255, 200, 0),
    (110, 110, 110),
    (180, 140, 255),
    (30, 200, 140),
)


class DrawableSegment(Protocol):
    """Fields of a segment that are drawn; see `hipie.segmentation.Segment`."""

    @property
    def label(self) -> str:
        """Class name or expression."""

    @property
    def kind(self) -> str:
        """The kind: "thing", "stuff", "part" or "expression"."""

    @property
    def mask(self) -> NDArray[Any]:
        """[H, W] bool."""

    @property
    def score(self) -> float:
        """Confidence in 0..1."""

    @property
    def parts(self) -> Sequence[DrawableSegment]:
        """Parts of this segment."""


@dataclass(frozen=True)
class LegendRow:
    """One row of a legend.

    Attributes:
        text: the row's text.
        indent: depth in the tree of parts.
        colour: RGB of the colour box; None for a row without one.
    """

    text: str
    indent: int = 0
    colour: Colour | None = None


@dataclass(frozen=True)
class Overlay:
    """An image with painted masks, and the legend of the colours.

    Attributes:
        canvas: [s*H, s*W, 3] uint8 RGB, enlarged by a whole factor s.
        legend: one row a segment or part.
    """

    canvas: NDArray[Any]
    legend: tuple[LegendRow, ...]


class DrawableResult(Protocol):
    """Fields of a result that `draw_group` reads; see `hipie.segmentation.Segmentation`."""

    @property
    def overlay(self) -> Overlay:
        """The painted image."""

    def __iter__(self) -> Iterator[DrawableSegment]:
        """Iterate over the segments."""


def colour_of(index: int) -> Colour:
    """RGB colour of the index-th segment; colours repeat after twenty."""
    return _PALETTE[index % len(_PALETTE)]


def paint_segments(
    image: NDArray[Any], segments: Iterable[DrawableSegment], *, scores: bool = True
) -> Overlay:
    """Paint masks over an image.

    Args:
        image: [H, W, 3] uint8 RGB. Small images are enlarged so that a legend is readable.
        segments: stuff is painted first and lightly, then the rest in order; parts over their
            whole.
        scores: write scores after names.
    """
    scale = max(1, round(MIN_CANVAS_SIDE / max(min(image.shape[:2]), 1)))
    canvas = _enlarge(image, scale, cv2.INTER_CUBIC)
    legend: list[LegendRow] = []
    foreground: list[tuple[NDArray[Any], Colour, float]] = []
    background: list[tuple[NDArray[Any], Colour, float]] = []
    for segment in segments:
        colour = colour_of(len(foreground) + len(background))
        if segment.kind == "stuff":
            background.append((segment.mask, colour, STUFF_OPACITY))
        else:
            foreground.append((segment.mask, colour, THING_OPACITY))
        if segment.mask.any():
            text = f"{segment.label} {segment.score:.2f}" if scores else segment.label
            legend.append(LegendRow(text, 0, colour))
        else:
            legend.append(LegendRow(f"{segment.label}: not found"))
        for depth, part in walk_segments(segment.parts, depth=1):
            colour = colour_of(len(foreground) + len(background))
            foreground.append((part.mask, colour, PART_OPACITY))
            legend.append(LegendRow(part.label, depth, colour))
    for mask, colour, opacity in [*background, *foreground]:
        _paint(canvas, _enlarge(mask, scale), colour, opacity)
    return Overlay(canvas, tuple(legend))


def walk_segments(
    segments: Iterable[DrawableSegment], depth: int = 0
) -> Iterator[tuple[int, DrawableSegment]]:
    """Iterate over (depth, segment) of a tree of segments and their parts, wholes first."""
    for segment in segments:
        yield depth, segment
        yield from walk_segments(segment.parts, depth + 1)


def draw_overlay(overlay: Overlay, title: str = "", notes: Sequence[str] = ()) -> Image.Image:
    """Render a painted image with its legend to the right.

    Args:
        overlay: of `paint_segments`.
        title: a line above the legend.
        notes: lines below the legend.
    """
    rows = [*overlay.legend, *(LegendRow(note) for note in notes)]
    return _concatenate(overlay.canvas, _draw_legend(rows, title, overlay.canvas.shape[0]))


def draw_segments(
    image: NDArray[Any],
    segments: Iterable[DrawableSegment],
    title: str = "",
    *,
    scores: bool = True,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Paint masks over an image and list them beside it.

    Args:
        image: [H, W, 3] uint8 RGB.
        segments: see `paint_segments`.
        title: a line above the legend.
        scores: write scores after names.
        notes: lines below the legend.
    """
    return draw_overlay(paint_segments(image, segments, scores=scores), title, notes)


def draw_group(results: Sequence[DrawableResult], expression: str) -> Image.Image:
    """Draw the results of one expression over several images on one sheet.

    The expression is the title. Below each image is its score; an image in which the expression
    describes nothing is crossed out.

    Args:
        results: one an image, with at most one segment each.
        expression: the referring expression.
    """
    images, captions = [], []
    for number, result in enumerate(results, 1):
        painted = Image.fromarray(result.overlay.canvas)
        width = max(1, round(painted.width * GROUP_IMAGE_HEIGHT / painted.height))
        images.append(painted.resize((width, GROUP_IMAGE_HEIGHT), Image.Resampling.LANCZOS))
        match = next((segment for segment in result if segment.mask.any()), None)
        if match is None:
            _cross_out(images[-1])
            captions.append(f"{number}: not in this image")
        else:
            captions.append(f"{number}: score {match.score:.2f}")
    return contact_sheet(images, captions=captions, title=expression)


def _cross_out(image: Image.Image) -> None:
    right, bottom = image.width - 1, image.height - 1
    pen = ImageDraw.Draw(image)
    for ends in ((0, 0, right, bottom), (0, bottom, right, 0)):
        pen.line(ends, fill=REJECTED_COLOUR, width=REJECTED_LINE_WIDTH)


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Arrange several images on one white sheet, left to right, row by row.

    Args:
        images: of any sizes.
        captions: a line below each image; () for no captions.
        title: a line above all.
    """
    max_width = max(MAX_SHEET_WIDTH, *(image.width for image in images))
    rows: list[list[int]] = []
    for i, image in enumerate(images):
        occupied = sum(images[k].width + MARGIN for k in rows[-1]) if rows else max_width
        rows[-1].append(i) if occupied + image.width <= max_width else rows.append([i])
    width = max(sum(images[i].width + MARGIN for i in row) for row in rows) + MARGIN
    caption_height = LEGEND_ROW_HEIGHT if captions else 0
    heights = [max(images[i].height for i in row) + MARGIN + caption_height for row in rows]
    font = ImageFont.load_default(size=15)
    heading = _wrap(title, font, width - 2 * MARGIN)
    y = MARGIN + LEGEND_ROW_HEIGHT * len(heading)
    sheet = Image.new("RGB", (width, y + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        pen.text((MARGIN, MARGIN // 2 + LEGEND_ROW_HEIGHT * number), line, fill="black", font=font)
    caption_font = ImageFont.load_default(size=13)
    for row, height in zip(rows, heights, strict=True):
        x = MARGIN
        for i in row:
            sheet.paste(images[i], (x, y))
            if captions:
                position = (x, y + images[i].height + 2)
                pen.text(position, captions[i], fill="black", font=caption_font)
            x += images[i].width + MARGIN
        y += height
    return sheet


def _enlarge(
    array: NDArray[Any], scale: int, interpolation: int = cv2.INTER_NEAREST
) -> NDArray[Any]:
    """Copy of an image or mask, enlarged by a whole factor."""
    if scale == 1:
        return array.copy()
    pixels = array.astype(np.uint8) if array.dtype == bool else array
    resized = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=interpolation)
    return resized.astype(array.dtype)


def _paint(canvas: NDArray[Any], mask: NDArray[Any], colour: Colour, opacity: float) -> None:
    """Blend a colour into the pixels of a mask, in place, and outline the mask."""
    paint = np.array(colour, np.float32)
    blended = canvas[mask].astype(np.float32) * (1 - opacity) + paint * opacity
    canvas[mask] = blended.astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, 2, cv2.LINE_AA)


def _draw_legend(rows: Sequence[LegendRow], title: str, min_height: int) -> NDArray[Any]:
    """Render legend rows as a white panel [h, w, 3] uint8."""
    font = ImageFont.load_default(size=13)
    lines = [LegendRow(line) for line in _wrap(title, font, MAX_LEGEND_WIDTH - 20)]
    for row in rows:
        first, *more = _wrap(row.text, font, MAX_LEGEND_WIDTH - 40 - 14 * row.indent)
        lines.append(LegendRow(first, row.indent, row.colour))
        lines += [LegendRow(line, row.indent) for line in more]
    text_width = max((font.getlength(line.text) + 14 * line.indent for line in lines), default=0)
    width = round(text_width) + 40 if lines else 0
    panel = Image.new("RGB", (width, max(min_height, 16 + LEGEND_ROW_HEIGHT * len(lines))), "white")
    pen = ImageDraw.Draw(panel)
    for number, line in enumerate(lines):
        x, y = 10 + 14 * line.indent, 8 + LEGEND_ROW_HEIGHT * number
        if line.colour:
            pen.rectangle((x, y + 2, x + 12, y + 14), fill=line.colour, outline="black")
        text_x = x + 18 if line.colour or line.indent else x
        pen.text((text_x, y), line.text, fill="black", font=font)
    return np.asarray(panel)


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, at spaces."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _concatenate(left: NDArray[Any], right: NDArray[Any]) -> Image.Image:
    """Two images side by side on white."""
    height = max(left.shape[0], right.shape[0])
    sheet = np.full((height, left.shape[1] + right.shape[1], 3), 255, np.uint8)
    sheet[: left.shape[0], : left.shape[1]] = left
    sheet[: right.shape[0], left.shape[1] :] = right
    return Image.fromarray(sheet)
