"""Draw masks over an image with names on them, and a legend of colours, names and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hipie.label_placement import LabelRequest, place_labels
from hipie.logs import get_logger
from hipie.text_drawing import (
    TextImage,
    font_advice,
    missing_letters,
    render_text,
    replace_missing,
    shorten_text,
    text_width,
    wrap_text,
)

# Of the text beside an image whose shorter side is at most `MAX_PLAIN_SIDE`; larger images have
# larger text and lines, up to `MAX_TEXT_SCALE` times.
MAX_LEGEND_WIDTH, MIN_LEGEND_WIDTH = 230, 140
LEGEND_ROW_HEIGHT, LEGEND_FONT_SIZE = 20, 12
TITLE_FONT_SIZE, MIN_TITLE_WIDTH = 14, 400
MAX_PLAIN_SIDE, MAX_TEXT_SCALE = 640, 6.0
# A longer text or legend ends in an ellipsis or a count.
MAX_TEXT_LINES, MAX_LEGEND_ROWS = 10, 200
# A legend beside the image is no wider than this fraction of the image.
MAX_BESIDE_WIDTH = 0.4
# Segments of fewer pixels have no row in the legend.
MIN_LEGEND_AREA = 10
# Images with a shorter side than this are enlarged by a whole factor, unless the longer side would
# exceed `MAX_ENLARGED_SIDE`.
MIN_CANVAS_SIDE, MAX_ENLARGED_SIDE = 625, 2000
MARGIN = 8
GROUP_IMAGE_HEIGHT = 360
# The cross over an image that does not show the referred object.
REJECTED_COLOUR, REJECTED_LINE_WIDTH = (170, 30, 40), 3
MAX_SHEET_WIDTH = 1400
STUFF_OPACITY, THING_OPACITY, PART_OPACITY = 0.3, 0.4, 0.45
OUTLINE_WIDTH = 1.5
# Names on segments: text size, that of parts, and the longest name in widths of the image.
LABEL_FONT_SIZE, PART_FONT_SIZE, MAX_LABEL_WIDTH = 13, 11, 0.45
# Smaller segments, in fractions of the image, are named in the legend only.
MIN_LABELLED_AREA = 0.0004
LABEL_GRID_SIDE = 400  # cells along the longer side of the map on which labels are placed
LABEL_OPACITY = 0.88
# Contrast ratios of WCAG 2: the least one, and the one from which text is black instead of white.
MIN_CONTRAST, MIN_BLACK_TEXT_CONTRAST = 4.5, 8.0
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

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
class SegmentLabel:
    """The name of a segment or part, to be drawn on it.

    Attributes:
        text: class name or expression.
        colour: RGB of the segment.
        kind: the segment's kind.
        row: its row in the legend, from 0; its cells in `Overlay.regions` are this plus 1.
        box: (x1, y1, x2, y2) of the mask in cells.
        area: cells of the mask.
    """

    text: str
    colour: Colour
    kind: str
    row: int
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class Overlay:
    """An image with painted masks, and the names of the segments.

    Attributes:
        canvas: [s*H, s*W, 3] uint8 RGB, enlarged by a whole factor s; without names.
        legend: one row a segment or part.
        labels: one a segment or part that is large enough to be named on the image.
        regions: [h, w] int32, the image on a coarse grid: the row of the topmost segment of each
            cell, from 1, or 0.
    """

    canvas: NDArray[Any]
    legend: tuple[LegendRow, ...]
    labels: tuple[SegmentLabel, ...]
    regions: NDArray[np.int32]


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
    original = _enlarge(image, scale, cv2.INTER_CUBIC)
    canvas = original.copy()
    legend: list[LegendRow] = []
    painted: list[tuple[DrawableSegment, Colour, int, float]] = []
    for depth, segment in walk_segments(segments):
        colour, row = colour_of(len(painted)), len(legend)
        opacity = STUFF_OPACITY if segment.kind == "stuff" else THING_OPACITY
        painted.append((segment, colour, row, PART_OPACITY if depth else opacity))
        area = int(np.count_nonzero(segment.mask))
        if depth:
            legend.append(LegendRow(segment.label, depth, colour, area))
        elif area:
            text = f"{segment.label} {segment.score:.2f}" if scores else segment.label
            legend.append(LegendRow(text, 0, colour, area))
        else:
            legend.append(LegendRow(f"{segment.label}: not found"))
    # Stuff is below the rest; sorting is stable.
    painted.sort(key=lambda entry: entry[0].kind != "stuff")
    regions = np.zeros(_grid_size(image.shape[0], image.shape[1]), np.int32)
    labels: list[SegmentLabel] = []
    for segment, colour, row, opacity in painted:
        _paint(canvas, original, _enlarge(segment.mask, scale), colour, opacity)
        cells = _on_grid(segment.mask, regions)
        regions[cells] = row + 1
        fraction = np.count_nonzero(segment.mask) / max(segment.mask.size, 1)
        if fraction >= MIN_LABELLED_AREA and cells.any():
            rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
            left, right = int(columns[0]), int(columns[-1]) + 1
            box = left, int(rows[0]), right, int(rows[-1]) + 1
            area = int(np.count_nonzero(cells))
            labels.append(SegmentLabel(segment.label, colour, segment.kind, row, box, area))
    return Overlay(canvas, tuple(legend), tuple(labels), regions)


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
    """Render a painted image with names on the segments and a legend beside or below it.

    The legend is a column beside the image or lines below it, whichever takes less room; a column
    is at most 0.4 of the image wide. Letters that no font has are drawn as the number of their
    row, and a last row and a warning in the log say which package has a font for them.

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
    scale = _text_scale(height, width)
    canvas = draw_labels(overlay.canvas, overlay, scale)
    legend, below = _draw_legend(rows, _with_ellipsis(title), (height, width), scale)
    return _concatenate(canvas, legend, below=below)


