"""Masks over a picture, with a legend that says what every colour is."""

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


def draw_segments(image: np.ndarray, segments: Sequence[Segment], title: str = "") -> Image.Image:
    """Paint masks over a picture and list them beside it.

    Args:
        image: [H, W, 3] uint8 RGB. Small pictures are enlarged so that the legend is readable.
        segments: painted in order, stuff lightly and the rest strongly; parts over their whole.
        title: a line above the legend.
    """
    canvas, rows = _painted(image, segments)
    return _beside(canvas, _legend(rows, title, canvas.shape[0]))


def draw_group(answers: Sequence[Segmentation], sentence: str) -> Image.Image:
    """What a sentence describes in several pictures, on one sheet.

    The sentence stands above, once; below each picture stands how sure its answer is, or that
    there is none.

    Args:
        answers: one a picture, with at most one segment each.
        sentence: what was asked.
    """
    pictures, captions = [], []
    for number, answer in enumerate(answers, 1):
        pictures.append(Image.fromarray(_painted(answer.image, answer.segments)[0]))
        found = next((one for one in answer if one.mask.any()), None)
        said = "not shown here" if found is None else f"found, score {found.score:.2f}"
        captions.append(f"{number}: {said}")
    return contact_sheet(pictures, captions=captions, title=sentence)


def contact_sheet(
    pictures: Sequence[Image.Image],
    columns: int = 2,
    captions: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """Several pictures on one white sheet, row by row.

    Args:
        pictures: of any sizes.
        columns: how many in a row.
        captions: a line below each picture; none at all by default.
        title: a line above all.
    """
    columns = min(columns, len(pictures))
    width = max(picture.width for picture in pictures) + MARGIN
    height = max(picture.height for picture in pictures) + MARGIN + (ROW if captions else 0)
    lines = -(-len(pictures) // columns)
    font = ImageFont.load_default(size=15)
    heading = _wrap(title, font, columns * width - MARGIN)
    top = MARGIN + ROW * len(heading)
    sheet = Image.new("RGB", (columns * width + MARGIN, lines * height + top), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        pen.text((MARGIN, MARGIN // 2 + ROW * number), line, fill="black", font=font)
    for i, picture in enumerate(pictures):
        x, y = MARGIN + (i % columns) * width, top + (i // columns) * height
        sheet.paste(picture, (x, y))
        if captions:
            small = ImageFont.load_default(size=13)
            pen.text((x, y + picture.height + 2), captions[i], fill="black", font=small)
    return sheet


def _painted(
    image: np.ndarray, segments: Sequence[Segment]
) -> tuple[np.ndarray, list[tuple[int, str, tuple[int, int, int] | None]]]:
    """The picture with its masks, and the legend's rows: indent, text, colour."""
    scale = max(1, round(SHORTEST_SIDE / max(min(image.shape[:2]), 1)))
    canvas = _enlarge(image, scale, cv2.INTER_CUBIC)
    rows: list[tuple[int, str, tuple[int, int, int] | None]] = []
    index = 0
    for segment in segments:
        colour = colour_of(index)
        index += 1
        strength = 0.3 if segment.kind == "stuff" else 0.5
        _paint(canvas, _enlarge(segment.mask, scale), colour, strength)
        rows.append((0, f"{segment.label} {segment.score:.2f}", colour))
        if not segment.mask.any():
            rows[-1] = (0, f"{segment.label}: not found", None)
        for part in segment.parts:
            colour = colour_of(index)
            index += 1
            _paint(canvas, _enlarge(part.mask, scale), colour, 0.55)
            rows.append((1, part.label, colour))
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
        pen.text((x if number < len(heading) else x + 18, y), text, fill="black", font=font)
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
