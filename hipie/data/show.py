"""Drawing of a data set; the command is `hipie data show DATASET --output DIR`.

Contact sheets: images with the masks and labels of their objects, stuff and parts, or with
the expressions and the numbers of their target objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data.catalog import Metadata
from PIL import Image

from hipie.data.annotation_view import AnnotationView, read_annotation
from hipie.data.records import sample_evenly
from hipie.result_files import require_replaceable, write_drawing
from hipie.visualizer import contact_sheet, draw_segments

IMAGES_PER_SHEET = 4
MAX_EXPRESSIONS = 12


def draw_annotation(view: AnnotationView, title: str) -> Image.Image:
    """Draw an image with its masks and a legend, and its expressions below.

    Args:
        view: the image and its annotation.
        title: title of the drawing.
    """
    drawn = sample_evenly(view.expressions, MAX_EXPRESSIONS)
    notes = [f'"{entry.text}": {_format_targets(entry.targets)}' for entry in drawn]
    if len(drawn) < len(view.expressions):
        notes.append(f"and {len(view.expressions) - len(drawn)} more expressions")
    return draw_segments(view.image, view.segments, title, scores=False, notes=notes, min_area=0)


def write_sheets(
    records: Sequence[dict[str, Any]],
    metadata: Metadata,
    name: str,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write the contact sheets of a data set.

    Args:
        records: in the checked form.
        metadata: of the data set.
        name: title of the sheets; the files' names begin with its stem.
        output: folder of the files.
        overwrite: replace files that this package did not write.

    Returns:
        The files.

    Raises:
        ValueError, OSError: naming the file that cannot be read or written.
    """
    folder, starts = Path(output), range(0, len(records), IMAGES_PER_SHEET)
    stem = Path(name).stem
    files = [folder / f"{stem}_{number}.png" for number in range(len(starts))]
    images = [(record["file_name"], "image") for record in records]
    for file in files:
        require_replaceable(file, images, overwrite)
    for file, start in zip(files, starts, strict=True):
        drawings = [
            draw_annotation(read_annotation(record, metadata), Path(record["file_name"]).name)
            for record in records[start : start + IMAGES_PER_SHEET]
        ]
        write_drawing(file, contact_sheet(drawings, title=name))
    return files


def _format_targets(targets: Sequence[int]) -> str:
    return ", ".join(str(target + 1) for target in targets) or "no target"