def draw_labels(canvas: NDArray[Any], overlay: Overlay, scale: float) -> NDArray[Any]:
    """Draw the names of segments on a copy of a painted image.

    A name is on its segment where it fits, beside it with a leader line where the segment is too
    small, and in the legend alone where there is no room. Names never overlap.

    Args:
        canvas: [h, w, 3] uint8 RGB, the overlay's canvas in any size.
        overlay: the names and their segments.
        scale: factor of the size of text and lines.
    """
    height, width = canvas.shape[:2]
    # Pixels of a cell along both axes.
    cell = width / overlay.regions.shape[1], height / overlay.regions.shape[0]
    drawn: list[tuple[SegmentLabel, Image.Image]] = []
    requests: list[LabelRequest] = []
    for label in overlay.labels:
        tag = _draw_tag(label, scale, round(MAX_LABEL_WIDTH * width))
        if tag is None:
            continue
        drawn.append((label, tag))
        size = int(np.ceil(tag.width / cell[0])) + 1, int(np.ceil(tag.height / cell[1])) + 1
        is_stuff = label.kind == "stuff"
        requests.append(LabelRequest(label.row + 1, size, label.box, label.area, is_stuff))
    image = Image.fromarray(canvas.copy())
    placed = list(zip(drawn, place_labels(overlay.regions, requests), strict=True))
    for (label, _), place in placed:
        if place is not None and place.leader is not None:
            ends = [_centre_of_cell(end, cell) for end in place.leader]
            _draw_leader(image, ends, label.colour, scale)
    for (_, tag), place in placed:
        if place is not None:
            x, y = round(place.corner[0] * cell[0]), round(place.corner[1] * cell[1])
            image.paste(tag, (x, y), tag)
    return np.asarray(image)


