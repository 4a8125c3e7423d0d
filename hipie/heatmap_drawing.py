"""Drawing of the heatmaps by which the images of a group are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hipie.errors import InputError
from hipie.segmentation import Segmentation
from hipie.visualizer import contact_sheet

CELL_HEIGHT, MAX_CELL_WIDTH = 120, 220
# Opacity of the colours of a heatmap over its image in light grey.
OPACITY = 0.65
MAXIMUM_RADIUS = 4


def draw_heatmaps(results: Sequence[Segmentation], expression: str) -> Image.Image:
    """Draw an image's heatmaps in one row for each image: language, then visual by rank.

    The colours of a heatmap range from its least to its largest value (dark blue to yellow), and a
    ring marks its maximum. Above each row are the values of the language heatmap and of all visual
    ones. An image that fills up a group has the same heatmap again, which is drawn once.

    Args:
        results: those of a group, with `heatmaps`.
        expression: the referring expression, the title.

    Raises:
        ValueError: for a result without heatmaps.
    """
    rows = [_draw_row(number, result) for number, result in enumerate(results, 1)]
    title = contact_sheet([Image.new("RGB", (1, 1), "white")], title=f"Heatmaps: {expression}")
    blocks = [title, *rows]
    sheet = Image.new(
        "RGB", (max(block.width for block in blocks), sum(b.height for b in blocks)), "white"
    )
    y = 0
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return sheet


def draw_heatmap(image: NDArray[Any], heatmap: NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Draw one heatmap over an image.

    Args:
        image: [H, W, 3] uint8 RGB.
        heatmap: [h, w], over the whole image.
        size: (width, height) of the drawing, pixels.
    """
    resized = cv2.resize(heatmap.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    least, largest = float(heatmap.min()), float(heatmap.max())
    scaled = (resized - least) / max(largest - least, np.finfo(np.float32).tiny)
    values = np.clip(scaled * 255, 0, 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    light = 0.5 * grey[..., None] + 127
    drawing = (OPACITY * colours + (1 - OPACITY) * light).astype(np.uint8)
    rows, columns = heatmap.shape
    row, column = np.unravel_index(int(np.argmax(heatmap)), heatmap.shape)
    point = int((column + 0.5) * size[0] / columns), int((row + 0.5) * size[1] / rows)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.circle(drawing, point, MAXIMUM_RADIUS, colour, width, cv2.LINE_AA)
    return Image.fromarray(drawing)


def _draw_row(number: int, result: Segmentation) -> Image.Image:
    """Image, language heatmap and visual heatmaps of one result."""
    heatmaps = result.heatmaps
    if heatmaps is None:
        raise InputError("a result without heatmaps; request them with refer_group(heatmaps=True)")
    height, width = result.image.shape[:2]
    factor = min(CELL_HEIGHT / height, MAX_CELL_WIDTH / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    cells = [Image.fromarray(cv2.resize(result.image, size, interpolation=cv2.INTER_AREA))]
    captions = [f"image {number}"]
    named = {"language": heatmaps.language}
    for rank, heatmap in enumerate(heatmaps.visual):
        source = heatmaps.sources[rank] if heatmaps.sources else None
        if source is not None and source in heatmaps.sources[:rank]:
            continue
        named[f"rank {rank + 1}" + ("" if source is None else f": image {source + 1}")] = heatmap
    for caption, heatmap in named.items():
        cells.append(draw_heatmap(result.image, heatmap, size))
        captions.append(caption)
    ranges = [f"language {_range(heatmaps.language)}"]
    if len(heatmaps.visual):
        ranges.append(f"visual {_range(heatmaps.visual)}")
    name = Path(result.file_name).name or f"image {number}"
    return contact_sheet(cells, captions, title=f"{name}: {', '.join(ranges)}")


def _range(heatmaps: NDArray[Any]) -> str:
    return f"{heatmaps.min():.2f} to {heatmaps.max():.2f}"
