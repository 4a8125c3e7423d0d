"""Draw masks over an image, with a legend of colours, names and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hipie.logs import get_logger
from hipie.text_drawing import (
    TextImage,
    font_advice,
    missing_letters,
    render_text,
    replace_missing,
    text_width,
    wrap_text,
)

# Of the text beside an image whose shorter side is at most `MAX_PLAIN_SIDE`; larger images have
# larger text and lines, up to `MAX_TEXT_SCALE` times.
MAX_LEGEND_WIDTH, MIN_LEGEND_WIDTH = 230, 140
LEGEND_ROW_HEIGHT, LEGEND_FONT_SIZE = 20, 12
TITLE_FONT_SIZE, MIN_TITLE_WIDTH = 14, 400
MAX_PLAIN_SIDE, MAX_TEXT_SCALE = 840, 4.0
# A longer text or legend ends in an ellipsis or a count.
MAX_TEXT_LINES, MAX_LEGEND_ROWS = 10, 200
# Segments of fewer pixels have no row in the legend.
MIN_LEGEND_AREA = 10
# Images with a shorter side than this are enlarged by a whole factor, unless the longer side would
# exceed `MAX_ENLARGED_SIDE`.
MIN_CANVAS_SIDE, MAX_ENLARGED_SIDE = 420, 2000
# Images that are wider than this many heights have the legend below.
LEGEND_BELOW_ASPECT = 4
MARGIN = 8
GROUP_IMAGE_HEIGHT = 360
# The cross over an image that does not show the referred object.
REJECTED_COLOUR, REJECTED_LINE_WIDTH = (170, 30, 40), 3
MAX_SHEET_WIDTH = 1400
STUFF_OPACITY, THING_OPACITY, PART_OPACITY = 0.3, 0.5, 0.55

Colour = tuple[int, int, int]
logger = get_logger(__name__)
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
        area: pixels of the segment's mask; None for a row that is always shown.
    """

    text: str
    indent: int = 0
    colour: Colour | None = None
    area: int | None = None


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
    scale = _enlargement(image.shape[0], image.shape[1])
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
        area = int(np.count_nonzero(segment.mask))
        if area:
            text = f"{segment.label} {segment.score:.2f}" if scores else segment.label
            legend.append(LegendRow(text, 0, colour, area))
        else:
            legend.append(LegendRow(f"{segment.label}: not found"))
        for depth, part in walk_segments(segment.parts, depth=1):
            colour = colour_of(len(foreground) + len(background))
            foreground.append((part.mask, colour, PART_OPACITY))
            area = int(np.count_nonzero(part.mask))
            legend.append(LegendRow(part.label, depth, colour, area))
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


def draw_overlay(
    overlay: Overlay,
    title: str = "",
    notes: Sequence[str] = (),
    *,
    min_area: int = MIN_LEGEND_AREA,
) -> Image.Image:
    """Render a painted image with its legend to the right, or below an image that is very wide.

    Letters that no font has are drawn as the number of their row, and a last row and a warning in
    the log say which package has a font for them.

    Args:
        overlay: of `paint_segments`.
        title: a line above the legend.
        notes: lines below the legend.
        min_area: segments and parts of fewer pixels have no row; their number is the last row.
    """
    rows = _select_rows(overlay.legend, min_area)
    rows += [LegendRow(_with_ellipsis(note)) for note in notes]
    missing = _missing_in([title, *notes, *(row.text for row in overlay.legend)])
    if missing:
        rows.append(LegendRow(_warn_once(font_advice(missing))))
    height, width = overlay.canvas.shape[:2]
    below = width > LEGEND_BELOW_ASPECT * height
    scale = _text_scale(height, width)
    max_width = width if below else min(max(width, MIN_LEGEND_WIDTH), MAX_LEGEND_WIDTH * scale)
    legend = _draw_legend(rows, _with_ellipsis(title), round(max_width), scale)
    return _concatenate(overlay.canvas, legend, below=below)