def tag_colours(colour: Colour) -> tuple[Colour, Colour]:
    """Background and text colour of a name on a segment of a colour.

    The contrast is at least 4.5 as WCAG 2 defines it: the background is the segment's colour,
    darkened below white text unless black text is readable on it.
    """
    if _contrast(colour, BLACK) >= MIN_BLACK_TEXT_CONTRAST:
        return colour, BLACK
    factor = 1.0
    while _contrast(darker := _darken(colour, factor), WHITE) < MIN_CONTRAST:
        factor -= 0.02
    return darker, WHITE


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
        overlay = result.overlay
        painted = Image.fromarray(overlay.canvas)
        factor = min(
            GROUP_IMAGE_HEIGHT / painted.height, (MAX_SHEET_WIDTH - 2 * MARGIN) / painted.width
        )
        size = max(1, round(painted.width * factor)), max(1, round(painted.height * factor))
        resized = np.asarray(painted.resize(size, Image.Resampling.LANCZOS))
        images.append(Image.fromarray(draw_labels(resized, overlay, 1.0)))
        match = next((segment for segment in result if segment.mask.any()), None)
        if match is None:
            _cross_out(images[-1])
            captions.append(f"{number}: not in this image")
        else:
            captions.append(f"{number}: score {match.score:.2f}")
    return contact_sheet(images, captions=captions, title=expression)


def _cross_out(image: Image.Image) -> None:
    """Fade an image and cross it out, in place."""
    faded = np.asarray(image.convert("L").convert("RGB"), np.float32) * 0.6 + 255 * 0.4
    canvas = faded.astype(np.uint8)
    right, bottom = image.width - 1, image.height - 1
    for start, end in (((0, 0), (right, bottom)), ((0, bottom), (right, 0))):
        cv2.line(canvas, start, end, REJECTED_COLOUR, REJECTED_LINE_WIDTH, cv2.LINE_AA)
    image.paste(Image.fromarray(canvas))


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


