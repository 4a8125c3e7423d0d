"""Masks over an image, with a legend that says what every colour is."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hipie.segmentation import Segment, Segmentation

WIDEST_LEGEND = 230
ROW = 20
SHORTEST_SIDE = 420
MARGIN = 8
GROUP_HEIGHT = 360
# Lines over an image that does not show what an expression says.
REJECTED, REJECTED_WIDTH = (170, 30, 40), 3
WIDEST_SHEET = 1400
# Twenty hues far apart, in an order in which neighbours differ.
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


def colour_of(index: int) -> tuple[int, int, int]:
    """The RGB colour of the index-th segment; colours repeat after twenty."""
    return _PALETTE[index % len(_PALETTE)]


def draw_segments(
    image: np.ndarray,
    segments: Sequence[Segment],
    title: str = "",
    *,
    scores: bool = True,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Paint masks over an image and list them beside it.

    Args:
        image: [H, W, 3] uint8 RGB. Small images are enlarged so that the legend is readable.
        segments: stuff is painted first and lightly, then the rest in order; parts over their
            whole.
        title: a line above the legend.
        scores: write scores behind names.
        notes: lines below the legend.
    """
    canvas, rows = _painted(image, segments, scores)
    rows += [(0, note, None) for note in notes]
    return _beside(canvas, _legend(rows, title, canvas.shape[0]))


def draw_group(answers: Sequence[Segmentation], expression: str) -> Image.Image:
    """What an expression describes in several images, on one sheet.

    The expression stands above, once; below each image stands how sure its answer is, or that
    there is none, and such an image is crossed out.

    Args:
        answers: one an image, with at most one segment each.
        expression: what was asked.
    """
    images, captions = [], []
    for number, answer in enumerate(answers, 1):
        painted = Image.fromarray(_painted(answer.image, answer.segments)[0])
        width = max(1, round(painted.width * GROUP_HEIGHT / painted.height))
        images.append(painted.resize((width, GROUP_HEIGHT), Image.Resampling.LANCZOS))
        found = next((one for one in answer if one.mask.any()), None)
        if found is None:
            _cross_out(images[-1])
        said = "not shown here" if found is None else f"found, score {found.score:.2f}"
        captions.append(f"{number}: {said}")
    return contact_sheet(images, captions=captions, title=expression)


def _cross_out(picture: Image.Image) -> None:
    right, low = picture.width - 1, picture.height - 1
    pen = ImageDraw.Draw(picture)
    for corners in ((0, 0, right, low), (0, low, right, 0)):
        pen.line(corners, fill=REJECTED, width=REJECTED_WIDTH)


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Several images on one white sheet, from left to right, row below row.

    Args:
        images: of any sizes.
        captions: a line below each image; none at all by default.
        title: a line above all.
    """
    widest = max(WIDEST_SHEET, *(picture.width for picture in images))
    rows: list[list[int]] = []
    for i, picture in enumerate(images):
        taken = sum(images[k].width + MARGIN for k in rows[-1]) if rows else widest
        rows[-1].append(i) if taken + picture.width <= widest else rows.append([i])
    width = max(sum(images[i].width + MARGIN for i in row) for row in rows) + MARGIN
    below = ROW if captions else 0
    heights = [max(images[i].height for i in row) + MARGIN + below for row in rows]
    font = ImageFont.load_default(size=15)
    heading = _wrap(title, font, width - 2 * MARGIN)
    y = MARGIN + ROW * len(heading)
    sheet = Image.new("RGB", (width, y + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        pen.text((MARGIN, MARGIN // 2 + ROW * number), line, fill="black", font=font)
    small = ImageFont.load_default(size=13)
    for row, height in zip(rows, heights, strict=True):
        x = MARGIN
        for i in row:
            sheet.paste(images[i], (x, y))
            if captions:
                at = (x, y + images[i].height + 2)
                pen.text(at, captions[i], fill="black", font=small)
            x += images[i].width + MARGIN
        y += height
    return sheet


def _painted(
    image: np.ndarray, segments: Sequence[Segment], scores: bool = True
) -> tuple[np.ndarray, list[tuple[int, str, tuple[int, int, int] | None]]]:
    """The image with its masks, and the legend's rows: indent, text, colour."""
    scale = max(1, round(SHORTEST_SIDE / max(min(image.shape[:2]), 1)))
    canvas = _enlarge(image, scale, cv2.INTER_CUBIC)
    rows: list[tuple[int, str, tuple[int, int, int] | None]] = []
    paint: list[tuple[np.ndarray, tuple[int, int, int], float]] = []
    below: list[tuple[np.ndarray, tuple[int, int, int], float]] = []
    for segment in segments:
        colour = colour_of(len(paint) + len(below))
        if segment.kind == "stuff":
            below.append((segment.mask, colour, 0.3))
        else:
            paint.append((segment.mask, colour, 0.5))
        said = f"{segment.label} {segment.score:.2f}" if scores else segment.label
        rows.append((0, said, colour))
        if not segment.mask.any():
            rows[-1] = (0, f"{segment.label}: not found", None)
        for depth, part in Segmentation(image, segment.parts).walk():
            colour = colour_of(len(paint) + len(below))
            paint.append((part.mask, colour, 0.55))
            rows.append((depth + 1, part.label, colour))
    for mask, colour, strength in [*below, *paint]:
        _paint(canvas, _enlarge(mask, scale), colour, strength)
    return canvas, rows


def _enlarge(array: np.ndarray, scale: int, how: int = cv2.INTER_NEAREST) -> np.ndarray:
    plain = array.astype(np.uint8) if array.dtype == bool else array
    grown = cv2.resize(plain, None, fx=scale, fy=scale, interpolation=how) if scale > 1 else plain
    return grown.astype(bool) if array.dtype == bool else grown.copy()


def _paint(
    canvas: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], strength: float
) -> None:
    inside = canvas[mask].astype(np.float32)
    canvas[mask] = (inside * (1 - strength) + np.float32(colour) * strength).astype(np.uint8)
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, edges, -1, colour, 2, cv2.LINE_AA)


def _legend(
    rows: Sequence[tuple[int, str, tuple[int, int, int] | None]], title: str, height: int
) -> np.ndarray:
    font = ImageFont.load_default(size=13)
    heading = _wrap(title, font, WIDEST_LEGEND - 20)
    lines: list[tuple[int, str, tuple[int, int, int] | None]] = []
    lines += [(0, line, None) for line in heading]
    for indent, text, colour in rows:
        first, *more = _wrap(text, font, WIDEST_LEGEND - 40 - 14 * indent)
        lines += [(indent, first, colour), *((indent, line, None) for line in more)]
    widest = max((font.getlength(text) + 14 * indent for indent, text, _ in lines), default=0)
    size = round(widest) + 40 if lines else 0, max(height, 16 + ROW * len(lines))
    panel = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(panel)
    for number, (indent, text, colour) in enumerate(lines):
        x, y = 10 + 14 * indent, 8 + ROW * number
        if colour:
            pen.rectangle((x, y + 2, x + 12, y + 14), fill=colour, outline="black")
        pen.text((x + 18 if colour or indent else x, y), text, fill="black", font=font)
    return np.asarray(panel)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _beside(left: np.ndarray, right: np.ndarray) -> Image.Image:
    height = max(left.shape[0], right.shape[0])
    sheet = np.full((height, left.shape[1] + right.shape[1], 3), 255, np.uint8)
    sheet[: left.shape[0], : left.shape[1]] = left
    sheet[: right.shape[0], left.shape[1] :] = right
    return Image.fromarray(sheet)