def draw_segments(
    image: NDArray[Any],
    segments: Iterable[DrawableSegment],
    title: str = "",
    *,
    scores: bool = True,
    notes: Sequence[str] = (),
    min_area: int = MIN_LEGEND_AREA,
) -> Image.Image:
    """Paint masks over an image and list them beside it.

    Args:
        image: [H, W, 3] uint8 RGB.
        segments: see `paint_segments`.
        title: a line above the legend.
        scores: write scores after names.
        notes: lines below the legend.
        min_area: see `draw_overlay`.
    """
    overlay = paint_segments(image, segments, scores=scores)
    return draw_overlay(overlay, title, notes, min_area=min_area)


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
        factor = min(
            GROUP_IMAGE_HEIGHT / painted.height, (MAX_SHEET_WIDTH - 2 * MARGIN) / painted.width
        )
        size = max(1, round(painted.width * factor)), max(1, round(painted.height * factor))
        images.append(painted.resize(size, Image.Resampling.LANCZOS))
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
    texts = [render_text(_with_ellipsis(caption), LEGEND_FONT_SIZE) for caption in captions]
    caption_widths = [text.coverage.shape[1] for text in texts] or [0] * len(images)
    caption_height = max((text.coverage.shape[0] + 4 for text in texts), default=0)
    caption_height = max(caption_height, LEGEND_ROW_HEIGHT) if texts else 0
    widths = [max(image.width, w) for image, w in zip(images, caption_widths, strict=True)]
    max_width = max(MAX_SHEET_WIDTH, *widths)
    rows: list[list[int]] = []
    for i, width in enumerate(widths):
        occupied = sum(widths[k] + MARGIN for k in rows[-1]) if rows else max_width
        rows[-1].append(i) if occupied + width <= max_width else rows.append([i])
    width = max(sum(widths[i] + MARGIN for i in row) for row in rows) + MARGIN
    title_width = text_width(_with_ellipsis(title), TITLE_FONT_SIZE) + 2 * MARGIN if title else 0
    width = max(width, min(title_width, MIN_TITLE_WIDTH))
    heights = [max(images[i].height for i in row) + MARGIN + caption_height for row in rows]
    missing = _missing_in([title, *captions])
    advice = _warn_once(font_advice(missing)) if missing else ""
    heading = [
        render_text(heading_line, TITLE_FONT_SIZE)
        for text in (title, advice)
        for heading_line in wrap_text(
            _with_ellipsis(text), TITLE_FONT_SIZE, width - 2 * MARGIN, MAX_TEXT_LINES
        )
    ]
    line_height = max([LEGEND_ROW_HEIGHT, *(line.coverage.shape[0] + 4 for line in heading)])
    y = MARGIN + line_height * len(heading)
    sheet = Image.new("RGB", (width, y + sum(heights)), "white")
    for number, line in enumerate(heading):
        _place_text(sheet, line, (MARGIN, MARGIN // 2 + line_height * number), line_height)
    for row, height in zip(rows, heights, strict=True):
        x = MARGIN
        for i in row:
            sheet.paste(images[i], (x, y))
            if captions:
                _place_text(sheet, texts[i], (x, y + images[i].height + 2), caption_height)
            x += widths[i] + MARGIN
        y += height
    return sheet


def _enlargement(height: int, width: int) -> int:
    """Whole factor by which an image is enlarged so that small images can be looked at."""
    factor = round(MIN_CANVAS_SIDE / max(min(height, width), 1))
    return max(1, min(factor, MAX_ENLARGED_SIDE // max(height, width, 1)))


def _text_scale(height: int, width: int) -> float:
    """Factor of the sizes of text and lines on a canvas."""
    return min(max(min(height, width) / MAX_PLAIN_SIDE, 1.0), MAX_TEXT_SCALE)


def _select_rows(legend: Sequence[LegendRow], min_area: int) -> list[LegendRow]:
    """Rows of large segments with numbers in place of letters without a font, then counts."""
    rows = [
        replace(row, text=replace_missing(row.text, f"[{number}]"))
        for number, row in enumerate(legend, 1)
        if row.area is None or row.area >= min_area
    ]
    small = len(legend) - len(rows)
    shown = rows[:MAX_LEGEND_ROWS]
    if len(rows) > len(shown):
        shown.append(LegendRow(f"and {len(rows) - len(shown)} more"))
    if small:
        shown.append(LegendRow(f"and {small} of fewer than {min_area} pixels"))
    return shown


def _with_ellipsis(text: str) -> str:
    """A text without a number: letters that no font has become an ellipsis."""
    return replace_missing(text, "[…]")


def _missing_in(texts: Iterable[str]) -> str:
    return "".join(dict.fromkeys(letter for text in texts for letter in missing_letters(text)))


@lru_cache(maxsize=64)
def _warn_once(advice: str) -> str:
    """Log an advice as a warning at its first use, and return it without the letters."""
    logger.warning("%s.", advice[0].upper() + advice[1:])
    return replace_missing(advice, "…")


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
    width = round(2 * _text_scale(canvas.shape[0], canvas.shape[1]))
    cv2.drawContours(canvas, outlines, -1, colour, width, cv2.LINE_AA)


def _draw_legend(
    rows: Sequence[LegendRow], title: str, max_width: int, scale: float
) -> NDArray[Any]:
    """Render legend rows as a white panel [h, w, 3] uint8.

    Args:
        rows: from top to bottom.
        title: above the rows.
        max_width: of the panel in pixels.
        scale: factor of all sizes.
    """
    size = round(LEGEND_FONT_SIZE * scale)
    margin, step, box = round(10 * scale), round(14 * scale), round(12 * scale)
    lines: list[tuple[LegendRow, int, TextImage]] = []
    for row in [LegendRow(title), *rows]:
        x = margin + step * row.indent
        text_x = x + box + round(6 * scale) if row.colour or row.indent else x
        space = max(max_width - margin - text_x, 4 * size)
        for number, line in enumerate(wrap_text(row.text, size, space, MAX_TEXT_LINES)):
            first = replace(row, colour=row.colour if number == 0 else None)
            lines.append((first, text_x, render_text(line, size)))
    if not lines:
        return np.full((0, 0, 3), 255, np.uint8)
    least = round(LEGEND_ROW_HEIGHT * scale)
    heights = [max(least, text.coverage.shape[0] + round(4 * scale)) for _, _, text in lines]
    width = max(text_x + text.coverage.shape[1] for _, text_x, text in lines) + margin
    panel = Image.new("RGB", (width, round(16 * scale) + sum(heights)), "white")
    pen = ImageDraw.Draw(panel)
    y = round(8 * scale)
    for (row, text_x, line_image), height in zip(lines, heights, strict=True):
        if row.colour:
            x, top = margin + step * row.indent, y + (height - box) // 2
            pen.rectangle((x, top, x + box, top + box), fill=row.colour, outline="black")
        _place_text(panel, line_image, (text_x, y), height)
        y += height
    return np.asarray(panel)


def _place_text(
    image: Image.Image, text: TextImage, position: tuple[int, int], height: int
) -> None:
    """Draw a line of text in black, in place, in a row of a height with its top left corner."""
    # Capital letters are in the middle of a row, unless marks would leave it.
    top = round(0.72 * height) - text.ascent
    top = max(min(top, height - text.coverage.shape[0]), 0)
    mask = Image.fromarray(text.coverage)
    image.paste("black", (position[0], position[1] + top), mask)


def _concatenate(image: NDArray[Any], legend: NDArray[Any], *, below: bool) -> Image.Image:
    """An image and its legend on white, beside or below it."""
    height, width = image.shape[:2]
    top, left = (height, 0) if below else (0, width)
    size = max(height, top + legend.shape[0]), max(width, left + legend.shape[1]), 3
    sheet = np.full(size, 255, np.uint8)
    sheet[:height, :width] = image
    sheet[top : top + legend.shape[0], left : left + legend.shape[1]] = legend
    return Image.fromarray(sheet)
