"""A class a pixel: PNG files with a palette."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.formats.label_ids import segment_map
from hipie.batch_inference.records import ImageRecord
from hipie.result_files import replace_file, write_drawing

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder, RunFolder

FOLDER = "label_maps"
CLASSES = f"{FOLDER}/classes.txt"
# Classes that a palette has room for, beside 0.
MAX_PALETTE = 255


@register_format("label-map")
class LabelMapFormat(ResultFormat):
    """`label_maps/NAME.png`: 0 for no class, else the position of a line of `classes.txt`.

    Where segments overlap, the one with the higher score keeps the pixel. Files have a palette, or
    16 bits without one if a class has a number above 255.
    """

    run_files = (FOLDER, CLASSES)
    is_recognised = True

    def files(self, name: str) -> tuple[str, ...]:
        """Return the PNG of an image."""
        return (f"{FOLDER}/{name}.png",)

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:
        """Write the PNG."""
        numbers, visible = segment_map(record)
        ids = folder.category_ids()
        values = np.zeros(len(record.segments) + 1, np.uint16)
        for one in visible:
            values[one.number] = ids[one.segment.label]
        labels = values[numbers]
        if labels.max(initial=0) > MAX_PALETTE:
            image = Image.fromarray(labels)
        else:
            image = Image.fromarray(labels.astype(np.uint8), "L")
            image.putpalette(_palette())
        write_drawing(folder.path / FOLDER / f"{record.name}.png", image)

    def finish(self, folder: RunFolder) -> None:
        """Write the names of the classes, one a line, from 1."""
        names = [" ".join(name.split()) for name in folder.category_ids()]
        text = "".join(f"{name}\n" for name in names)
        replace_file(folder.path / CLASSES, lambda file: file.write(text.encode()))


def _palette() -> list[int]:
    """Return 256 colours as bytes: black, then hues in steps of the golden ratio."""
    colours = [(0.0, 0.0, 0.0)]
    for number in range(MAX_PALETTE):
        colours.append(colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1 - number % 3 * 0.2))
    return [round(255 * channel) for colour in colours for channel in colour]