def _grid_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map on which labels are placed."""
    factor = min(LABEL_GRID_SIDE / max(height, width, 1), 1.0)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _on_grid(mask: NDArray[Any], regions: NDArray[np.int32]) -> NDArray[np.bool_]:
    """A mask at the size of the map; cells that it half covers are True."""
    size = regions.shape[1], regions.shape[0]
    # Of large images every cell is decided by a few of its pixels.
    step = max(max(mask.shape) // (4 * LABEL_GRID_SIDE), 1)
    pixels = 255 * mask[::step, ::step].astype(np.uint8)
    cells = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cells >= 128)


def _enlarge(
    array: NDArray[Any], scale: int, interpolation: int = cv2.INTER_LINEAR
) -> NDArray[Any]:
    """Copy of an image or mask, enlarged by a whole factor; outlines of masks are smooth."""
    if scale == 1:
        return array.copy()
    if array.dtype == bool:
        pixels = cv2.resize(
            array.astype(np.float32), None, fx=scale, fy=scale, interpolation=interpolation
        )
        return np.asarray(pixels >= 0.5)
    resized = cv2.resize(array, None, fx=scale, fy=scale, interpolation=interpolation)
    return np.asarray(resized)


def _paint(
    canvas: NDArray[Any],
    image: NDArray[Any],
    mask: NDArray[Any],
    colour: Colour,
    opacity: float,
) -> None:
    """Paint and outline a mask on a canvas, in place.

    Inside the mask a colour is blended with the image, not with the canvas: what was painted
    there before is replaced, so that colours of overlapping segments do not mix.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    width = OUTLINE_WIDTH * _text_scale(canvas.shape[0], canvas.shape[1])
    sigma = max(0.7 * width, 1.0)
    border = int(np.ceil(3 * sigma))
    window = (
        slice(max(rows[0] - border, 0), rows[-1] + 1 + border),
        slice(max(columns[0] - border, 0), columns[-1] + 1 + border),
    )
    inside = mask[window].astype(np.uint8)
    levels = np.arange(256, dtype=np.float32)[:, None]
    paint = np.array(colour, np.float32)
    tint = np.rint(levels * (1 - opacity) + paint * opacity).astype(np.uint8)
    area = np.ascontiguousarray(canvas[window])
    area = cv2.copyTo(cv2.LUT(np.ascontiguousarray(image[window]), tint[None]), inside, area)
    # Replicated at the window's edge: the image's edge is no outline.
    blurred = cv2.GaussianBlur(255 * inside, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    # Across a straight outline a blurred mask is the normal distribution of the distance to it,
    # whose slope at the outline gives the distance in pixels.
    distance = np.abs(levels[:, 0] / 255 - 0.5) * sigma * np.sqrt(2 * np.pi)
    opacities = np.clip(width / 2 + 0.5 - distance, 0, 1)
    line = np.nonzero(cv2.LUT(blurred, (opacities > 0).astype(np.uint8)))
    alpha = opacities[blurred[line]][:, None]
    area[line] = np.rint(area[line] * (1 - alpha) + paint * alpha)
    canvas[window] = area


def _draw_tag(label: SegmentLabel, scale: float, max_width: int) -> Image.Image | None:
    """A name on a rounded background as an RGBA image; None for a name without visible letters."""
    size = round((PART_FONT_SIZE if label.kind == "part" else LABEL_FONT_SIZE) * scale)
    padding = max(round(0.3 * size), 2)
    name = " ".join(replace_missing(label.text, f"[{label.row + 1}]").split())
    if not name:
        return None
    text = render_text(shorten_text(name, size, max_width - 2 * padding), size)
    if not text.coverage.any():
        return None
    background, ink = tag_colours(label.colour)
    # Names of one size have one height, whatever their letters.
    height = max(round(1.45 * size), text.coverage.shape[0] + 2)
    width = text.coverage.shape[1] + 2 * padding
    tag = Image.new("RGBA", (width, height), (*background, 0))
    shape = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(shape).rounded_rectangle(
        (0, 0, 4 * width - 1, 4 * height - 1), 4 * 0.25 * size, fill=round(255 * LABEL_OPACITY)
    )
    tag.putalpha(shape.resize(tag.size, Image.Resampling.BOX))
    top = round(0.72 * height) - text.ascent
    top = max(min(top, height - text.coverage.shape[0]), 0)
    letters = Image.new("L", tag.size)
    letters.paste(Image.fromarray(text.coverage), (padding, top))
    tag.paste(ink, (0, 0), letters)
    return tag


def _draw_leader(
    image: Image.Image, ends: Sequence[tuple[int, int]], colour: Colour, scale: float
) -> None:
    """Draw a thin line from a name to its segment, in place, with a light edge on both sides."""
    canvas = np.array(image)
    width = max(round(scale), 1)
    start, end = ends
    line = tag_colours(colour)[0]
    for pen, more in ((WHITE, 2), (line, 0)):
        cv2.line(canvas, start, end, pen, width + more * width, cv2.LINE_AA)
    cv2.circle(canvas, end, round(2.5 * scale), WHITE, -1, cv2.LINE_AA)
    cv2.circle(canvas, end, max(round(1.5 * scale), 1), line, -1, cv2.LINE_AA)
    image.paste(Image.fromarray(canvas))


def _centre_of_cell(cell: tuple[int, int], size: tuple[float, float]) -> tuple[int, int]:
    return round((cell[0] + 0.5) * size[0]), round((cell[1] + 0.5) * size[1])


def _darken(colour: Colour, factor: float) -> Colour:
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue


def _contrast(first: Colour, second: Colour) -> float:
    """Contrast ratio of two sRGB colours, 1 to 21; WCAG 2.2, section 1.4.3."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, 0 to 1; WCAG 2.2."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _draw_legend(
    rows: Sequence[LegendRow], title: str, image_size: tuple[int, int], scale: float
) -> tuple[NDArray[Any], bool]:
    """Render legend rows as a white panel.

    Args:
        rows: in order.
        title: above the rows.
        image_size: (height, width) of the image.
        scale: factor of all sizes.

    Returns:
        The panel [h, w, 3] uint8, and whether it belongs below the image instead of beside it.
    """
    if not rows and not title:
        return np.full((0, 0, 3), 255, np.uint8), False
    height, width = image_size
    entries = [LegendRow(title), *rows]
    panel_width = max(width, round(MIN_LEGEND_WIDTH * scale))
    panel = _lay_out(entries, panel_width, scale, flowing=True)
    column_width = round(min(MAX_LEGEND_WIDTH * scale, MAX_BESIDE_WIDTH * width))
    if column_width < MIN_LEGEND_WIDTH * scale:
        return panel, True
    column = _lay_out(entries, column_width, scale, flowing=False)
    # Whichever leaves the drawing smaller.
    is_smaller = height * column.shape[1] < panel.shape[0] * width
    return (column, False) if is_smaller and column.shape[0] <= height else (panel, True)


def _legend_sizes(scale: float) -> tuple[int, int, int, int]:
    """Font size, margin, indentation and side of a colour box, in pixels."""
    return round(LEGEND_FONT_SIZE * scale), round(10 * scale), round(14 * scale), round(12 * scale)


def _lay_out(
    rows: Sequence[LegendRow], max_width: int, scale: float, *, flowing: bool
) -> NDArray[Any]:
    """Render legend rows below each other, or one after the other in lines.

    Args:
        rows: in order; rows without a colour have lines of their own.
        max_width: of the panel in pixels.
        scale: factor of all sizes.
        flowing: rows share lines; a segment with parts begins a line.
    """
    size, margin, step, box = _legend_sizes(scale)
    least, gap = round(LEGEND_ROW_HEIGHT * scale), round(6 * scale)
    # Of each item: x, number of its line, x of its text, row of the colour box, text.
    items: list[tuple[int, int, int, LegendRow, TextImage]] = []
    line, right, previous = -1, max_width, LegendRow("")
    for row, following in zip(rows, [*rows[1:], LegendRow("")], strict=True):
        start = margin + step * row.indent
        offset = box + gap if row.colour or row.indent else 0
        space = max(max_width - margin - start - offset, 4 * size)
        texts = wrap_text(row.text, size, space, MAX_TEXT_LINES) or [""] * bool(row.colour)
        begins = not row.indent and (bool(previous.indent) or bool(following.indent))
        alone = not flowing or row.colour is None or previous.colour is None or len(texts) > 1
        for number, text in enumerate(texts):
            drawn = render_text(text, size)
            end = right + 2 * gap + offset + drawn.coverage.shape[1]
            if line < 0 or alone or begins or number or end > max_width - margin:
                line, x = line + 1, start
            else:
                x = right + 2 * gap
            first = replace(row, colour=row.colour if number == 0 else None)
            items.append((x, line, x + offset, first, drawn))
            right = x + offset + drawn.coverage.shape[1]
        previous = row if texts else previous
    heights = [least] * (line + 1)
    for _, line, _, _, drawn in items:
        heights[line] = max(heights[line], drawn.coverage.shape[0] + round(4 * scale))
    used = max((x + drawn.coverage.shape[1] for _, _, x, _, drawn in items), default=0) + margin
    tops = round(8 * scale) + np.cumsum([0, *heights])
    panel = Image.new("RGB", (used, int(tops[-1]) + round(8 * scale)), "white")
    pen = ImageDraw.Draw(panel)
    for x, line, text_x, row, drawn in items:
        y, height = int(tops[line]), heights[line]
        if row.colour:
            top = y + (height - box) // 2
            pen.rectangle((x, top, x + box, top + box), fill=row.colour, outline="black")
        _place_text(panel, drawn, (text_x, y), height)
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
